"""Whole rows of the 32-column types (Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, IQ4_NL) with error feedback, compiled by numba.

Block after block, a scale is fitted to what feedback has made of the block's weights, some scales around the fit are tried
with feedback inside the block, and the residuals of the cheapest go to all columns after it. One compiled loop over
everything is several times as fast as a call of the codec for each block, and the fit is better than the codec's own
(docs/method.md).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ramp_edge.compiled import compiled
from ramp_edge.quantize.fitting import fit_range, fit_scale, to_float16
from ramp_edge.quantize.rounding import BATCH_ROWS, hand_on, round_group

Float32 = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

BLOCK_COLS = 32


@compiled
def round_plain_rows(
    work: Float32,
    levels: Float32,
    uniform: bool,
    nearest_codes: Float32,
    minimum: bool,
    trials: Float32,
    moves: Float32,
    diagonal: Float32,
    inverse: Float32,
    codes: Bytes,
    steps: Float32,
    offsets: Float32,
) -> None:
    """Codes and scales of whole rows.

    work float32 [n_rows, n_cols]: the weights, used up; levels, uniform, nearest_codes: the layout's; minimum: whether blocks
    have an offset; trials [n]: of the fit, in levels; moves [n, 2]: candidates around the fit, shares by which d (without a minimum)
    or both ends of the range (with one) move; diagonal [n_cols] of R and inverse = R^-1 of the feedback factor (`hessian.py`).
    Fills codes [n_rows, n_cols], steps and offsets [n_rows, n_cols / 32], whose values are float16s.
    """
    n_rows, n_cols = work.shape
    n = len(moves)
    top = np.float32(len(levels) - 1)
    price = diagonal * diagonal
    trial, residual = np.empty((BLOCK_COLS, n), np.float32), np.empty((BLOCK_COLS, n), np.float32)
    code = np.empty((BLOCK_COLS, n), np.float32)
    step, offset = np.empty(n, np.float32), np.zeros(n, np.float32)
    cost, per_step = np.empty(n, np.float32), np.empty(n, np.float32)
    residuals = np.empty((BATCH_ROWS, BLOCK_COLS), np.float32)
    for first_row in range(0, n_rows, BATCH_ROWS):
        last_row = min(first_row + BATCH_ROWS, n_rows)
        for block in range(n_cols // BLOCK_COLS):
            first = block * BLOCK_COLS
            end = first + BLOCK_COLS
            for r in range(first_row, last_row):
                x = work[r, first:end]
                if minimum:
                    d, m = fit_range(x, price[first:end], top, trials, False)
                    for k in range(n):
                        offset[k] = to_float16(m + d * top * moves[k, 0])
                        step[k] = to_float16((m + d * top * (np.float32(1.0) + moves[k, 1]) - offset[k]) / top)
                else:
                    d = fit_scale(x, price[first:end], levels, uniform, nearest_codes, trials)
                    for k in range(n):
                        step[k] = to_float16(d * (np.float32(1.0) + moves[k, 0]))
                best = round_group(
                    x, step, offset, diagonal[first:end], inverse[first:end, first:end], levels, uniform, nearest_codes,
                    trial, code, residual, cost, per_step,
                )  # fmt: skip
                steps[r, block], offsets[r, block] = step[best], offset[best]
                for j in range(BLOCK_COLS):
                    codes[r, first + j] = np.uint8(code[j, best])
                    residuals[r - first_row, j] = residual[j, best]
            hand_on(work[first_row:last_row], residuals[: last_row - first_row], inverse, first)
