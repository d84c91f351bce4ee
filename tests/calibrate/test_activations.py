"""What rounded activations cost: the rounding itself, the formula, and the prediction against a model that really rounds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ramp_edge
from ramp_edge.calibrate.activations import activation_kl, mean_per_token, rounding_errors
from ramp_edge.calibrate.fisher import FisherSamples, fisher_pass
from ramp_edge.calibrate.moments import moments_pass
from ramp_edge.calibrate.store import CalibrationSettings, CalibrationStore
from ramp_edge.events import EventBus

EMBEDDED = Path(ramp_edge.__file__).parent / "data" / "ramp-edge-default-f16.gguf"


def test_rounding_is_to_127_steps_of_the_blocks_largest_value() -> None:
    x = np.random.default_rng(0).standard_normal((3, 5, 64)).astype(np.float32)
    blocks = x.reshape(-1, 32)
    step = np.abs(blocks).max(axis=1, keepdims=True) / 127
    expected = (blocks - np.rint(blocks / step) * step).reshape(x.shape)
    np.testing.assert_allclose(rounding_errors(torch.from_numpy(x), 32).numpy(), expected, atol=1e-6)


def test_blocks_of_zeros_lose_nothing() -> None:
    assert not rounding_errors(torch.zeros(2, 32), 32).any()


def test_an_outlier_makes_all_that_share_its_scale_coarse() -> None:
    x = torch.randn(64, 256, generator=torch.Generator().manual_seed(1))
    x[:, 7] = 100.0
    v = torch.ones_like(x)
    kl = activation_kl(x, v)
    assert kl[256] > 5 * kl[32]  # measured: 7.7; one block in eight holds the outlier


def test_the_sum_is_half_the_squared_products() -> None:
    x, v = torch.randn(4, 32), torch.randn(4, 32)
    kl = activation_kl(x, v)
    assert list(kl) == [32]  # 256 does not divide the row
    assert kl[32] == pytest.approx(0.5 * float((rounding_errors(x, 32) * v).square().sum()), rel=1e-5)
    assert mean_per_token([kl, {32: 1.0}], 8) == {32: (kl[32] + 1.0) / 8}


def test_the_prediction_is_the_divergence_of_a_model_that_rounds(
    decoders: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Round the input of one linear layer after the other in the forward pass, and compare logits."""
    model = decoders.open(EMBEDDED)
    tokens = decoders.tokens(model, 8, 64)
    settings = CalibrationSettings(n_sequences=8, sequence_tokens=64, fisher_sequences=8, fisher_tokens=64)
    store = CalibrationStore(tmp_path)
    found: dict[str, FisherSamples] = {}

    def consume(samples: Any) -> None:
        if isinstance(samples, FisherSamples):
            found[samples.name] = samples

    moments_pass(model, tokens, settings, store, EventBus())
    fisher_pass(model, tokens, settings, store, lambda t: np.arange(8), consume, EventBus())
    from torch.nn import functional

    from ramp_edge.calibrate import decoder

    linear, target = functional.linear, {"weight": None, "block": 0}
    reference = model.logits(tokens).log_softmax(-1)

    def rounding_linear(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        if target["weight"] is not None and weight.shape == target["weight"].shape and weight.equal(target["weight"]):
            x = x - rounding_errors(x, int(target["block"] or 32))
        return linear(x, weight)

    monkeypatch.setattr(decoder.F, "linear", rounding_linear)
    ratios = []
    for name in ("blk.1.attn_output.weight", "blk.2.ffn_down.weight", "blk.4.ffn_up.weight"):
        for block in (32, 256):
            target["weight"], target["block"] = model.as_tensor(name, model.dtype), block
            rounded = model.logits(tokens).log_softmax(-1)
            measured = float((reference.exp() * (reference - rounded)).sum(-1).mean())
            ratios.append(found[name].activation_kl[block] / measured)
    assert all(0.8 < ratio < 1.25 for ratio in ratios), ratios  # measured: 0.93 to 1.01
