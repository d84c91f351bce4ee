"""The noise pass against models whose weights really are rounded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ramp_edge.calibrate.decoder import LINEAR_PARTS, DecoderModel
from ramp_edge.calibrate.moments import moments_pass
from ramp_edge.calibrate.noise import RoundingNoise, noise_pass, rounding_error
from ramp_edge.calibrate.store import CalibrationSettings, CalibrationStore
from ramp_edge.events import EventBus

SETTINGS = CalibrationSettings(n_sequences=4, sequence_tokens=32, fisher_sequences=4, fisher_tokens=32)


@pytest.fixture(scope="module")
def untied(make_tiny_gguf: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = make_tiny_gguf(tmp_path_factory.mktemp("noise") / "untied.gguf", tied=False, dtype="f32")
    return path


@pytest.fixture(scope="module")
def measured(
    untied: Path, decoders: Any, tmp_path_factory: pytest.TempPathFactory
) -> tuple[DecoderModel, Any, CalibrationStore, RoundingNoise]:
    model = decoders.open(untied)
    tokens = decoders.tokens(model, 4, 32)
    store = CalibrationStore(tmp_path_factory.mktemp("store"))
    moments_pass(model, tokens, SETTINGS, store, EventBus())
    return model, tokens, store, noise_pass(model, store, EventBus())


def rounded(path: Path, model: DecoderModel, names: list[str], share: float, rewrite: Callable[..., Path]) -> Path:
    """A copy of the model with `share` of their rounding error added to some matrices."""
    weights = {n: model.as_tensor(n, torch.float32) for n in names}
    return rewrite(
        model.inventory.path, path, {}, {n: (w + share * rounding_error(w)).numpy() for n, w in weights.items()}
    )


def kl(base: torch.Tensor, other: torch.Tensor) -> float:
    p, q = torch.log_softmax(base.double(), -1), torch.log_softmax(other.double(), -1)
    return float((p.exp() * (p - q)).sum(-1).mean())


def test_rounding_has_sixteen_levels_and_leaves_what_is_on_them() -> None:
    weight = torch.randn(8, 96, generator=torch.Generator().manual_seed(0))
    meant = weight + rounding_error(weight)
    assert all(len(np.unique(block)) <= 16 for block in meant.reshape(-1, 32).numpy())
    step = weight.reshape(-1, 32).abs().amax(-1) / 8
    # The largest weight itself has no level where it is positive: its error is a whole step.
    assert bool((rounding_error(weight).reshape(-1, 32).abs().amax(-1) <= step * 1.0001).all())
    grid = torch.arange(-8.0, 8.0).repeat(4, 2)
    assert float(rounding_error(grid).abs().max()) == 0.0
    assert float(rounding_error(torch.zeros(2, 5)).abs().max()) == 0.0


def test_head_kl_is_that_of_a_model_with_a_rounded_head(
    measured: Any, decoders: Any, rewrite_gguf: Callable[..., Path], tmp_path: Path
) -> None:
    model, tokens, _, noise = measured
    other = decoders.open(rounded(tmp_path / "head.gguf", model, ["output.weight"], 1.0, rewrite_gguf))
    # Stored inputs are bfloat16: measured 0.2 % apart.
    assert noise.head_kl == pytest.approx(kl(model.logits(tokens), other.logits(tokens)), rel=0.02)


def test_kl_per_noise_is_that_of_a_model_rounded_by_half(
    measured: Any, decoders: Any, rewrite_gguf: Callable[..., Path], tmp_path: Path
) -> None:
    model, tokens, _, noise = measured
    names = [f"blk.{layer}.{part}.weight" for layer in range(2) for part in LINEAR_PARTS]
    other = decoders.open(rounded(tmp_path / "all.gguf", model, names, 0.5, rewrite_gguf))
    expected = kl(model.logits(tokens), other.logits(tokens))
    assert noise.kl_per_noise * 0.25 * sum(noise.blocks.values()) == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("name", ["blk.0.attn_k.weight", "blk.0.attn_v.weight", "blk.1.ffn_gate.weight"])
def test_block_noise_is_the_change_of_the_residual_stream(
    name: str, measured: Any, decoders: Any, rewrite_gguf: Callable[..., Path], tmp_path: Path
) -> None:
    model, _, store, noise = measured
    other = decoders.open(rounded(tmp_path / "one.gguf", model, [name], 1.0, rewrite_gguf))
    index = int(name.split(".")[1])
    hidden = store.load_hidden(f"input.{index}")
    with torch.no_grad():
        base, changed = model.layer(index).forward(hidden), other.layer(index).forward(hidden)
    relative = (changed - base).square().sum(-1) / base.square().sum(-1)
    assert noise.blocks[name] == pytest.approx(float(relative.mean()), rel=0.01)
    assert noise.blocks[name] > 0.0


def test_the_sum_over_tensors_foresees_all_of_them_rounded(
    measured: Any, decoders: Any, rewrite_gguf: Callable[..., Path], tmp_path: Path
) -> None:
    """Additivity is what lets single tensors be compared: doubling the error of all makes about four times the KL."""
    model, tokens, _, noise = measured
    names = [f"blk.{layer}.{part}.weight" for layer in range(2) for part in LINEAR_PARTS]
    other = decoders.open(rounded(tmp_path / "all.gguf", model, names, 1.0, rewrite_gguf))
    expected = kl(model.logits(tokens), other.logits(tokens))
    assert noise.kl_per_noise * sum(noise.blocks.values()) == pytest.approx(expected, rel=0.25)


def test_weights_on_the_grid_make_no_noise(make_tiny_gguf: Any, decoders: Any, tmp_path: Path) -> None:
    def on_grid(weights: dict[str, Any]) -> None:
        for name in ("blk.0.attn_q.weight", "blk.1.ffn_down.weight"):
            values = torch.from_numpy(weights[name]).half().float()
            step = values.reshape(-1, 32).abs().amax(-1, keepdim=True) / 8
            levels = (values.reshape(-1, 32) / step).round().clamp(-8, 7)
            levels[:, 0] = -8.0
            weights[name][:] = (levels / 64).reshape(values.shape).numpy()

    path = make_tiny_gguf(tmp_path / "grid.gguf", edit=on_grid)
    model = decoders.open(path)
    store = CalibrationStore(tmp_path / "store")
    moments_pass(model, decoders.tokens(model, 4, 32), SETTINGS, store, EventBus())
    noise = noise_pass(model, store, EventBus())
    quiet = {name for name, value in noise.blocks.items() if value == 0.0}
    assert quiet == {"blk.0.attn_q.weight", "blk.1.ffn_down.weight"}
