"""Whole rows of the 256-column types with sub-scales (Q2_K to Q6_K, IQ4_XS) with error feedback, compiled by numba.

A block's float16 scales come from fits of all its groups, so that the largest sub-scale takes the end of its range. Then,
group after group, the fit is repeated on what feedback has made of the weights by then, sub-scales around it are tried with
feedback inside the group, and the residuals of the cheapest go to all columns after it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ramp_edge.compiled import compiled
from ramp_edge.quantize.fitting import fit_range, fit_scale, to_float16
from ramp_edge.quantize.rounding import BATCH_ROWS, hand_on, round_group

Float32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]
Bytes = npt.NDArray[np.uint8]

BLOCK_COLS = 256


@compiled
def _nearest_within(value: np.float32, unit: np.float32, low: int, high: int) -> int:
    """The whole number nearest to value / unit within a range."""
    if unit == 0:
        return min(max(0, low), high)
    return int(min(max(np.rint(value / unit), np.float32(low)), np.float32(high)))


@compiled
def round_sub_scaled_rows(
    work: Float32,
    levels: Float32,
    uniform: bool,
    nearest_codes: Float32,
    minimum: bool,
    group_cols: int,
    sub_d_low: int,
    sub_d_high: int,
    sub_m_high: int,
    trials: Float32,
    shifts: Int32,
    diagonal: Float32,
    inverse: Float32,
    codes: Bytes,
    d: Float32,
    m: Float32,
    sub_d: Int32,
    sub_m: Int32,
) -> None:
    """Codes and scales of whole rows.

    work float32 [n_rows, n_cols]: the weights, used up; levels to sub_m_high: the layout's; trials [n]: of the fits, in levels;
    shifts [n, 2]: candidates around the fit, steps by which sub_d and sub_m move; diagonal [n_cols] of R and inverse = R^-1 of the
    feedback factor (`hessian.py`). Fills codes [n_rows, n_cols], d and m [n_rows, n_cols / 256], sub_d and sub_m
    [n_rows, n_cols / group_cols]; m and sub_m only with a minimum.
    """
    n_rows, n_cols = work.shape
    n, n_groups = len(shifts), BLOCK_COLS // group_cols
    top = np.float32(len(levels) - 1)
    price = diagonal * diagonal
    trial, residual = np.empty((group_cols, n), np.float32), np.empty((group_cols, n), np.float32)
    code = np.empty((group_cols, n), np.float32)
    step, offset = np.empty(n, np.float32), np.zeros(n, np.float32)
    cost, per_step = np.empty(n, np.float32), np.empty(n, np.float32)
    tried_d, tried_m = np.zeros(n, np.int32), np.zeros(n, np.int32)
    residuals = np.empty((BATCH_ROWS, group_cols), np.float32)
    for first_row in range(0, n_rows, BATCH_ROWS):
        last_row = min(first_row + BATCH_ROWS, n_rows)
        for block in range(n_cols // BLOCK_COLS):
            for r in range(first_row, last_row):
                extreme, deepest = np.float32(0.0), np.float32(0.0)
                for g in range(n_groups):
                    first = block * BLOCK_COLS + g * group_cols
                    x, weight = work[r, first : first + group_cols], price[first : first + group_cols]
                    if minimum:
                        fit_d, fit_m = fit_range(x, weight, top, trials, True)
                        deepest = min(deepest, fit_m)
                    else:
                        fit_d = fit_scale(x, weight, levels, uniform, nearest_codes, trials)
                    if abs(fit_d) > abs(extreme):
                        extreme = fit_d
                # The longer end of the range takes the extreme, whatever its sign.
                d[r, block] = to_float16(extreme / np.float32(sub_d_high if minimum else sub_d_low))
                if minimum:
                    m[r, block] = to_float16(-deepest / np.float32(sub_m_high))
            for g in range(n_groups):
                first = block * BLOCK_COLS + g * group_cols
                end = first + group_cols
                place = block * n_groups + g
                for r in range(first_row, last_row):
                    x = work[r, first:end]
                    base_m = 0
                    if minimum:
                        fit_d, fit_m = fit_range(x, price[first:end], top, trials, True)
                        base_m = _nearest_within(-fit_m, m[r, block], 0, sub_m_high)
                    else:
                        fit_d = fit_scale(x, price[first:end], levels, uniform, nearest_codes, trials)
                    base_d = _nearest_within(fit_d, d[r, block], sub_d_low, sub_d_high)
                    for k in range(n):
                        tried_d[k] = min(max(base_d + shifts[k, 0], sub_d_low), sub_d_high)
                        step[k] = d[r, block] * np.float32(tried_d[k])
                        if minimum:
                            tried_m[k] = min(max(base_m + shifts[k, 1], 0), sub_m_high)
                            offset[k] = -m[r, block] * np.float32(tried_m[k])
                    best = round_group(
                        x, step, offset, diagonal[first:end], inverse[first:end, first:end], levels, uniform,
                        nearest_codes, trial, code, residual, cost, per_step,
                    )  # fmt: skip
                    sub_d[r, place], sub_m[r, place] = tried_d[best], tried_m[best]
                    for j in range(group_cols):
                        codes[r, first + j] = np.uint8(code[j, best])
                        residuals[r - first_row, j] = residual[j, best]
                hand_on(work[first_row:last_row], residuals[: last_row - first_row], inverse, first)
