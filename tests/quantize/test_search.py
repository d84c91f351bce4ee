"""The grids of a search: the fit itself comes first, whatever the settings."""

from __future__ import annotations

import numpy as np
import pytest

from ramp_edge.codec.layouts import LAYOUTS
from ramp_edge.codec.types import QuantType
from ramp_edge.quantize.search import QUICK, THOROUGH, Search, fit_trials, scale_moves, sub_scale_shifts


@pytest.mark.parametrize("search", [QUICK, THOROUGH], ids=["quick", "thorough"])
def test_moves_start_with_none_and_are_symmetric(search: Search) -> None:
    for quant_type in (QuantType.Q4_0, QuantType.Q5_1):
        moves = scale_moves(LAYOUTS[quant_type], search)
        np.testing.assert_array_equal(moves[0], [0.0, 0.0])
        np.testing.assert_allclose(moves.sum(axis=0), 0.0, atol=1e-6)
    assert len(scale_moves(LAYOUTS[QuantType.Q4_0], search)) == 1 + search.d_moves
    assert len(scale_moves(LAYOUTS[QuantType.Q5_1], search)) == 1 + search.end_moves**2


def test_without_a_minimum_only_d_moves() -> None:
    assert not scale_moves(LAYOUTS[QuantType.Q8_0], THOROUGH)[:, 1].any()


def test_trials_reach_from_two_steps_inside_to_three_outside() -> None:
    uniform, uneven = (fit_trials(LAYOUTS[t], THOROUGH) for t in (QuantType.Q5_0, QuantType.IQ4_NL))
    assert (uniform[0], uniform[-1]) == (-2.0, 3.0)
    np.testing.assert_allclose(uneven, uniform * 16 / 3)  # 240 in 15 steps, a third of each


@pytest.mark.parametrize("search", [QUICK, THOROUGH], ids=["quick", "thorough"])
def test_shifts_of_sub_scales_start_with_none_and_come_in_every_combination(search: Search) -> None:
    plain, fine, both = (
        sub_scale_shifts(LAYOUTS[t], search) for t in (QuantType.IQ4_XS, QuantType.Q6_K, QuantType.Q4_K)
    )
    for shifts in (plain, fine, both):
        np.testing.assert_array_equal(shifts[0], [0, 0])
        assert len(np.unique(shifts, axis=0)) == len(shifts)
    assert not plain[:, 1].any() and plain[:, 0].max() == search.sub_d_reach
    assert fine[:, 0].max() == 2 * search.sub_d_reach
    assert len(both) == (2 * search.sub_d_reach_with_m + 1) * (2 * search.sub_m_reach + 1)
