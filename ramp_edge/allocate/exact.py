"""The knapsack to its optimum: the same problem as an integer program, by HiGHS (MIT licence), from the plan that prices found.

One binary variable for each type of each tensor, one equation a tensor, one row for bytes and one for seconds. It is a multiple-choice knapsack: its
relaxation leaves at most two tensors undecided.
"""

from __future__ import annotations

import itertools
import math

import highspy
import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]
Choice = npt.NDArray[np.int64]
RELATIVE_GAP = 1e-5
"""A plan this near to what no plan can beat is taken as the best."""
MAX_NODES = 5_000
"""Of the search; a count and not a time, so that one question has one answer on every machine."""
_TOLERANCE = 1e-9
"""Of the limits, as shares: below a byte. The answer is checked without any."""


def improve(
    kl: Float64, size: Float64, seconds: Float64, start: Choice, max_bytes: float, max_seconds: float
) -> tuple[Choice, float]:
    """(a plan at least as good as `start`, a lower bound of any plan's KL, 0 where nothing was proved).

    kl, size, seconds [n_tensors, n_types]: infinite where there is no such type.
    """
    each = np.arange(len(start))
    scale = float(kl[each, start].sum())
    if scale <= 0.0 or max_bytes <= 0.0 or max_seconds <= 0.0:
        return start, 0.0  # nothing to gain, or nothing to choose
    rows, columns = np.nonzero(_worth_having(kl, size, seconds))
    cost = kl[rows, columns] / scale
    shares = [size[rows, columns] / max_bytes]
    if math.isfinite(max_seconds):
        shares.append(seconds[rows, columns] / max_seconds)
    solver = _solver(cost, rows, shares, len(start))
    first = highspy.HighsSolution()
    first.col_value = list((columns == start[rows]).astype(float))
    first.value_valid = True
    solver.setSolution(first)
    solver.run()
    info = solver.getInfo()
    values = np.asarray(solver.getSolution().col_value)
    if len(values) != len(rows):
        return start, 0.0
    bound = max(0.0, info.mip_dual_bound) * scale if math.isfinite(info.mip_dual_bound) else 0.0
    choice = start.copy()
    taken = values > 0.5
    choice[rows[taken]] = columns[taken]
    if size[each, choice].sum() > max_bytes or seconds[each, choice].sum() > max_seconds:
        return start, bound
    return (choice if kl[each, choice].sum() <= kl[each, start].sum() else start), bound


def _worth_having(kl: Float64, size: Float64, seconds: Float64) -> npt.NDArray[np.bool_]:
    """[n_tensors, n_types]: False for a type that another one of the tensor beats or equals in all three."""
    out = np.isfinite(size)
    for column, other in itertools.permutations(range(kl.shape[1]), 2):
        no_worse = (
            out[:, other]
            & (kl[:, other] <= kl[:, column])
            & (size[:, other] <= size[:, column])
            & (seconds[:, other] <= seconds[:, column])
        )
        out[:, column] &= ~no_worse
    return out


def _solver(cost: Float64, rows: Choice, shares: list[Float64], n_tensors: int) -> highspy.Highs:
    """The program, ready to run: rows are tensors, then limits."""
    n = len(cost)
    lp = highspy.HighsLp()
    lp.num_col_, lp.num_row_ = n, n_tensors + len(shares)
    lp.col_cost_, lp.col_lower_, lp.col_upper_ = cost, np.zeros(n), np.ones(n)
    lp.row_lower_ = np.concatenate([np.ones(n_tensors), np.full(len(shares), -highspy.kHighsInf)])
    lp.row_upper_ = np.ones(n_tensors + len(shares))
    width = 1 + len(shares)
    index = np.empty((n, width), np.int32)
    index[:, 0] = rows
    index[:, 1:] = n_tensors + np.arange(len(shares))
    lp.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    lp.a_matrix_.start_ = np.arange(0, n * width + 1, width, dtype=np.int32)
    lp.a_matrix_.index_ = index.reshape(-1)
    lp.a_matrix_.value_ = np.stack([np.ones(n), *shares], axis=1).reshape(-1)
    lp.integrality_ = [highspy.HighsVarType.kInteger] * n
    solver = highspy.Highs()  # type: ignore[no-untyped-call]
    options: dict[str, bool | int | float | str] = {
        "output_flag": False,
        "threads": 1,
        "parallel": "off",
        "mip_rel_gap": RELATIVE_GAP,
        "mip_abs_gap": 0.0,
        "mip_max_nodes": MAX_NODES,
        "mip_feasibility_tolerance": _TOLERANCE,
        "primal_feasibility_tolerance": _TOLERANCE,
    }
    for name, value in options.items():
        solver.setOptionValue(name, value)
    solver.passModel(lp)
    return solver
