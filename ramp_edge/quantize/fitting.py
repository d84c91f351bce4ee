"""Scales fitted to weights by weighted least squares over trial ranges, and their rounding to float16; compiled by numba.

The error that counts is of weights that feedback has already moved, so the fits run inside the loops over columns.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ramp_edge.compiled import compiled

Float32 = npt.NDArray[np.float32]

_NOTHING = np.float32(1e-12)
"""No range this small has a float16 scale other than 0."""


@compiled
def to_float16(x: np.float32) -> np.float32:
    """The nearest float16 within its range, ties to even, as float32."""
    if abs(x) < np.float32(2.0**-14):
        nearest = np.rint(x * np.float32(2.0**24)) * np.float32(2.0**-24)
    elif abs(x) > np.float32(65504.0):
        nearest = np.copysign(np.float32(65504.0), x)
    else:
        # On the bits, which no liberty of the compiler can undo.
        bits = np.float32(x).view(np.int32)
        nearest = np.int32((bits + 0xFFF + (bits >> 13 & 1)) & ~0x1FFF).view(np.float32)
    rounded: np.float32 = np.float32(nearest)
    return rounded


@compiled
def nearest_code(y: np.float32, levels: Float32, uniform: bool, nearest_codes: Float32) -> np.float32:
    """Code of the level nearest to y, as a float."""
    lowest = levels[0]
    if uniform:
        code: np.float32 = np.float32(min(max(np.rint(y - lowest), np.float32(0.0)), np.float32(len(levels) - 1)))
        return code
    place = np.int32(np.floor(np.float32(2.0) * (y - lowest)))
    uneven: np.float32 = np.float32(nearest_codes[min(max(place, 0), len(nearest_codes) - 1)])
    return uneven


@compiled
def fit_scale(
    x: Float32, weight: Float32, levels: Float32, uniform: bool, nearest_codes: Float32, trials: Float32
) -> np.float32:
    """The d of least weighted squared error. Each trial puts the extreme of x on an end of the levels (for uneven levels
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
                code = nearest_code(x[j] * inverse, levels, uniform, nearest_codes)
                level = code + levels[0] if uniform else levels[np.int32(code)]
                weighted = weight[j] * level
                squares += weighted * level
                with_x += weighted * x[j]
            if squares > 0 and with_x * with_x > best * squares:
                best_d, best = with_x / squares, with_x * with_x / squares
    return best_d


@compiled
def fit_range(
    x: Float32, weight: Float32, top: np.float32, trials: Float32, below_zero: bool
) -> tuple[np.float32, np.float32]:
    """(d, m) of least weighted squared error: trials with more or fewer steps in the range of x, each fitted to its codes.

    below_zero: m may not be positive (the K-types store -m without a sign).
    """
    low, high = x[0], x[0]
    for j in range(len(x)):
        low, high = min(low, x[j]), max(high, x[j])
    if below_zero:
        low, high = min(low, np.float32(0.0)), max(high, np.float32(0.0))
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
            if below_zero and m > -low:
                m = -low
                d = (code_x - m * codes) / code_squares
            # ||x - d code - m||^2 from the sums.
            cost = square_x + d * d * code_squares + m * m * total
            cost += np.float32(2.0) * (d * m * codes - d * code_x - m * with_x)
            if cost < best:
                best_d, best_m, best = d, m + low, cost
    return best_d, best_m
