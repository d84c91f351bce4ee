"""The policy's 11 features of a tensor: what a forward pass and the weights tell of the price of its error (`feature_list.py` defines them).

Logarithms are centred on their mean over the model, weighted by size, because only differences decide where a given number of bytes
goes: the best bits of a tensor are the model's mean plus half the binary logarithm of its relative sensitivity. That makes them independent of a model's
size and of how sharp its predictions are. Depth, kind and stage mean the same in every model as they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ramp_edge.calibrate.decoder import TensorLoader
from ramp_edge.calibrate.feature_list import FEATURES
from ramp_edge.calibrate.noise import RoundingNoise
from ramp_edge.calibrate.store import EMBEDDING_SITE, TIED_FORWARD_SITE, TIED_SITE, CalibrationStore, site_of
from ramp_edge.events import EventBus
from ramp_edge.feedback_root import feedback_root
from ramp_edge.records import ModelInventory, Role, TensorInfo

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
SAMPLED_ROWS = 1024
"""Rows of a matrix that are looked at, evenly strided."""
_TINY = 1e-30
_LEVELS_SQ_12 = 64 * 12
"""A 4-bit step is a block's largest weight / 8, and rounding leaves a twelfth of its square."""


_KINDS_AND_STAGES = {
    Role.ATTN_Q: (-1.0, -1.0),
    Role.ATTN_K: (-1.0, -0.5),
    Role.ATTN_V: (-1.0, 0.25),
    Role.ATTN_OUTPUT: (-1.0, 1.0),
    Role.FFN_GATE: (1.0, -1.0),
    Role.FFN_UP: (1.0, -0.25),
    Role.FFN_DOWN: (1.0, 1.0),
    Role.OUTPUT: (0.0, -1.0),
    Role.TOKEN_EMBD: (0.0, 1.0),
}
_TIED_STAGE = 0.0


def kind_and_stage(role: Role, *, tied: bool) -> tuple[float, float]:
    """A role as two numbers."""
    if role is Role.TOKEN_EMBD and tied:
        return 0.0, _TIED_STAGE
    return _KINDS_AND_STAGES.get(role, (0.0, 0.5))


def log_ratio(numerator: float, denominator: float) -> float:
    """ln(numerator / denominator) of two sums of squares; 0 where either is nothing or beyond all numbers."""
    if not (np.isfinite(numerator) and np.isfinite(denominator)) or numerator <= 0.0 or denominator <= 0.0:
        return 0.0
    return float(np.log(numerator) - np.log(denominator))


@dataclass(frozen=True, kw_only=True, slots=True)
class InputSite:
    """What the features need of the second moments of one input."""

    moments: Float64
    """[n_cols, n_cols], mean diagonal 1"""
    left: Float64
    """[n_cols]: what of each input those that feedback codes after it do not foretell"""


def input_site(moments: Float32 | None, n_cols: int) -> InputSite:
    """Prepare second moments; unknown, empty or broken ones count as independent inputs of equal size."""
    values = np.eye(n_cols) if moments is None else np.asarray(moments, np.float64)
    mean = float(values.diagonal().mean())
    if not np.isfinite(mean) or mean <= 0.0 or not np.isfinite(values).all():
        values, mean = np.eye(n_cols), 1.0
    values = values / mean
    left = feedback_root(values.astype(np.float32)).price().astype(np.float64)
    return InputSite(moments=values, left=left)


def statistics(weights: Float32, site: InputSite) -> tuple[float, ...]:
    """Features 2 to 7 of one matrix [n_rows, n_cols], before centring."""
    w = np.nan_to_num(np.asarray(weights, np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    # Scale-free: the largest weight becomes 1, so that no power of it overflows.
    w = w / max(float(np.abs(w).max(initial=0.0)), _TINY)
    n_rows, n_cols = w.shape
    h = site.moments.diagonal()
    width = 32 if n_cols % 32 == 0 else n_cols
    steps = np.square(np.abs(w.reshape(n_rows, -1, width)).max(-1)).sum(0) / _LEVELS_SQ_12  # [n_blocks]
    square = np.square(w)
    energy = square.sum(1)
    total = float(energy.sum())
    heard = energy > 0.0
    return (
        log_ratio(float(steps @ site.left.reshape(-1, width).sum(1)), float(steps @ h.reshape(-1, width).sum(1))),
        log_ratio(float(h.max()), float(h.mean())),
        log_ratio(float(h.sum()) ** 2, n_cols * float(np.square(site.moments).sum())),
        log_ratio(n_cols * float(np.einsum("rc,rc->", w @ site.moments, w)), total * float(h.sum())),
        log_ratio(float(np.square(square).mean()), float(square.mean()) ** 2),
        float(np.log(energy[heard]).std()) if heard.any() else 0.0,
    )


def centre(raw: Float64, weights: Float64) -> Float32:
    """Values [n_tensors, 11] of one model as the policy sees them; `weights` [n_tensors] are the sizes in weights."""
    share = weights / weights.sum()
    out = np.array(raw, np.float64)
    for column, feature in enumerate(FEATURES):
        if feature.centred:
            out[:, column] = (out[:, column] - share @ out[:, column]) * feature.scale
        out[:, column] = out[:, column].clip(feature.low, feature.high)
    return out.astype(np.float32)


def execution_order(inventory: ModelInventory) -> tuple[TensorInfo, ...]:
    """The quantizable tensors as a token meets them: embedding, blocks, output matrix."""
    rank = {role: place for place, role in enumerate(_KINDS_AND_STAGES)}
    last = inventory.hyper.n_layer

    def key(tensor: TensorInfo) -> tuple[int, int]:
        if tensor.role is Role.TOKEN_EMBD:
            return -1, 0
        return last if tensor.layer is None else tensor.layer, rank.get(tensor.role, len(rank))

    return tuple(sorted(inventory.quantizable, key=key))


def model_features(
    inventory: ModelInventory, load: TensorLoader, store: CalibrationStore, noise: RoundingNoise, events: EventBus
) -> Float32:
    """[n_tensors, 11]: features of every quantizable tensor, in execution order. Needs the moments of every site in `store`."""
    tensors = execution_order(inventory)
    sites: dict[str, InputSite] = {}
    rows = []
    with events.stage("features", total=len(tensors), unit="tensors") as stage:
        for tensor in tensors:
            name = site_of(tensor, tied=inventory.tied_embedding)
            name = TIED_FORWARD_SITE if name == TIED_SITE else name
            known = name is not None and name != EMBEDDING_SITE
            key = name if known and name is not None else f"unknown {tensor.n_cols}"
            if key not in sites:
                sites = {key: input_site(store.moments(key) if known else None, tensor.n_cols)}
            layer = tensor.layer
            depth = (layer + 0.5) / inventory.hyper.n_layer if layer is not None else float(tensor.role is Role.OUTPUT)
            rows.append(
                (
                    log_ratio(noise.kl.get(tensor.name, 0.0), float(tensor.n_elements)),
                    *statistics(_sampled(tensor, load), sites[key]),
                    float(np.log(tensor.n_elements)),
                    depth,
                    *kind_and_stage(tensor.role, tied=inventory.tied_embedding),
                )
            )
            stage.advance()
    sizes = np.array([t.n_elements for t in tensors], np.float64)
    return centre(np.array(rows, np.float64), sizes)


def _sampled(tensor: TensorInfo, load: TensorLoader) -> Float32:
    """At most SAMPLED_ROWS rows, evenly strided; a large table is read in pieces."""
    if tensor.n_rows <= 4 * SAMPLED_ROWS:
        values = load(tensor.name)
        rows = np.linspace(0, len(values) - 1, min(len(values), SAMPLED_ROWS)).round().astype(np.int64)
        return np.ascontiguousarray(values[rows])
    starts = np.linspace(0, tensor.n_rows - 8, SAMPLED_ROWS // 8).round().astype(np.int64)
    return np.concatenate([load(tensor.name, int(at), int(at) + 8) for at in starts])
