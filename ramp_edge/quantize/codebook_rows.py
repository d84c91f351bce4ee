"""A slab of 256 columns of the codebook types (IQ2, IQ3) with error feedback, compiled by numba.

ggml's codec gives the slab's scales. Entries and signs are then chosen anew, a few columns at a time, each choice on the weights as
the errors before it have moved them, with the 4-bit scale that makes the cheapest chain among neighbours of ggml's.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ramp_edge.codec.codebooks import BLOCK_COLS, SIGN_COLS
from ramp_edge.compiled import compiled
from ramp_edge.quantize.rounding import hand_on

Float32 = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
Int64 = npt.NDArray[np.int64]


@compiled
def _signs(moved: Float32, j0: int, diagonal: Float32, even: bool, flipped: Bytes) -> None:
    """Signs of the 8 weights from j0 on, as they stand now; where an even number must be negative the cheapest one gives way."""
    odd, cheapest, least = 0, j0, np.float32(np.inf)
    for j in range(j0, j0 + SIGN_COLS):
        flipped[j] = 1 if moved[j] < 0 else 0
        odd ^= flipped[j]
        price = abs(moved[j]) * diagonal[j]
        if price < least:
            least, cheapest = price, j
    if even and odd:
        flipped[cheapest] ^= 1


@compiled
def _nearest_entry(
    x: Float32, flipped: Bytes, diagonal: Float32, step: np.float32, grid: Float32, lengths: Float32, score: Float32
) -> int:
    """The entry that errs least on x [width], each column weighed by its price. lengths [n_entries]: sum_j price_j g_j^2."""
    n_entries = len(lengths)
    if step <= 0:
        return 0
    for e in range(n_entries):
        score[e] = step * lengths[e]
    for j in range(len(x)):
        pull = np.float32(-2.0 if flipped[j] else 2.0) * x[j] * diagonal[j] * diagonal[j]
        row = grid[j]
        for e in range(n_entries):
            score[e] -= pull * row[e]
    best = 0
    for e in range(1, n_entries):
        if score[e] < score[best]:
            best = e
    return best


@compiled
def _code_group(
    moved: Float32,
    step: np.float32,
    even_signs: bool,
    grid: Float32,
    lengths: Float32,
    diagonal: Float32,
    root: Float32,
    inverse: Float32,
    score: Float32,
    flipped: Bytes,
    found: Int64,
    residual: Float32,
) -> float:
    """Code the columns of one scale with one step, each entry's errors handed to those after it; the cost.

    moved [cols]: the weights, used up; lengths [cols / width, n_entries]; diagonal [cols], root and inverse [cols, cols] of the
    factor within the group. Fills flipped, found and residual: what `inverse` takes from later columns.
    """
    width, cols = len(grid), len(moved)
    cost = np.float32(0.0)
    for j0 in range(0, cols, width):
        if j0 % SIGN_COLS == 0:
            _signs(moved, j0, diagonal, even_signs, flipped)
        end = j0 + width
        x, signs = moved[j0:end], flipped[j0:end]
        entry = _nearest_entry(x, signs, diagonal[j0:end], step, grid, lengths[j0 // width], score)
        found[j0 // width] = entry
        for k in range(width):
            # The error as the factor's columns see it: e R.
            total = np.float32(0.0)
            for j in range(k + 1):
                value = step * grid[j, entry]
                total += (x[j] + value if signs[j] else x[j] - value) * root[j0 + j, j0 + k]
            residual[j0 + k] = total
            cost += total * total
        for k in range(j0, end):
            share, row = residual[k], inverse[k]
            for i in range(end, cols):
                moved[i] -= share * row[i]
    return float(cost)


@compiled
def choose_entries(
    work: Float32,
    first: int,
    d: Float32,
    scales: Bytes,
    grid: Float32,
    offset: np.float32,
    slope: np.float32,
    even_signs: bool,
    reach: int,
    root: Float32,
    inverse: Float32,
    entries: Int64,
    negative: Bytes,
) -> None:
    """Code the slab that starts at column `first` of work [n_rows, n_cols], all in coding order.

    d [n_rows]; scales [n_rows, 256 / scale_cols], changed in place; grid [width, n_entries]; reach: scales below and above that are
    tried; root = R [n_cols, n_cols] and inverse = R^-1 of the feedback factor. Fills entries [n_rows, 256 / width] and negative
    [n_rows, 256]; all columns after the slab take its errors.
    """
    width, n_entries = grid.shape
    cols = BLOCK_COLS // scales.shape[1]
    diagonal = np.empty(BLOCK_COLS, np.float32)
    lengths = np.zeros((BLOCK_COLS // width, n_entries), np.float32)
    for c in range(BLOCK_COLS):
        diagonal[c] = root[first + c, first + c]
        for e in range(n_entries):
            lengths[c // width, e] += diagonal[c] * diagonal[c] * grid[c % width, e] * grid[c % width, e]
    score, moved = np.empty(n_entries, np.float32), np.empty(cols, np.float32)
    flipped, best_flipped = np.empty(cols, np.uint8), np.empty(cols, np.uint8)
    found, best_found = np.empty(cols // width, np.int64), np.empty(cols // width, np.int64)
    residual, residuals = np.empty(cols, np.float32), np.empty((len(work), cols), np.float32)
    for group in range(scales.shape[1]):
        start = group * cols
        at, end = first + start, first + start + cols
        inner_root = np.ascontiguousarray(root[at:end, at:end])
        inner_inverse = np.ascontiguousarray(inverse[at:end, at:end])
        own_lengths = lengths[start // width : (start + cols) // width]
        for r in range(len(work)):
            middle = np.int64(scales[r, group])
            best_cost = np.float32(np.inf)
            for s in range(max(0, middle - reach), min(15, middle + reach) + 1):
                moved[:] = work[r, at:end]
                step = np.float32(d[r] * (offset + slope * np.float32(s)))
                cost = _code_group(
                    moved, step, even_signs, grid, own_lengths, diagonal[start : start + cols], inner_root, inner_inverse,
                    score, flipped, found, residual,
                )  # fmt: skip
                if cost < best_cost:
                    best_cost = cost
                    scales[r, group] = s
                    best_flipped[:], best_found[:], residuals[r, :] = flipped, found, residual
            negative[r, start : start + cols] = best_flipped
            entries[r, start // width : (start + cols) // width] = best_found
        hand_on(work, residuals, inverse, at)
