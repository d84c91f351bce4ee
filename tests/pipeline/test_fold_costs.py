"""Rows that folds are judged by are none that they were searched on: 96 shared rows once made scales look 7 % better than they were."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ramp_edge.pipeline.fold_costs import JUDGED_ROWS, split_rows


@given(st.integers(2, 5000), st.integers(1, 600), st.integers(0, 1000))
def test_searched_and_judged_rows_are_apart(n_rows: int, n_searched: int, first: int) -> None:
    rows = first + 3 * np.arange(n_rows)
    searched, judged = split_rows(rows, n_searched)
    assert not set(searched.tolist()) & set(judged.tolist())
    for some in (searched, judged):
        assert len(set(some.tolist())) == len(some)
        assert np.isin(some, rows).all()
    assert 1 <= len(judged) <= min(JUDGED_ROWS, max(1, n_rows // 4))
    assert len(searched) == min(n_searched, n_rows - len(judged))


def test_judged_rows_are_spread_over_the_matrix() -> None:
    _, judged = split_rows(np.arange(4096), 512)
    assert len(judged) == JUDGED_ROWS
    assert set(np.diff(judged).tolist()) == {4096 // JUDGED_ROWS}


def test_one_row_stands_for_both() -> None:
    searched, judged = split_rows(np.array([7]), 10)
    assert searched.tolist() == judged.tolist() == [7]
