"""What rounding each tensor to 4 bits does to its own block's output, and all of them together to the predictions: forward passes only.

No gradient reaches from a tensor to the KL here. Instead each linear layer's error E x is added to its output, the block runs on to its
end, and the relative change of the residual stream is noted: softmax, gates and norms on the way are all taken as they are. Blocks hand
such noise on almost unchanged, so one further pass with every tensor rounded says what a unit of it costs in KL. A few
hundred tokens are enough; the pass costs about a tenth of the moments.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ramp_edge.calibrate.decoder import LINEAR_PARTS, DecoderModel, Layer
from ramp_edge.calibrate.store import CalibrationStore
from ramp_edge.events import EventBus

NOISE_SEQUENCES, NOISE_TOKENS = 4, 128
_BLOCK_COLS = 32
_LEVELS = 8
_STRIP_ROWS = 8192
_TINY = 1e-30


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundingNoise:
    """Effects of plain 4-bit rounding, with nothing handed on and no importance."""

    blocks: Mapping[str, float]
    """Linear layer -> change of the residual stream after its block, squared and relative, mean over tokens."""
    embedding: float
    """The same of the embedding's output: its rows' own relative error."""
    head_kl: float
    """KL per token of rounding the output matrix."""
    kl_per_noise: float
    """KL per token over the blocks' summed noise, from a pass with every linear layer's error at half its size."""


def rounding_error(weight: Tensor) -> Tensor:
    """round(W) - W, float32: symmetric, 16 levels, one scale for 32 columns (for the whole row where they do not divide it)."""
    values = weight.float()
    size = _BLOCK_COLS if values.shape[-1] % _BLOCK_COLS == 0 else values.shape[-1]
    blocks = values.reshape(*values.shape[:-1], -1, size)
    step = (blocks.abs().amax(-1, keepdim=True) / _LEVELS).clamp_min(_TINY)
    return ((blocks / step).round().clamp(-_LEVELS, _LEVELS - 1) * step - blocks).reshape(values.shape)


def _change(out: Tensor, base: Tensor) -> float:
    """Mean over tokens of |out - base|^2 / |base|^2, so that no token counts more for being loud."""
    return float(((out - base).square().sum(-1) / base.square().sum(-1).clamp_min(_TINY)).mean())


def _block_noise(layer: Layer, hidden: Tensor, errors: Mapping[str, Tensor]) -> dict[str, float]:
    base = layer.forward(hidden)
    found = {}
    for wanted, error in errors.items():

        def add(name: str, x: Tensor, y: Tensor, wanted: str = wanted, error: Tensor = error) -> None:
            if name == wanted:
                y.add_(F.linear(x, error))

        found[wanted] = _change(layer.forward(hidden, add), base)
    return found


def _kl(base: Tensor, other: Tensor) -> Tensor:
    """KL per token of logits [n_tokens, vocab], summed over tokens."""
    p, q = torch.log_softmax(base, -1), torch.log_softmax(other, -1)
    return (p.exp() * (p - q)).sum()


@torch.no_grad()
def noise_pass(model: DecoderModel, store: CalibrationStore, events: EventBus) -> RoundingNoise:
    """Needs `moments_pass` on the same store: blocks run from their stored inputs."""
    inventory = model.inventory
    n_layer = inventory.hyper.n_layer

    def stored(index: int) -> Tensor:
        return store.load_hidden(f"input.{index}")[:NOISE_SEQUENCES, :NOISE_TOKENS]

    start = noisy = stored(0)
    blocks: dict[str, float] = {}
    with events.stage("noise", total=n_layer + 1, unit="layers") as stage:
        for index in range(n_layer):
            layer = model.layer(index)
            names = [f"blk.{index}.{part}.weight" for part in LINEAR_PARTS]
            errors = {name: rounding_error(layer.weight(name)).to(model.dtype) for name in names}
            blocks |= _block_noise(layer, stored(index), errors)

            def add_all(name: str, x: Tensor, y: Tensor, errors: Mapping[str, Tensor] = errors) -> None:
                # Half the error: a quarter of the noise stays where KL is still proportional to it.
                y.add_(F.linear(x, errors[name]), alpha=0.5)

            noisy = layer.forward(noisy, add_all)
            stage.advance()
        clean = stored(n_layer)
        all_kl, head_kl = _head(model, clean, noisy)
        stage.advance()
    return RoundingNoise(
        blocks=blocks,
        embedding=_change(start + rounding_error(start), start),
        head_kl=head_kl,
        kl_per_noise=all_kl / max(0.25 * sum(blocks.values()), _TINY),
    )


def _head(model: DecoderModel, clean: Tensor, noisy: Tensor) -> tuple[float, float]:
    """(KL of the noisy hidden states, KL of a rounded output matrix), per token."""
    weight = model.head()
    error = torch.cat([rounding_error(strip).to(weight.dtype) for strip in torch.split(weight, _STRIP_ROWS)])
    states = model.final_norm(clean).flatten(0, 1).to(weight.dtype)
    disturbed = model.final_norm(noisy).flatten(0, 1).to(weight.dtype)
    sums = torch.zeros(2, dtype=torch.float64)
    for a, b in zip(torch.split(states, 128), torch.split(disturbed, 128), strict=True):
        base = F.linear(a, weight).float()
        sums[0] += _kl(base, F.linear(b, weight).float())
        sums[1] += _kl(base, base + F.linear(a, error).float())
    all_kl, head_kl = (float(v) / len(states) for v in sums)
    return all_kl, head_kl
