"""What 4-bit rounding with error feedback of each tensor costs in KL: forward passes only.

No gradient reaches from a tensor to the KL here. Instead each linear layer's error E x is added to its output, E being what feedback makes of
plain rounding; the block runs on to its end, and the relative change of the residual stream is noted: softmax, gates and norms on the way are all
taken as they are. Then, block by block, the errors of all its layers together run on to the predictions through the untouched rest of the model, and
the KL there is shared out by those changes. A few hundred tokens are enough; all disturbed streams pass a block together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from ramp_edge.calibrate.activations import rounding_errors
from ramp_edge.calibrate.decoder import LINEAR_PARTS, DecoderModel, Layer
from ramp_edge.calibrate.store import HEAD_SITE, TIED_FORWARD_SITE, CalibrationStore, site_of
from ramp_edge.codec.activations import ACTIVATION_BLOCKS
from ramp_edge.events import EventBus
from ramp_edge.feedback_root import FeedbackRoot, feedback_root
from ramp_edge.plain_rounding import rounding_error
from ramp_edge.records import TensorInfo

Float32 = npt.NDArray[np.float32]
NOISE_SEQUENCES, NOISE_TOKENS = 4, 128
_STRIP_ROWS = 8192
_HEAD_TOKENS = 128
_TINY = 1e-30


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundingNoise:
    """Effects of 4-bit rounding with error feedback, with no importance."""

    kl: Mapping[str, float]
    """Tensor -> KL per token of rounding it; an embedding's as an input, with the output matrix's where it is that too."""
    blocks: Mapping[str, float]
    """Linear layer -> change of the residual stream after its block, squared and relative, mean over tokens."""
    inputs: Mapping[str, Mapping[int, float]]
    """Linear layer or output matrix -> by activations sharing a scale, what 8-bit rounding of its input changes in its output, squared,
    over what the weights' rounding does."""


def _change(out: Tensor, base: Tensor) -> float:
    """Mean over tokens of |out - base|^2 / |base|^2, so that no token counts more for being loud."""
    return float(((out - base).square().sum(-1) / base.square().sum(-1).clamp_min(_TINY)).mean())


def _disturbed(layer: Layer, hidden: Tensor, errors: Mapping[str, Tensor]) -> Tensor:
    """The block's output with these errors [n_rows, n_cols] in its weights."""

    def add(name: str, x: Tensor, y: Tensor) -> None:
        if name in errors:
            y.add_(F.linear(x, errors[name]))

    return layer.forward(hidden, add)


def _kl(p: Tensor, change: Tensor) -> Tensor:
    """KL per token of logits that differ by `change` where probabilities were `p` [n_tokens, vocab], summed over tokens.

    ln sum p exp(change - mean change): from the changes themselves, since the logits' own rounding is larger than the KL of one block.
    """
    centred = change - (p * change).sum(-1, keepdim=True)
    return (p * centred.expm1()).sum(-1).log1p().sum()


@torch.no_grad()
def noise_pass(model: DecoderModel, store: CalibrationStore, events: EventBus) -> RoundingNoise:
    """Needs `moments_pass` on the same store; leaves the moments of a tied embedding there."""
    inventory = model.inventory
    n_layer = inventory.hyper.n_layer
    clean = store.load_hidden("input.0")[:NOISE_SEQUENCES, :NOISE_TOKENS]
    embedding_error = rounding_error(clean)
    streams = [clean + embedding_error]
    blocks: dict[str, float] = {}
    inputs: dict[str, dict[int, float]] = {}
    with events.stage("noise", total=n_layer + 1, unit="layers") as stage:
        for index in range(n_layer):
            layer = model.layer(index)
            names = [f"blk.{index}.{part}.weight" for part in LINEAR_PARTS]
            errors = _errors(layer, [inventory.tensor(name) for name in names], store)

            def compare(
                name: str, x: Tensor, y: Tensor, layer: Layer = layer, errors: dict[str, Tensor] = errors
            ) -> None:
                inputs[name] = _input_rounding(x, layer.weight(name), errors[name])

            base = layer.forward(clean, compare)
            blocks |= {n: _change(_disturbed(layer, clean, {n: errors[n]}), base) for n in names}
            streams = [*(layer.forward(s) for s in streams), _disturbed(layer, clean, errors)]
            clean = base
            stage.advance()
        stream_kl, head_kl, inputs[model.head_name] = _head(model, clean, streams, store)
        stage.advance()
    per_noise = [
        kl / max(sum(blocks[f"blk.{i}.{part}.weight"] for part in LINEAR_PARTS), _TINY)
        for i, kl in enumerate(stream_kl[1:])
    ]
    kl = {name: noise * per_noise[int(name.split(".")[1])] for name, noise in blocks.items()}
    if inventory.tied_embedding:
        moments, kl[model.head_name] = _tied(
            store.moments(HEAD_SITE), embedding_error.flatten(0, 1), stream_kl[0], head_kl
        )
        store.save(f"{TIED_FORWARD_SITE}.moments", moments)
    else:
        kl |= {"token_embd.weight": stream_kl[0], model.head_name: head_kl}
    return RoundingNoise(kl=kl, blocks=blocks, inputs=inputs)


def _input_rounding(x: Tensor, weight: Tensor, error: Tensor) -> dict[int, float]:
    """Block -> |W round(x) - W x|^2 / |E x|^2 over all tokens; blocks that do not divide the row are left out."""
    own = max(float(F.linear(x, error).float().square().sum()), _TINY)
    return {
        block: float(F.linear(rounding_errors(x, block).to(x.dtype), weight).float().square().sum()) / own
        for block in ACTIVATION_BLOCKS
        if x.shape[-1] % block == 0
    }


def _errors(layer: Layer, tensors: Sequence[TensorInfo], store: CalibrationStore) -> dict[str, Tensor]:
    """Errors [n_rows, n_cols] of a block's matrices; those of one input share its factor."""
    roots: dict[str, FeedbackRoot] = {}
    out = {}
    for tensor in tensors:
        site = site_of(tensor, tied=False)
        assert site is not None, f"{tensor.name} has no input"
        if site not in roots:
            roots[site] = feedback_root(store.moments(site))
        weight = layer.weight(tensor.name)
        out[tensor.name] = roots[site].handed_on(rounding_error(weight)).to(weight.dtype)
    return out


def _tied(moments: Float32, errors: Tensor, as_input: float, as_output: float) -> tuple[Float32, float]:
    """(what an error in a row of a tied embedding costs, in one matrix [n_embd, n_embd]; KL of rounding it with feedback on that matrix).

    Plain rounding's errors e [n_tokens, n_embd] of the text's own rows cost KL as input and as output. As input every direction is taken to
    cost the same; as output the hidden states that the matrix meets decide, H. So a row costs a e H e^T + b |e|^2, a and b from those two.
    """
    h = torch.from_numpy(moments)
    out_unit = float(((errors @ h) * errors).sum(-1).mean())
    in_unit = float(errors.square().sum(-1).mean())
    if min(out_unit, in_unit, as_output, as_input) <= 0.0:
        return moments, as_input + as_output
    a, b = as_output / out_unit, as_input / in_unit
    both = moments + b / a * np.eye(len(moments), dtype=np.float32)
    price = torch.from_numpy(feedback_root(both).price())
    return both, a * float((errors.square() @ price).mean())


def _head(
    model: DecoderModel, clean: Tensor, streams: Sequence[Tensor], store: CalibrationStore
) -> tuple[list[float], float, dict[int, float]]:
    """(KL of each disturbed stream, KL of a rounded output matrix, both per token; its entry of `RoundingNoise.inputs`)."""
    weight = model.head()
    # What feedback does for a tied matrix depends on both its sides: here plain rounding, the rest in `_tied`.
    root = None if model.inventory.tied_embedding else feedback_root(store.moments(HEAD_SITE))
    plain = (rounding_error(strip) for strip in torch.split(weight, _STRIP_ROWS))
    error = torch.cat([(e if root is None else root.handed_on(e)).to(weight.dtype) for e in plain])
    states = model.final_norm(clean).flatten(0, 1)
    changes = [model.final_norm(stream).flatten(0, 1) - states for stream in streams]
    sums = torch.zeros(len(streams) + 1, dtype=torch.float64)
    for at in range(0, len(states), _HEAD_TOKENS):
        here = slice(at, at + _HEAD_TOKENS)
        x = states[here].to(weight.dtype)
        p = torch.softmax(F.linear(x, weight).float(), -1)
        for place, change in enumerate(changes):
            sums[place] += _kl(p, F.linear(change[here].to(weight.dtype), weight).float())
        sums[-1] += _kl(p, F.linear(x, error).float())
    kl = [float(v) / len(states) for v in sums]
    few = states[:: max(1, len(states) // _HEAD_TOKENS)].to(weight.dtype)
    return kl[:-1], kl[-1], _input_rounding(few, weight, error)
