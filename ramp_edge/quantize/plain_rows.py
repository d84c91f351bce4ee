"""Whole rows of the 32-column types (Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, IQ4_NL) with error feedback, compiled by numba.

Column after column, block after block: a block's scale is fitted to what feedback has made of its weights, some scales around
the fit are tried with feedback inside the block, and the residuals of the cheapest go to all columns after it. One
compiled loop over everything is several times as fast as a call of the codec for each block, and the fit is as good as
the codec's own (docs/method.md).
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

BLOCK_COLS = 32
_BATCH_ROWS = 8
"""Rows that go through a block together: the columns of `inverse` that hand on its residuals are then read once for all."""
_NOTHING = np.float32(1e-12)
"""No range this small has a float16 scale other than 0."""

_compiled = numba.njit(nogil=True, cache=True, fastmath=True)


@_compiled
def _to_float16(x: np.float32) -> np.float32:
    """The nearest float16 within its range, ties to even, as float32."""
    if abs(x) < np.float32(2.0**-14):
        nearest = np.rint(x * np.float32(2.0**24)) * np.float32(2.0**-24)
    elif abs(x) > np.float32(65504.0):
        nearest = np.copysign(np.float32(65504.0), x)
    else:
        # On the bits: fastmath would undo a rounding made of sums.
        bits = np.float32(x).view(np.int32)
        nearest = np.int32((bits + 0xFFF + (bits >> 13 & 1)) & ~0x1FFF).view(np.float32)
    rounded: np.float32 = np.float32(nearest)
    return rounded


@_compiled
def _nearest(y: np.float32, levels: Float32, uniform: bool, nearest_codes: Float32) -> np.float32:
    """Code of the level nearest to y, as a float."""
    lowest = levels[0]
    if uniform:
        code: np.float32 = np.float32(min(max(np.rint(y - lowest), np.float32(0.0)), np.float32(len(levels) - 1)))
        return code
    place = np.int32(np.floor(np.float32(2.0) * (y - lowest)))
    uneven: np.float32 = np.float32(nearest_codes[min(max(place, 0), len(nearest_codes) - 1)])
    return uneven


@_compiled
def _fit_scale(
    x: Float32, weight: Float32, levels: Float32, uniform: bool, nearest_codes: Float32, trials: Float32
) -> np.float32:
    """The d of least weighted squared error. Each trial puts the block's extreme on an end of the levels (for uneven levels
    on either end), moved outwards by so much; the codes that follow give d by least squares."""
    extreme = np.float32(0.0)
    for j in range(len(x)):
        if abs(x[j]) > abs(extreme):
            extreme = x[j]
    best_d: np.float32 = np.float32(0.0)
    if abs(extreme) < _NOTHING:
        return best_d
    best_d, best = extreme / levels[0], np.float32(-1.0)
    for t in range(len(trials)):
        for side in range(1 if uniform else 2):
            end = levels[0] - trials[t] if side == 0 else levels[-1] + trials[t]
            inverse = end / extreme
            with_x, squares = np.float32(0.0), np.float32(0.0)
            for j in range(len(x)):
                code = _nearest(x[j] * inverse, levels, uniform, nearest_codes)
                level = code + levels[0] if uniform else levels[np.int32(code)]
                weighted = weight[j] * level
                squares += weighted * level
                with_x += weighted * x[j]
            if squares > 0 and with_x * with_x > best * squares:
                best_d, best = with_x / squares, with_x * with_x / squares
    return best_d


@_compiled
def _fit_range(x: Float32, weight: Float32, top: np.float32, trials: Float32) -> tuple[np.float32, np.float32]:
    """(d, m) of least weighted squared error: trials with more or fewer steps in the block's range, each fitted to its codes."""
    low, high = x[0], x[0]
    for j in range(len(x)):
        low, high = min(low, x[j]), max(high, x[j])
    if high - low < _NOTHING:
        return np.float32(0.0), low
    best_d, best_m, best = (high - low) / top, low, np.float32(np.inf)
    total, with_x, square_x = np.float32(0.0), np.float32(0.0), np.float32(0.0)
    for j in range(len(x)):
        # Seen from `low`, so that the sums do not cancel in blocks far from zero.
        y = x[j] - low
        total += weight[j]
        with_x += weight[j] * y
        square_x += weight[j] * y * y
    for t in range(len(trials)):
        inverse = (top + trials[t]) / (high - low)
        codes, code_squares, code_x = np.float32(0.0), np.float32(0.0), np.float32(0.0)
        for j in range(len(x)):
            code = min(max(np.rint((x[j] - low) * inverse), np.float32(0.0)), top)
            weighted = weight[j] * code
            codes += weighted
            code_squares += weighted * code
            code_x += weighted * (x[j] - low)
        determinant = total * code_squares - codes * codes
        if determinant > 0:
            d = (total * code_x - with_x * codes) / determinant
            m = (code_squares * with_x - codes * code_x) / determinant
            cost = square_x - d * code_x - m * with_x
            if cost < best:
                best_d, best_m, best = d, m + low, cost
    return best_d, best_m


@_compiled
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
    n_moves = len(moves)
    top, lowest = np.float32(len(levels) - 1), levels[0]
    price = diagonal * diagonal
    # Candidates lie side by side, so that the innermost loops run over them in vector registers.
    trial = np.empty((BLOCK_COLS, n_moves), np.float32)
    residual = np.empty((BLOCK_COLS, n_moves), np.float32)
    code = np.empty((BLOCK_COLS, n_moves), np.float32)
    step, offset = np.empty(n_moves, np.float32), np.empty(n_moves, np.float32)
    cost, per_step = np.empty(n_moves, np.float32), np.empty(n_moves, np.float32)
    handed_on = np.empty((_BATCH_ROWS, BLOCK_COLS), np.float32)
    for first_row in range(0, n_rows, _BATCH_ROWS):
        last_row = min(first_row + _BATCH_ROWS, n_rows)
        for block in range(n_cols // BLOCK_COLS):
            first = block * BLOCK_COLS
            end = first + BLOCK_COLS
            for r in range(first_row, last_row):
                x = work[r, first:end]
                if minimum:
                    d, m = _fit_range(x, price[first:end], top, trials)
                    for k in range(n_moves):
                        offset[k] = _to_float16(m + d * top * moves[k, 0])
                        step[k] = _to_float16((m + d * top * (np.float32(1.0) + moves[k, 1]) - offset[k]) / top)
                else:
                    d = _fit_scale(x, price[first:end], levels, uniform, nearest_codes, trials)
                    for k in range(n_moves):
                        offset[k] = np.float32(0.0)
                        step[k] = _to_float16(d * (np.float32(1.0) + moves[k, 0]))
                for k in range(n_moves):
                    cost[k] = np.float32(0.0)
                    per_step[k] = np.float32(0.0) if step[k] == 0 else np.float32(1.0) / step[k]
                for j in range(BLOCK_COLS):
                    trial[j, :] = x[j]
                for j in range(BLOCK_COLS):
                    for k in range(n_moves):
                        nearest = _nearest((trial[j, k] - offset[k]) * per_step[k], levels, uniform, nearest_codes)
                        level = nearest + lowest if uniform else levels[np.int32(nearest)]
                        error = trial[j, k] - (step[k] * level + offset[k])
                        code[j, k] = nearest
                        cost[k] += error * error * price[first + j]
                        residual[j, k] = error * diagonal[first + j]
                    share = inverse[first + j, first:end]
                    for i in range(j + 1, BLOCK_COLS):
                        for k in range(n_moves):
                            trial[i, k] -= residual[j, k] * share[i]
                best = 0
                for k in range(1, n_moves):
                    if cost[k] < cost[best]:
                        best = k
                steps[r, block], offsets[r, block] = step[best], offset[best]
                for j in range(BLOCK_COLS):
                    codes[r, first + j] = np.uint8(code[j, best])
                    handed_on[r - first_row, j] = residual[j, best]
            for j in range(0, BLOCK_COLS, 4):
                # Slices from `end`: a loop from `end` on would not become vector code. Four columns for each pass over `work`.
                c0, c1 = inverse[first + j, end:], inverse[first + j + 1, end:]
                c2, c3 = inverse[first + j + 2, end:], inverse[first + j + 3, end:]
                for r in range(first_row, last_row):
                    e = handed_on[r - first_row, j : j + 4]
                    e0, e1, e2, e3 = e[0], e[1], e[2], e[3]
                    rest = work[r, end:]
                    for i in range(len(rest)):
                        rest[i] -= e0 * c0[i] + e1 * c1[i] + e2 * c2[i] + e3 * c3[i]
