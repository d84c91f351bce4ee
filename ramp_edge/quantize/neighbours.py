"""Scales near those that ggml's codec chose for a 256-column block: what error feedback may pick from, group by group.

The codec fits its scales to rounding each weight on its own. With feedback other scales are often better, so each group is
rounded with a few neighbours of the codec's choice and keeps the cheapest.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ramp_edge.codec.layouts import Float32, Int32, Layout, Scales
from ramp_edge.quantize.search import Search


@dataclass(frozen=True, kw_only=True, slots=True)
class Neighbours:
    """Candidate scales of n blocks; candidate 0 is the codec's own."""

    steps: Float32
    """[n, n_groups, n_candidates]"""
    offsets: Float32
    """[n, n_groups, n_candidates]"""
    _scales: Scales
    _sub_d: Int32
    """[n, n_groups, n_candidates]"""
    _sub_m: Int32 | None

    def picked(self, picks: Int32) -> Scales:
        """The scales of picks [n, n_groups]."""
        sub_m = None if self._sub_m is None else _pick(self._sub_m, picks)
        return Scales(d=self._scales.d, m=self._scales.m, sub_d=_pick(self._sub_d, picks), sub_m=sub_m)


def _pick(values: Int32, picks: Int32) -> Int32:
    return np.take_along_axis(values, picks[:, :, None], 2)[:, :, 0]


def neighbours(layout: Layout, scales: Scales, search: Search) -> Neighbours:
    """Candidates around `scales`, which must have sub-scales."""
    assert scales.sub_d is not None and layout.sub_d_range is not None
    shifts, shifts_m = _around(search.sub_d_reach), np.zeros(1, np.int32)
    if scales.sub_m is not None:
        grid = np.meshgrid(_around(search.sub_d_reach_with_m), _around(search.sub_m_reach), indexing="ij")
        shifts, shifts_m = grid[0].ravel(), grid[1].ravel()
    low, high = layout.sub_d_range
    if high - low > 64:
        shifts = shifts * 2  # int8 sub-scales are finer than a useful change
    sub_d = np.clip(scales.sub_d[:, :, None] + shifts, low, high)
    steps = scales.d[:, None, None] * sub_d.astype(np.float32)
    if scales.sub_m is None or scales.m is None:
        return Neighbours(steps=steps, offsets=np.zeros_like(steps), _scales=scales, _sub_d=sub_d, _sub_m=None)
    sub_m = np.clip(scales.sub_m[:, :, None] + shifts_m, 0, layout.sub_m_max)
    offsets = -scales.m[:, None, None] * sub_m.astype(np.float32)
    return Neighbours(steps=steps, offsets=offsets, _scales=scales, _sub_d=sub_d, _sub_m=sub_m)


def _around(reach: int) -> npt.NDArray[np.int32]:
    """0, 1, -1, 2, -2, ..."""
    return np.array([0] + [s * k for k in range(1, reach + 1) for s in (1, -1)], dtype=np.int32)
