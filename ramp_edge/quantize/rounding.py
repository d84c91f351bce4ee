"""The inner loops of error feedback, compiled by numba: a group of columns, handing on its residuals, descent over whole rows.

All work on rows independently and release the interpreter lock, so strips of rows run in parallel threads.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ramp_edge.compiled import compiled
from ramp_edge.quantize.fitting import nearest_code

Float32 = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

BATCH_ROWS = 8
"""Rows that go through a group together: the rows of `inverse` that hand on its residuals are then read once for all."""


@compiled
def round_group(
    x: Float32,
    step: Float32,
    offset: Float32,
    diagonal: Float32,
    inverse: Float32,
    levels: Float32,
    uniform: bool,
    nearest_codes: Float32,
    trial: Float32,
    code: Float32,
    residual: Float32,
    cost: Float32,
    per_step: Float32,
) -> int:
    """Round one group of a row with every candidate scale, each column's residual handed to the columns after it; the cheapest.

    x [size]; step and offset [n]: the candidates; diagonal [size] of R and inverse [size, size] of the feedback factor within
    the group. Fills code and residual [size, n], the residuals times their diagonal: what `inverse` takes from later
    columns. trial [size, n], cost and per_step [n] are scratch.
    """
    size, n = trial.shape
    lowest = levels[0]
    for k in range(n):
        cost[k] = np.float32(0.0)
        per_step[k] = np.float32(0.0) if step[k] == 0 else np.float32(1.0) / step[k]
    # Candidates lie side by side, so that the innermost loops run over them in vector registers.
    for j in range(size):
        trial[j, :] = x[j]
    for j in range(size):
        for k in range(n):
            nearest = nearest_code((trial[j, k] - offset[k]) * per_step[k], levels, uniform, nearest_codes)
            level = nearest + lowest if uniform else levels[np.int32(nearest)]
            error = (trial[j, k] - (step[k] * level + offset[k])) * diagonal[j]
            code[j, k], residual[j, k] = nearest, error
            cost[k] += error * error
        share = inverse[j]
        for i in range(j + 1, size):
            for k in range(n):
                trial[i, k] -= residual[j, k] * share[i]
    best = 0
    for k in range(1, n):
        if cost[k] < cost[best]:
            best = k
    return best


@compiled
def hand_on(work: Float32, residuals: Float32, inverse: Float32, first: int) -> None:
    """Take the residuals [n_rows, size] of columns `first` on from all columns of work [n_rows, n_cols] after them."""
    n_rows, size = residuals.shape
    end = first + size
    for j in range(0, size, 4):
        # Slices from `end`: a loop from `end` on would not become vector code. Four columns for each pass over `work`.
        c0, c1 = inverse[first + j, end:], inverse[first + j + 1, end:]
        c2, c3 = inverse[first + j + 2, end:], inverse[first + j + 3, end:]
        for r in range(n_rows):
            e0, e1, e2, e3 = residuals[r, j], residuals[r, j + 1], residuals[r, j + 2], residuals[r, j + 3]
            rest = work[r, end:]
            for i in range(len(rest)):
                rest[i] -= e0 * c0[i] + e1 * c1[i] + e2 * c2[i] + e3 * c3[i]


@compiled
def descend(codes: Bytes, steps: Float32, levels: Float32, hessian: Float32, pull: Float32, sweeps: int) -> None:
    """Coordinate descent: move single codes to a neighbour while that lowers the rows' output error E H E^T.

    codes [n_rows, n_cols], changed in place; steps [n_rows, n_groups]; pull = E H [n_rows, n_cols], kept up to date in place.
    """
    n_rows, n_cols = codes.shape
    size = n_cols // steps.shape[1]
    last = len(levels) - 1
    for r in range(n_rows):
        for _ in range(sweeps):
            moved = False
            for j in range(n_cols):
                step, code = steps[r, j // size], int(codes[r, j])
                p, h = np.float32(2.0) * pull[r, j], hessian[j, j]
                best, move, change = np.float32(0.0), 0, np.float32(0.0)
                if code < last:
                    delta = step * (levels[code + 1] - levels[code])
                    gain = delta * (delta * h - p)
                    if gain < best:
                        best, move, change = gain, 1, delta
                if code > 0:
                    delta = step * (levels[code - 1] - levels[code])
                    gain = delta * (delta * h - p)
                    if gain < best:
                        best, move, change = gain, -1, delta
                if move:
                    codes[r, j] = code + move
                    for i in range(n_cols):
                        pull[r, i] -= change * hessian[j, i]
                    moved = True
            if not moved:
                break
