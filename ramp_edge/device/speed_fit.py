"""From times of synthetic models to the figures of a profile.

A token's time is taken as bytes x seconds per byte of their type, plus a fixed part, plus parts per layer, per row of the output matrix and per multiply-add
of attention; bytes and layers cost less where all weights stay in the last cache, rows and cached positions' bytes nothing (`profile/speed.py` predicts
with the same formula). Six models of Q8_0, a wide, a deep and a tall one beyond the cache and three within it, two of them with a filled KV cache as well, give
its unknowns; each other type then gives two figures with a wide and a tall model, and one with a model in the cache, where what a kernel computes counts more
than what it reads. Each other type of the KV cache gives one.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ramp_edge.codec.types import QuantType

_FREE_MAC_S = 1e-15
"""A multiply-add of attention that costs less is rounding, on any board."""
Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """Seconds per decoded token of a model whose matrices all have one type."""

    matrix_bytes: int
    n_layer: int
    n_output_rows: int
    seconds: float
    attention_macs: float = 0.0
    """Multiply-adds of all heads with the cached keys and values, in the mean over the tokens that were timed."""
    kv_bytes: float = 0.0
    """What those keys and values take, in the mean as well."""

    def inside(self, cache_bytes: int) -> bool:
        """Whether the cache holds all weights."""
        return self.matrix_bytes <= cache_bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Overheads:
    """Q8_0's part of a profile."""

    seconds_per_byte: float
    seconds_per_byte_in_cache: float
    token_s: float
    layer_s: float
    layer_in_cache_s: float
    output_row_s: float
    attention_mac_s: float
    """With a KV cache of F16."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SpeedFit:
    """What a profile needs."""

    overheads: Overheads
    decode_efficiency: dict[QuantType, float]
    """Bytes per second relative to Q8_0's."""
    decode_efficiency_in_cache: dict[QuantType, float]
    """The same within the cache; empty where nothing was timed there."""
    output_row_s: dict[QuantType, float]
    """Seconds of a row of the output matrix beside its bytes, beyond the cache."""
    attention_mac_s: dict[QuantType, float]
    """Seconds of a multiply-add of attention, by type of the KV cache; empty where none was seen to cost anything."""


def fit_overheads(timings: Sequence[Timing], cache_bytes: int) -> Overheads:
    """The figures, none of them negative, that come nearest to these times of Q8_0 models; bytes always count.

    Without a model larger than the cache, or without one that fits, both figures per layer and per byte are the same.
    """
    in_cache = [t.inside(cache_bytes) for t in timings]
    both = any(in_cache) and not all(in_cache)
    terms = np.array(
        [_terms(t, cache_bytes, apart=both and inside) for t, inside in zip(timings, in_cache, strict=True)]
    )
    # Relative errors: a tenth of a small model's time is as wrong as a tenth of a large one's.
    rows = terms / np.array([t.seconds for t in timings])[:, None]
    # Where nothing tells the two apart, the second columns are empty and nothing is asked of them.
    found = _least_squares(rows, positive=2 if both else 1)
    per_byte_s, per_byte_in_cache_s, token_s, layer_s, layer_in_cache_s, output_row_s, attention_mac_s = map(
        float, found
    )
    return Overheads(
        seconds_per_byte=per_byte_s,
        seconds_per_byte_in_cache=per_byte_in_cache_s if both else per_byte_s,
        token_s=token_s,
        layer_s=layer_s,
        layer_in_cache_s=layer_in_cache_s if both else layer_s,
        output_row_s=output_row_s,
        attention_mac_s=attention_mac_s,
    )


def _terms(timing: Timing, cache_bytes: int, *, apart: bool) -> list[float]:
    """What each unknown is taken times; `apart` where the figures within the cache have columns of their own."""
    read_bytes = _read_bytes(timing, cache_bytes)
    return [
        read_bytes * (not apart),
        read_bytes * apart,
        1.0,
        timing.n_layer * (not apart),
        timing.n_layer * apart,
        timing.n_output_rows * (not apart),
        timing.attention_macs,
    ]


def _least_squares(rows: Float64, positive: int) -> Float64:
    """x >= 0 with rows @ x nearest to ones, its first `positive` entries above 0. So few unknowns that every set of zeros is tried."""
    first, others = range(positive), range(positive, rows.shape[1])
    best: tuple[float, Float64] | None = None
    for count in range(len(others), -1, -1):
        for chosen in itertools.combinations(others, count):
            used = [*first, *chosen]
            part = np.linalg.lstsq(rows[:, used], np.ones(len(rows)), rcond=None)[0]
            if (part[:positive] <= 0).any() or (part < 0).any():
                continue
            full = np.zeros(rows.shape[1])
            full[used] = part
            error = float(np.square(rows @ full - 1).sum())
            if best is None or error < best[0] - 1e-15:
                best = error, full
    assert best is not None, "bytes alone always fit with positive factors: no row has both"
    return best[1]


def fit_speeds(
    q8_0: Sequence[Timing],
    types: Mapping[QuantType, Timing],
    cache_bytes: int,
    types_in_cache: Mapping[QuantType, Timing] | None = None,
    types_tall: Mapping[QuantType, Timing] | None = None,
    kv_types: Mapping[QuantType, Timing] | None = None,
) -> SpeedFit:
    """The figures of a board from models of Q8_0, one of every other type that no cache holds, and, where given, one that it holds,
    one with many output rows, and one of Q8_0 with a filled KV cache of every type but F16."""
    overheads = fit_overheads(q8_0, cache_bytes)
    inside, tall = types_in_cache or {}, types_tall or {}
    rows = dict.fromkeys(types, 0.0)
    rows |= {kind: _row_seconds(types[kind], timing, overheads, cache_bytes) for kind, timing in tall.items()}
    found = {kind: _efficiency(timing, overheads, cache_bytes, rows[kind]) for kind, timing in types.items()}
    held = {kind: _efficiency(timing, overheads, cache_bytes, 0.0) for kind, timing in inside.items()}
    return SpeedFit(
        overheads=overheads,
        decode_efficiency={QuantType.Q8_0: 1.0, **found},
        decode_efficiency_in_cache={QuantType.Q8_0: 1.0, **held} if held else {},
        output_row_s={QuantType.Q8_0: overheads.output_row_s, **rows},
        attention_mac_s=_attention(overheads, kv_types or {}, cache_bytes),
    )


def _attention(overheads: Overheads, kv_types: Mapping[QuantType, Timing], cache_bytes: int) -> dict[QuantType, float]:
    found = {QuantType.F16: overheads.attention_mac_s}
    for kind, timing in kv_types.items():
        reading_s = _read_bytes(timing, cache_bytes) * _per_byte_s(timing, overheads, cache_bytes)
        rows_s = 0.0 if timing.inside(cache_bytes) else timing.n_output_rows * overheads.output_row_s
        others_s = reading_s + rows_s + _fixed_s(timing, overheads, cache_bytes)
        found[kind] = max(0.0, timing.seconds - others_s) / timing.attention_macs
    return {kind: seconds for kind, seconds in found.items() if seconds > _FREE_MAC_S}


def _read_bytes(timing: Timing, cache_bytes: int) -> float:
    """Of weights, and of those keys and values that the cache does not hold beside them."""
    beyond = timing.matrix_bytes + timing.kv_bytes > cache_bytes
    return timing.matrix_bytes + timing.kv_bytes * beyond


def _per_byte_s(timing: Timing, overheads: Overheads, cache_bytes: int) -> float:
    return overheads.seconds_per_byte_in_cache if timing.inside(cache_bytes) else overheads.seconds_per_byte


def _fixed_s(timing: Timing, overheads: Overheads, cache_bytes: int) -> float:
    """A token's own seconds and its layers'."""
    layer_s = overheads.layer_in_cache_s if timing.inside(cache_bytes) else overheads.layer_s
    return overheads.token_s + timing.n_layer * layer_s


def _reading_s(timing: Timing, overheads: Overheads, cache_bytes: int) -> float:
    """Seconds of a token that are neither its own nor its layers' nor its attention's."""
    kv_s = (_read_bytes(timing, cache_bytes) - timing.matrix_bytes) * _per_byte_s(timing, overheads, cache_bytes)
    others_s = _fixed_s(timing, overheads, cache_bytes) + kv_s + timing.attention_macs * overheads.attention_mac_s
    # Never less than half of the time: a model that small would be timed for nothing.
    return max(timing.seconds - others_s, timing.seconds / 2)


def _row_seconds(wide: Timing, tall: Timing, overheads: Overheads, cache_bytes: int) -> float:
    """What a row costs, where both times are bytes and rows of one type; 0 where rows come for nothing, as in repacked types, and
    where a cache holds the tall model alone."""
    if tall.inside(cache_bytes) != wide.inside(cache_bytes):
        return 0.0
    wide_s, tall_s = (_reading_s(t, overheads, cache_bytes) for t in (wide, tall))
    share = tall.matrix_bytes / wide.matrix_bytes
    more_rows = tall.n_output_rows - share * wide.n_output_rows
    return max(0.0, (tall_s - share * wide_s) / more_rows) if more_rows > 0 else 0.0


def _efficiency(timing: Timing, overheads: Overheads, cache_bytes: int, row_s: float) -> float:
    reading_s = _reading_s(timing, overheads, cache_bytes)
    return (
        _per_byte_s(timing, overheads, cache_bytes)
        * timing.matrix_bytes
        / max(reading_s - timing.n_output_rows * row_s, reading_s / 2)
    )
