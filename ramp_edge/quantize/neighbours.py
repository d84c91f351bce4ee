"""Scales near those that ggml's codec chose: what error feedback may pick from, group by group.

The codec fits its scales to rounding each weight on its own. With feedback other scales are often better, so each group is
rounded with a few neighbours of the codec's choice and keeps the cheapest.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ramp_edge.codec.layouts import Float32, Int32, Layout, Scales, to_float16


@dataclass(frozen=True, kw_only=True, slots=True)
class Search:
    """How far error feedback looks for better scales and codes."""

    span: float
    """d is varied by this share up and down (32-column types without a minimum)"""
    d_steps: int
    """in this many steps."""
    ends: int
    """With a minimum, both ends of a block's range move inwards and outwards by half of `span` in this many steps."""
    sub_d_reach: int
    """256-column types: sub_d is varied by this much up and down,"""
    sub_d_reach_with_m: int
    sub_m_reach: int
    """and where there is a minimum by these, in every combination."""
    sweeps: int
    """Rounds of descent over a row; a row stops earlier where nothing moves any more."""


THOROUGH = Search(span=0.3, d_steps=15, ends=9, sub_d_reach=12, sub_d_reach_with_m=4, sub_m_reach=2, sweeps=16)
QUICK = Search(span=0.2, d_steps=7, ends=3, sub_d_reach=6, sub_d_reach_with_m=2, sub_m_reach=1, sweeps=3)


@dataclass(frozen=True, kw_only=True, slots=True)
class Neighbours:
    """Candidate scales of n blocks; candidate 0 is the codec's own."""

    steps: Float32
    """[n, n_groups, n_candidates]"""
    offsets: Float32
    """[n, n_groups, n_candidates]"""
    _d: Float32
    """[n, n_candidates] (32-column types) or [n]"""
    _m: Float32 | None
    _sub_d: Int32 | None
    """[n, n_groups, n_candidates]"""
    _sub_m: Int32 | None

    def picked(self, picks: Int32) -> Scales:
        """The scales of picks [n, n_groups]."""
        if self._sub_d is None:
            m = None if self._m is None else np.take_along_axis(self._m, picks, 1)[:, 0]
            return Scales(d=np.take_along_axis(self._d, picks, 1)[:, 0], m=m)
        sub_m = None if self._sub_m is None else _pick(self._sub_m, picks)
        return Scales(d=self._d, m=self._m, sub_d=_pick(self._sub_d, picks), sub_m=sub_m)


def _pick(values: Int32, picks: Int32) -> Int32:
    return np.take_along_axis(values, picks[:, :, None], 2)[:, :, 0]


def neighbours(layout: Layout, scales: Scales, search: Search = THOROUGH) -> Neighbours:
    """Candidates around `scales`."""
    if scales.sub_d is not None:
        return _of_sub_scales(layout, scales, search)
    if scales.m is not None:
        d, m = _ends(scales.d, scales.m, len(layout.levels) - 1, search)
        return Neighbours(steps=d[:, None], offsets=m[:, None], _d=d, _m=m, _sub_d=None, _sub_m=None)
    factors = np.concatenate([[1.0], np.linspace(1 - search.span, 1 + search.span, search.d_steps)]).astype(np.float32)
    d = to_float16(scales.d[:, None] * factors)
    return Neighbours(steps=d[:, None], offsets=np.zeros_like(d)[:, None], _d=d, _m=None, _sub_d=None, _sub_m=None)


def _ends(d: Float32, m: Float32, top: int, search: Search) -> tuple[Float32, Float32]:
    """Move the lowest and the highest value of each block by shares of the range: d, m [n] -> [n, 1 + ends^2] each."""
    shares = np.linspace(-search.span / 2, search.span / 2, search.ends, dtype=np.float32)
    low, high = (grid.ravel() for grid in np.meshgrid(shares, shares, indexing="ij"))
    span = d[:, None] * np.float32(top)
    moved_m = to_float16(m[:, None] + span * low)
    moved_d = to_float16((m[:, None] + span * (1 + high) - moved_m) / np.float32(top))
    return np.concatenate([d[:, None], moved_d], axis=1), np.concatenate([m[:, None], moved_m], axis=1)


def _of_sub_scales(layout: Layout, scales: Scales, search: Search) -> Neighbours:
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
        return Neighbours(
            steps=steps, offsets=np.zeros_like(steps), _d=scales.d, _m=scales.m, _sub_d=sub_d, _sub_m=None
        )
    sub_m = np.clip(scales.sub_m[:, :, None] + shifts_m, 0, layout.sub_m_max)
    offsets = -scales.m[:, None, None] * sub_m.astype(np.float32)
    return Neighbours(steps=steps, offsets=offsets, _d=scales.d, _m=scales.m, _sub_d=sub_d, _sub_m=sub_m)


def _around(reach: int) -> npt.NDArray[np.int32]:
    """0, 1, -1, 2, -2, ..."""
    return np.array([0] + [s * k for k in range(1, reach + 1) for s in (1, -1)], dtype=np.int32)
