"""The inner loops of error feedback, compiled by numba: codes of one slab column by column, then descent over whole rows.

Both work on rows independently and release the interpreter lock, so strips of rows run in parallel threads.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
Int32 = npt.NDArray[np.int32]

_compiled = numba.njit(nogil=True, cache=True, fastmath=True)


@_compiled
def round_slab(
    target: Float32,
    steps: Float32,
    offsets: Float32,
    levels: Float32,
    uniform: bool,
    nearest_codes: Float32,
    price: Float32,
    couple: Float32,
    codes: Bytes,
    picks: Int32,
) -> None:
    """Codes and scales of one slab, each column's error handed to the columns after it.

    target [n_rows, width]; steps and offsets [n_rows, n_groups, n_candidates]: the scales that each group may have;
    uniform and nearest_codes: the layout's, the second for levels that are not uniform;
    price [width]: cost of a squared residual of each column; couple [width, width]: what a unit residual of one column takes from
    the later ones. Fills codes [n_rows, width] and picks [n_rows, n_groups] (the candidate of least cost, group after group).
    """
    n_rows, width = target.shape
    n_groups, n_candidates = steps.shape[1], steps.shape[2]
    size = width // n_groups
    last, lowest, last_place = np.float32(len(levels) - 1), levels[0], len(nearest_codes) - 1
    rest = np.empty(width, np.float32)
    # Candidates lie side by side, so that the innermost loops run over them in vector registers.
    trial = np.empty((size, n_candidates), np.float32)
    residual = np.empty((size, n_candidates), np.float32)
    code = np.empty((size, n_candidates), np.float32)
    cost = np.empty(n_candidates, np.float32)
    inverse = np.empty(n_candidates, np.float32)
    for r in range(n_rows):
        rest[:] = target[r]
        for g in range(n_groups):
            first = g * size
            step, offset = steps[r, g], offsets[r, g]
            for k in range(n_candidates):
                cost[k] = 0.0
                inverse[k] = np.float32(0.0) if step[k] == 0 else np.float32(1.0) / step[k]
            for j in range(size):
                trial[j, :] = rest[first + j]
            for j in range(size):
                for k in range(n_candidates):
                    x = (trial[j, k] - offset[k]) * inverse[k]
                    if uniform:
                        nearest = min(max(np.rint(x - lowest), np.float32(0.0)), last)
                        level = nearest + lowest
                    else:
                        place = min(max(np.int32(np.floor(np.float32(2.0) * (x - lowest))), 0), last_place)
                        nearest = nearest_codes[place]
                        level = levels[np.int32(nearest)]
                    error = trial[j, k] - (step[k] * level + offset[k])
                    code[j, k], residual[j, k] = nearest, error
                    cost[k] += error * error * price[first + j]
                takes = couple[first + j, first : first + size]
                for i in range(j + 1, size):
                    for k in range(n_candidates):
                        trial[i, k] -= residual[j, k] * takes[i]
            best = 0
            for k in range(1, n_candidates):
                if cost[k] < cost[best]:
                    best = k
            picks[r, g] = best
            # A slice: a loop that starts at `first + size` would not become vector code.
            after = rest[first + size :]
            for j in range(size):
                codes[r, first + j] = np.uint8(code[j, best])
                share, taken = residual[j, best], couple[first + j, first + size :]
                for i in range(len(after)):
                    after[i] -= share * taken[i]


@_compiled
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
