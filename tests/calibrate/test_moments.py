"""Second moments against a plain forward pass written apart, and passes that were stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from ramp_edge.calibrate import moments as moments_module
from ramp_edge.calibrate.decoder import DecoderModel
from ramp_edge.calibrate.moments import moments_pass
from ramp_edge.calibrate.store import CalibrationSettings, CalibrationStore
from ramp_edge.errors import CalibrationError
from ramp_edge.events import Event, EventBus, StageAdvanced

Tokens = npt.NDArray[np.int32]
SETTINGS = CalibrationSettings(n_sequences=5, sequence_tokens=24, fisher_sequences=3, fisher_tokens=16)


class PlainLlama:
    """The textbook decoder: complex rotations, explicit softmax, float64. Keeps every linear layer's input."""

    def __init__(self, model: DecoderModel) -> None:
        self.hyper = model.inventory.hyper
        self.weights = {t.name: model.as_tensor(t.name, torch.float64) for t in model.inventory.tensors}
        self.inputs: dict[str, torch.Tensor] = {}

    def linear(self, name: str, x: torch.Tensor) -> torch.Tensor:
        self.inputs[name] = x
        return x @ self.weights[f"{name}.weight"].T

    def norm(self, name: str, x: torch.Tensor) -> torch.Tensor:
        scale = (x.square().mean(-1, keepdim=True) + self.hyper.norm_eps).rsqrt()
        return x * scale * self.weights[f"{name}.weight"].flatten()

    def rotate(self, x: torch.Tensor) -> torch.Tensor:
        """[seq, time, head, dim]: neighbouring pairs are complex numbers that turn with the position."""
        dim, time = x.shape[-1], x.shape[1]
        speed = self.hyper.rope_base ** (-torch.arange(0, dim, 2).double() / dim)
        turn = torch.polar(torch.ones(time, dim // 2).double(), torch.outer(torch.arange(time).double(), speed))
        return torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2))) * turn[:, None]).flatten(-2)

    def attention(self, block: str, x: torch.Tensor) -> torch.Tensor:
        heads, kv_heads, dim = self.hyper.n_head, self.hyper.n_head_kv, self.hyper.head_dim_k
        q = self.rotate(self.linear(f"{block}.attn_q", x).unflatten(-1, (heads, dim)))
        k = self.rotate(self.linear(f"{block}.attn_k", x).unflatten(-1, (kv_heads, dim)))
        v = self.linear(f"{block}.attn_v", x).unflatten(-1, (kv_heads, dim))
        future = torch.ones(x.shape[1], x.shape[1]).triu(1).bool()
        parts = []
        for head in range(heads):
            shared = head * kv_heads // heads
            scores = q[:, :, head] @ k[:, :, shared].transpose(1, 2) / dim**0.5
            parts.append(scores.masked_fill(future, -torch.inf).softmax(-1) @ v[:, :, shared])
        return self.linear(f"{block}.attn_output", torch.cat(parts, -1))

    def run(self, tokens: Tokens) -> dict[str, torch.Tensor]:
        """Inputs [seq, time, n_cols] by layer; `head` is the output matrix's."""
        x = self.weights["token_embd.weight"][torch.from_numpy(tokens).long()]
        for index in range(self.hyper.n_layer):
            block = f"blk.{index}"
            x = x + self.attention(block, self.norm(f"{block}.attn_norm", x))
            h = self.norm(f"{block}.ffn_norm", x)
            gate, up = self.linear(f"{block}.ffn_gate", h), self.linear(f"{block}.ffn_up", h)
            x = x + self.linear(f"{block}.ffn_down", gate * gate.sigmoid() * up)
        self.inputs["head"] = self.norm("output_norm", x)
        return self.inputs


SITES = {
    "attn_in": ("attn_q", "attn_k", "attn_v"),
    "attn_out": ("attn_output",),
    "ffn_in": ("ffn_gate", "ffn_up"),
    "ffn_down": ("ffn_down",),
}


@pytest.mark.parametrize("round_bytes", [400_000_000, 1], ids=["one round", "a round a batch"])
def test_moments_are_those_of_a_plain_forward_pass(
    tiny_gguf: Path, tmp_path: Path, decoders: Any, monkeypatch: pytest.MonkeyPatch, round_bytes: int
) -> None:
    monkeypatch.setattr(moments_module, "ROUND_BYTES", round_bytes)
    monkeypatch.setattr(moments_module, "BATCH_TOKENS", 48)
    model = decoders.open(tiny_gguf)
    tokens = decoders.tokens(model, 5, 24)
    store = CalibrationStore(tmp_path)
    moments_pass(model, tokens, SETTINGS, store, EventBus())
    inputs = PlainLlama(model).run(tokens)
    wanted = {"head": inputs["head"]}
    for index in range(model.inventory.hyper.n_layer):
        for site, names in SITES.items():
            for name in names:
                wanted[f"blk.{index}.{site}"] = inputs[f"blk.{index}.{name}"]
    for site, x in wanted.items():
        truth = torch.einsum("sti,stj->ij", x, x) / tokens.size
        error = (torch.from_numpy(store.moments(site)).double() - truth).norm() / truth.norm()
        assert float(error) < 1e-5, site  # measured MOMENTS_MEASURED
    assert {p.name for p in tmp_path.glob("*.moments.npy")} == {f"{site}.moments.npy" for site in wanted}
    # The Fisher pass's sequences only, and only their leading tokens.
    assert store.load_hidden("input.0").shape == (3, 16, 256)


class Stop(Exception):
    """Stands for a user's interruption."""


def stop_after(layers: int) -> EventBus:
    def listen(event: Event) -> None:
        if isinstance(event, StageAdvanced) and event.name == "moments" and event.done == layers:
            raise Stop

    return EventBus(listeners=[listen])


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("layers", [1, 3, 4, 5])
def test_a_stopped_pass_ends_as_an_unbroken_one(
    make_tiny_gguf: Any, tmp_path: Path, decoders: Any, monkeypatch: pytest.MonkeyPatch, layers: int
) -> None:
    monkeypatch.setattr(moments_module, "CHECKPOINT_LAYERS", 2)
    model = decoders.open(make_tiny_gguf(tmp_path / "deep.gguf", n_layer=5))
    tokens = decoders.tokens(model, 5, 24)
    whole, broken = CalibrationStore(tmp_path / "whole"), CalibrationStore(tmp_path / "broken")
    moments_pass(model, tokens, SETTINGS, whole, EventBus())
    with pytest.raises(Stop):
        moments_pass(model, tokens, SETTINGS, broken, stop_after(layers))
    assert not broken.has("head.moments")
    loaded: list[int] = []
    monkeypatch.setattr(model, "layer", lambda index: (loaded.append(index), DecoderModel.layer(model, index))[1])
    seen: list[Event] = []
    moments_pass(model, tokens, SETTINGS, broken, EventBus(listeners=[seen.append]))
    assert loaded == list(range(layers // 2 * 2, 5)), "finished layers were computed again"
    assert [e.done for e in seen if isinstance(e, StageAdvanced)][-1] == 6
    assert files(broken.folder) == files(whole.folder)
    assert not list(broken.folder.glob("progress.*"))


def test_a_finished_pass_is_not_run_again(tiny_gguf: Path, tmp_path: Path, decoders: Any) -> None:
    model = decoders.open(tiny_gguf)
    tokens = decoders.tokens(model, 2, 8)
    store = CalibrationStore(tmp_path)
    moments_pass(model, tokens, SETTINGS, store, EventBus())
    before = files(tmp_path)
    seen: list[Event] = []
    moments_pass(model, tokens, SETTINGS, store, EventBus(listeners=[seen.append]))
    assert not seen
    assert files(tmp_path) == before


@pytest.mark.parametrize("lost", ["input.0", "input.2", "blk.1.ffn_in.moments", "head.moments"])
def test_a_finished_pass_that_lost_a_file_makes_it_again(
    tiny_gguf: Path, tmp_path: Path, decoders: Any, lost: str
) -> None:
    model = decoders.open(tiny_gguf)
    tokens = decoders.tokens(model, 2, 8)
    store = CalibrationStore(tmp_path)
    moments_pass(model, tokens, SETTINGS, store, EventBus())
    before = files(tmp_path)
    store.drop(lost)
    moments_pass(model, tokens, SETTINGS, store, EventBus())
    assert files(tmp_path) == before


def test_values_that_overflow_name_the_block(make_tiny_gguf: Any, tmp_path: Path, decoders: Any) -> None:
    def edit(weights: dict[str, npt.NDArray[np.float32]]) -> None:
        weights["blk.1.ffn_down.weight"][:] = 3e38

    model = decoders.open(make_tiny_gguf(tmp_path / "loud.gguf", dtype="f32", edit=edit))
    with pytest.raises(CalibrationError, match=r"block 1 of loud\.gguf"):
        moments_pass(model, decoders.tokens(model, 2, 8), SETTINGS, CalibrationStore(tmp_path / "store"), EventBus())


def test_held_out_sequences_are_kept_apart(tiny_gguf: Path, tmp_path: Path, decoders: Any) -> None:
    """Moments are those of the other sequences alone; the inputs of the held-out ones are stored as they were."""
    model = decoders.open(tiny_gguf)
    tokens = decoders.tokens(model, 5, 24)
    apart = CalibrationSettings(
        n_sequences=5, sequence_tokens=24, fisher_sequences=2, fisher_tokens=16, held_out_sequences=2
    )
    few = CalibrationSettings(n_sequences=3, sequence_tokens=24, fisher_sequences=2, fisher_tokens=16)
    last = CalibrationSettings(n_sequences=2, sequence_tokens=24, fisher_sequences=2, fisher_tokens=16)
    stores = {}
    for name, part, settings in (("apart", tokens, apart), ("few", tokens[:3], few), ("last", tokens[3:], last)):
        stores[name] = CalibrationStore(tmp_path / name)
        moments_pass(model, part, settings, stores[name], EventBus())
    for site in ("blk.0.attn_in", "blk.1.ffn_down", "blk.1.attn_out", "head"):
        found, truth = stores["apart"].moments(site), stores["few"].moments(site)
        assert np.abs(found - truth).max() < 1e-4 * np.abs(truth).max(), site
        inputs = stores["apart"].held_out(site)
        assert inputs.shape == (2 * 24, truth.shape[0])
        theirs = stores["last"].moments(site)
        # Stored as bfloat16: 8 bits.
        assert np.abs(inputs.T @ inputs / len(inputs) - theirs).max() < 2e-2 * np.abs(theirs).max(), site
    # A file of the held-out inputs that is gone is computed again.
    stores["apart"].drop("blk.1.ffn_in.held_out")
    moments_pass(model, tokens, apart, stores["apart"], EventBus())
    assert stores["apart"].has("blk.1.ffn_in.held_out")
