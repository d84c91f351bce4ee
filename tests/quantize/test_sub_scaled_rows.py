"""Whole rows of 256-column types: the compiled loop against a plain one, scales that the bytes can hold, fits as good as the codec's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ramp_edge.codec.ggml import decode, encode
from ramp_edge.codec.layouts import LAYOUTS, Scales
from ramp_edge.codec.types import QuantType
from ramp_edge.quantize.feedback import quantize_rows
from ramp_edge.quantize.hessian import FeedbackFactor, feedback_factor
from ramp_edge.quantize.search import QUICK, THOROUGH, Search, fit_trials, sub_scale_shifts
from ramp_edge.quantize.sub_scaled_rows import round_sub_scaled_rows

SUB_SCALED = [t for t, layout in LAYOUTS.items() if layout.sub_d_range is not None]
N_COLS, ROWS = 512, 10  # a batch of eight rows and a rest


def factor() -> FeedbackFactor:
    rng = np.random.default_rng(4)
    x = rng.standard_normal((1024, N_COLS)) @ (np.eye(N_COLS) + 0.1 * rng.standard_normal((N_COLS, N_COLS)))
    return feedback_factor((x.T @ x / 1024).astype(np.float32))


def rounded(  # type: ignore[no-untyped-def]
    quant_type: QuantType, weights: np.ndarray, of: FeedbackFactor, search: Search
):
    """(codes [n_rows, n_cols], scales of all blocks)"""
    layout = LAYOUTS[quant_type]
    assert layout.sub_d_range is not None
    n_rows = len(weights)
    codes = np.empty(weights.shape, np.uint8)
    d, m = np.zeros((2, n_rows, N_COLS // 256), np.float32)
    sub_d, sub_m = np.zeros((2, n_rows, N_COLS // layout.group_cols), np.int32)
    round_sub_scaled_rows(
        weights.copy(), layout.levels, layout.uniform, layout.nearest_codes, layout.minimum, layout.group_cols,
        *layout.sub_d_range, layout.sub_m_max or 0, fit_trials(layout, search), sub_scale_shifts(layout, search),
        of.root.diagonal().numpy(), of.inverse.numpy(), codes, d, m, sub_d, sub_m,
    )  # fmt: skip
    n_groups = 256 // layout.group_cols
    scales = Scales(d=d.ravel(), sub_d=sub_d.reshape(-1, n_groups))
    if layout.minimum:
        scales = Scales(d=d.ravel(), m=m.ravel(), sub_d=sub_d.reshape(-1, n_groups), sub_m=sub_m.reshape(-1, n_groups))
    return codes, scales


def test_the_sub_scaled_types_are_those_of_256_columns() -> None:
    assert {t.name for t in SUB_SCALED} == {"Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS"}
    assert all(t.block_size == 256 for t in SUB_SCALED)


@pytest.mark.parametrize("quant_type", SUB_SCALED, ids=lambda t: t.name)
def test_codes_and_residuals_follow_from_the_scales(quant_type: QuantType) -> None:
    """Given the scales that were chosen, GPTQ's column loop in plain numpy gives the same codes."""
    layout, of = LAYOUTS[quant_type], factor()
    weights = np.random.default_rng(0).standard_normal((ROWS, N_COLS)).astype(np.float32)
    codes, scales = rounded(quant_type, weights, of, QUICK)
    steps, offsets = (np.repeat(v.reshape(ROWS, -1), layout.group_cols, 1) for v in (scales.steps(), scales.offsets()))
    diagonal, inverse = of.root.diagonal().numpy(), of.inverse.numpy()
    work = weights.astype(np.float64)
    wrong = 0
    for j in range(N_COLS):
        values = steps[:, j, None] * layout.levels + offsets[:, j, None]
        # A step of zero makes all codes equal.
        chosen = values[np.arange(ROWS), codes[:, j]]
        wrong += int((np.abs(values - work[:, j, None]).min(axis=1) < np.abs(chosen - work[:, j]) - 1e-5).sum())
        work[:, j + 1 :] -= np.outer((work[:, j] - chosen) * diagonal[j], inverse[j, j + 1 :])
    assert wrong <= 5  # of 5,120; measured: none


@pytest.mark.parametrize("search", [QUICK, THOROUGH], ids=["quick", "thorough"])
@pytest.mark.parametrize("quant_type", SUB_SCALED, ids=lambda t: t.name)
def test_the_fit_is_as_good_as_the_codecs_own(quant_type: QuantType, search: Search) -> None:
    """With nothing to hand on, what is left is the choice of scales: squared error against ggml's search."""
    weights = np.random.default_rng(3).standard_normal((64, N_COLS)).astype(np.float32)
    of = feedback_factor(np.eye(N_COLS, dtype=np.float32))
    _, ours = quantize_rows(quant_type, weights, of, search)
    codec = decode(quant_type, encode(quant_type, weights, np.ones(N_COLS, np.float32)), N_COLS)
    ratio = float(((ours - weights) ** 2).sum() / ((codec - weights) ** 2).sum())
    assert ratio < 1.0  # measured: quick 0.934 (Q6_K) to 0.988 (Q3_K), thorough 0.928 to 0.988


@pytest.mark.parametrize("quant_type", SUB_SCALED, ids=lambda t: t.name)
@given(
    seed=st.integers(0, 2**32 - 1),
    scale=st.sampled_from([0.0, 1e-38, 1e-12, 1e-6, 1.0, 1e4]),
    shift=st.sampled_from([0.0, 1.0, -1000.0]),
    blank=st.booleans(),
)
@settings(max_examples=20, deadline=None)
def test_any_weights_give_scales_that_are_read_back_as_they_were(
    quant_type: QuantType, seed: int, scale: float, shift: float, blank: bool
) -> None:
    layout = LAYOUTS[quant_type]
    weights = (np.random.default_rng(seed).standard_normal((3, N_COLS)) * scale + shift).astype(np.float32)
    if blank:
        weights[:, 64:300] = 0.0
    codes, scales = rounded(quant_type, weights, factor(), THOROUGH)
    assert codes.max() < len(layout.levels)
    stored = layout.read(layout.write(scales, codes.reshape(-1, 256)))
    np.testing.assert_array_equal(stored.steps(), scales.steps())
    np.testing.assert_array_equal(stored.offsets(), scales.offsets())
    _, meaning = quantize_rows(quant_type, weights, factor(), QUICK)
    assert np.isfinite(meaning).all()
