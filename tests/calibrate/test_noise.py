"""The noise pass against models whose weights really hold its errors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ramp_edge.calibrate.decoder import LINEAR_PARTS, DecoderModel
from ramp_edge.calibrate.moments import moments_pass
from ramp_edge.calibrate.noise import RoundingNoise, noise_pass
from ramp_edge.calibrate.store import CalibrationSettings, CalibrationStore, site_of
from ramp_edge.events import EventBus
from ramp_edge.feedback_root import feedback_root
from ramp_edge.plain_rounding import rounding_error

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


def handed_on(model: DecoderModel, store: CalibrationStore, name: str) -> torch.Tensor:
    """The error that the pass gives a matrix."""
    site = site_of(model.inventory.tensor(name), tied=False)
    assert site is not None
    return feedback_root(store.moments(site)).handed_on(rounding_error(model.as_tensor(name, torch.float32)))


def rounded(
    path: Path, model: DecoderModel, store: CalibrationStore, names: list[str], rewrite: Callable[..., Path]
) -> Path:
    """A copy of the model with these errors in its matrices."""
    weights = {n: (model.as_tensor(n, torch.float32) + handed_on(model, store, n)).numpy() for n in names}
    return rewrite(model.inventory.path, path, {}, weights)


def kl(base: torch.Tensor, other: torch.Tensor) -> float:
    p, q = torch.log_softmax(base.double(), -1), torch.log_softmax(other.double(), -1)
    return float((p.exp() * (p - q)).sum(-1).mean())


def test_head_kl_is_that_of_a_model_with_a_rounded_head(
    measured: Any, decoders: Any, rewrite_gguf: Callable[..., Path], tmp_path: Path
) -> None:
    model, tokens, store, noise = measured
    other = decoders.open(rounded(tmp_path / "head.gguf", model, store, ["output.weight"], rewrite_gguf))
    # Stored inputs are bfloat16: measured 0.3 % apart.
    assert noise.kl["output.weight"] == pytest.approx(kl(model.logits(tokens), other.logits(tokens)), rel=0.02)


@pytest.mark.parametrize("layer", [0, 1])
def test_a_block_s_kl_is_that_of_a_model_with_this_block_rounded(
    layer: int, measured: Any, decoders: Any, rewrite_gguf: Callable[..., Path], tmp_path: Path
) -> None:
    model, tokens, store, noise = measured
    names = [f"blk.{layer}.{part}.weight" for part in LINEAR_PARTS]
    other = decoders.open(rounded(tmp_path / "all.gguf", model, store, names, rewrite_gguf))
    expected = kl(model.logits(tokens), other.logits(tokens))
    # Measured 0.1 and 0.4 % apart.
    assert sum(noise.kl[n] for n in names) == pytest.approx(expected, rel=0.03)
    shares = [noise.kl[n] / noise.blocks[n] for n in names]
    np.testing.assert_allclose(shares, shares[0], rtol=1e-6)


def test_an_input_embedding_s_kl_is_that_of_its_rounded_rows(
    measured: Any, decoders: Any, rewrite_gguf: Callable[..., Path], tmp_path: Path
) -> None:
    model, tokens, _, noise = measured
    table = model.as_tensor("token_embd.weight", torch.float32)
    values = {"token_embd.weight": (table + rounding_error(table)).numpy()}
    other = decoders.open(rewrite_gguf(model.inventory.path, tmp_path / "embd.gguf", {}, values))
    expected = kl(model.logits(tokens), other.logits(tokens))
    assert noise.kl["token_embd.weight"] == pytest.approx(expected, rel=0.03)


def test_a_tied_embedding_pays_as_input_and_as_output(make_tiny_gguf: Any, decoders: Any, tmp_path: Path) -> None:
    model = decoders.open(make_tiny_gguf(tmp_path / "tied.gguf", tied=True, dtype="f32"))
    store = CalibrationStore(tmp_path / "store")
    tokens = decoders.tokens(model, 4, 32)
    moments_pass(model, tokens, SETTINGS, store, EventBus())
    noise = noise_pass(model, store, EventBus())
    rows = model.embed(tokens)
    with torch.no_grad():
        hidden = rows + rounding_error(rows)
        for index in range(model.inventory.hyper.n_layer):
            hidden = model.layer(index).forward(hidden)
        as_input = kl(model.logits(tokens), torch.nn.functional.linear(model.final_norm(hidden), model.head()))
    head = model.as_tensor("token_embd.weight", torch.float32)
    h = store.moments("head")
    both = store.moments("tied_forward")
    # One number on the diagonal is what the input side adds.
    ridge = (both - h).diagonal()
    np.testing.assert_allclose(both - h, np.diag(ridge), atol=1e-4 * ridge.max())
    np.testing.assert_allclose(ridge, ridge[0], rtol=1e-3)
    plain = rounding_error(rows).flatten(0, 1).numpy().astype(np.float64)
    with torch.no_grad():
        hidden = rows
        for index in range(model.inventory.hyper.n_layer):
            hidden = model.layer(index).forward(hidden)
        as_output = kl(
            model.logits(tokens), torch.nn.functional.linear(model.final_norm(hidden), head + rounding_error(head))
        )
    out_unit, in_unit = np.einsum("rc,cd,rd->", plain, h, plain), np.square(plain).sum()
    assert ridge[0] == pytest.approx((as_input / in_unit) / (as_output / out_unit), rel=0.03)
    price = feedback_root(both).price()
    expected = as_output * (np.square(plain) @ price).sum() / out_unit
    assert noise.kl["token_embd.weight"] == pytest.approx(expected, rel=0.03)
    # Feedback lowers the sum of both, never below what the input side alone costs plain rounding.
    assert as_input <= noise.kl["token_embd.weight"] <= (as_input + as_output) * 1.01
    assert noise.kl.keys() == {t.name for t in model.inventory.quantizable}


def test_rounded_inputs_are_told_beside_rounded_weights(measured: Any) -> None:
    model, tokens, store, noise = measured
    name = "output.weight"
    with torch.no_grad():
        hidden = model.embed(tokens)
        for index in range(model.inventory.hyper.n_layer):
            hidden = model.layer(index).forward(hidden)
        x = model.final_norm(hidden).flatten(0, 1)
        step = x.reshape(-1, 32).abs().amax(-1, keepdim=True) / 127
        rounded_x = ((x.reshape(-1, 32) / step).round() * step).reshape(x.shape)
        weight = model.as_tensor(name, torch.float32)
        own = (x @ handed_on(model, store, name).T).square().sum()
        expected = float(((rounded_x - x) @ weight.T).square().sum() / own)
    assert noise.inputs[name][32] == pytest.approx(expected, rel=0.1)
    for name, shares in noise.inputs.items():
        width = model.inventory.tensor(name).n_cols
        assert shares.keys() == {block for block in (32, 256) if width % block == 0}
        # 8 bits beside 4: a sixteenth of the step, and no feedback for inputs.
        assert all(0.0 < share < 0.2 for share in shares.values()), name


@pytest.mark.parametrize("name", ["blk.0.attn_k.weight", "blk.0.attn_v.weight", "blk.1.ffn_gate.weight"])
def test_block_noise_is_the_change_of_the_residual_stream(
    name: str, measured: Any, decoders: Any, rewrite_gguf: Callable[..., Path], tmp_path: Path
) -> None:
    model, _, store, noise = measured
    other = decoders.open(rounded(tmp_path / "one.gguf", model, store, [name], rewrite_gguf))
    index = int(name.split(".")[1])
    hidden = store.load_hidden(f"input.{index}")
    with torch.no_grad():
        base, changed = model.layer(index).forward(hidden), other.layer(index).forward(hidden)
    relative = (changed - base).square().sum(-1) / base.square().sum(-1)
    assert noise.blocks[name] == pytest.approx(float(relative.mean()), rel=0.01)
    assert noise.blocks[name] > 0.0


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
