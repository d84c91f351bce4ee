"""The order of channels: always a permutation, never dearer by its own model, and cheaper with the real codec."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ramp_edge.codec.types import QuantType
from ramp_edge.fold.judge import moment_errors
from ramp_edge.fold.ordering import BLOCK_COLS, OrderView, search_order
from ramp_edge.quantize.feedback import quantize_rows
from ramp_edge.quantize.hessian import feedback_factor


def view(rng: np.random.Generator, n_cols: int, kl: float = 1.0, n_rows: int = 24) -> OrderView:
    size = np.exp(0.5 * rng.standard_normal(n_cols))
    return OrderView(
        rows=(rng.standard_normal((n_rows, n_cols)) * size).astype(np.float32),
        row_weights=rng.uniform(0.5, 2, n_rows).astype(np.float32),
        price=np.exp(rng.standard_normal(n_cols)).astype(np.float32),
        kl=kl,
    )


def cost(v: OrderView, order: np.ndarray) -> float:
    """The documented formula, in loops."""
    total = 0.0
    for start in range(0, len(order), BLOCK_COLS):
        columns = order[start : start + BLOCK_COLS]
        for row, weight in zip(v.rows, v.row_weights, strict=True):
            total += (
                weight * float((np.abs(row[columns].astype(np.float64)) ** 8).sum()) ** 0.25 * v.price[columns].sum()
            )
    return total


@given(st.integers(0, 2**31), st.sampled_from([32, 64, 96, 160]), st.integers(1, 3))
@settings(max_examples=25)
def test_an_order_is_a_permutation_and_no_dearer(seed: int, n_cols: int, n_views: int) -> None:
    rng = np.random.default_rng(seed)
    views = [view(rng, n_cols) for _ in range(n_views)]
    order = search_order(views)
    assert sorted(order.tolist()) == list(range(n_cols))
    natural = np.arange(n_cols)
    before = [cost(v, natural) for v in views]
    after = [cost(v, order) / b for v, b in zip(views, before, strict=True)]
    # Every view was brought to the same KL.
    assert np.mean(after) <= 1.0 + 1e-4
    if n_cols > 64 and n_views == 1:
        assert np.mean(after) < 0.95


def test_constant_and_empty_columns_are_no_trouble() -> None:
    rows = np.zeros((4, 64), np.float32)
    rows[:, 3] = 1.0
    flat = OrderView(rows=rows, row_weights=np.ones(4, np.float32), price=np.ones(64, np.float32), kl=1.0)
    assert sorted(search_order([flat]).tolist()) == list(range(64))
    nothing = OrderView(rows=rows * 0, row_weights=np.ones(4, np.float32), price=np.ones(64, np.float32), kl=0.0)
    assert sorted(search_order([nothing]).tolist()) == list(range(64))


def test_the_real_codec_agrees() -> None:
    """Rows that the order has not seen, in two types, under error feedback."""
    rng = np.random.default_rng(0)
    n_cols = 256
    size = np.exp(0.5 * rng.standard_normal(n_cols)).astype(np.float32)
    loud = np.exp(0.6 * rng.standard_normal(n_cols)).astype(np.float32)
    rows = (rng.standard_normal((96, n_cols)) * size).astype(np.float32)
    inputs = (rng.standard_normal((4096, n_cols)) * loud).astype(np.float32)
    moments = inputs.T @ inputs / np.float32(4096)
    price = feedback_factor(moments).price()
    seen = OrderView(rows=rows[:48], row_weights=np.ones(48, np.float32), price=price, kl=1.0)
    order = search_order([seen])
    for quant_type in (QuantType.Q5_0, QuantType.Q4_K):
        errors = []
        for places in (np.arange(n_cols), order):
            placed = np.ascontiguousarray(rows[48:, places])
            there = np.ascontiguousarray(moments[np.ix_(places, places)])
            meaning = quantize_rows(quant_type, placed, feedback_factor(there))[1]
            errors.append(moment_errors(placed - meaning, there).sum())
        assert errors[1] / errors[0] < 0.9  # measured ORDER_MEASURED
