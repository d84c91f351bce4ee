"""How far error feedback looks for better scales and codes: the settings, and the grids that follow from them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ramp_edge.codec.layouts import Float32, Int32, Layout


@dataclass(frozen=True, kw_only=True, slots=True)
class Search:
    """Sizes of the search; docs/method.md has what each is worth."""

    trials: int
    """Trial ranges of a fit."""
    d_moves: int
    """32-column types without a minimum: d moves by up to `d_span` of itself, in this many steps."""
    d_span: float
    end_moves: int
    """With a minimum: both ends of the range move by up to `end_span` of it, in this many steps each."""
    end_span: float
    sub_d_reach: int
    """256-column types: sub_d is varied by this much up and down,"""
    sub_d_reach_with_m: int
    sub_m_reach: int
    """and where there is a minimum by these, in every combination."""
    codebook_reach: int
    """Codebook types: the 4-bit scale is varied by this much up and down."""
    sweeps: int
    """Rounds of descent over a row; a row stops earlier where nothing moves any more."""


THOROUGH = Search(
    trials=17,
    d_moves=23,
    d_span=0.1,
    end_moves=9,
    end_span=0.03,
    sub_d_reach=12,
    sub_d_reach_with_m=4,
    sub_m_reach=2,
    codebook_reach=2,
    sweeps=16,
)
QUICK = Search(
    trials=15,
    d_moves=7,
    d_span=0.1,
    end_moves=3,
    end_span=0.03,
    sub_d_reach=6,
    sub_d_reach_with_m=2,
    sub_m_reach=1,
    codebook_reach=1,
    sweeps=3,
)


def fit_trials(layout: Layout, search: Search) -> Float32:
    """How far beyond an end of the levels a block's extreme is put, from two steps inside to three outside: float32 [trials].

    Where levels are uneven a third of their mean distance counts as a step.
    """
    step = 1.0 if layout.uniform else float(np.ptp(layout.levels)) / (len(layout.levels) - 1) / 3
    return (step * np.linspace(-2.0, 3.0, search.trials)).astype(np.float32)


def scale_moves(layout: Layout, search: Search) -> Float32:
    """Candidates around a fitted scale, the fit itself first: float32 [n, 2], (d, unused) or (low end, high end)."""
    if layout.minimum:
        shares = np.linspace(-search.end_span, search.end_span, search.end_moves)
        grid = np.stack(np.meshgrid(shares, shares, indexing="ij"), axis=-1).reshape(-1, 2)
    else:
        grid = np.stack([np.linspace(-search.d_span, search.d_span, search.d_moves), np.zeros(search.d_moves)], axis=-1)
    return np.concatenate([np.zeros((1, 2)), grid]).astype(np.float32)


def sub_scale_shifts(layout: Layout, search: Search) -> Int32:
    """Candidates around fitted sub-scales, the fit itself first: int32 [n, 2], by how much sub_d and sub_m move."""
    assert layout.sub_d_range is not None
    if layout.minimum:
        d, m = np.meshgrid(_around(search.sub_d_reach_with_m), _around(search.sub_m_reach), indexing="ij")
        return np.stack([d, m], axis=-1).reshape(-1, 2).astype(np.int32)
    low, high = layout.sub_d_range
    d = _around(search.sub_d_reach) * (2 if high - low > 64 else 1)  # int8 sub-scales are finer than a useful change
    return np.stack([d, np.zeros_like(d)], axis=-1).astype(np.int32)


def _around(reach: int) -> Int32:
    """0, 1, -1, 2, -2, ..."""
    return np.array([0] + [s * k for k in range(1, reach + 1) for s in (1, -1)], dtype=np.int32)
