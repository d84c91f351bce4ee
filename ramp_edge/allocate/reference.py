"""The plan that rewards are measured against: the knapsack on the same table and limits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ramp_edge.allocate.cases import Task
from ramp_edge.allocate.knapsack import solve

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Reference:
    """A plan and its predicted KL."""

    columns: Int64
    kl: float
    rest: Float64
    """[n_tensors + 1]: its KL from each tensor on."""


def reference_of(task: Task) -> Reference:
    """The knapsack's plan. The task must have a table and be feasible, as `task_of` leaves it."""
    assert task.kl is not None, "rewards need a table"
    plan = solve(task.items, task.max_bytes, task.max_seconds)
    assert plan is not None, "the reserve plan keeps the limits, so the knapsack finds one"
    columns = task.columns_of(plan)
    own = task.kl[np.arange(len(columns)), columns]
    rest = np.concatenate([np.cumsum(own[::-1])[::-1], [0.0]])
    return Reference(columns=columns, kl=float(rest[0]), rest=rest)
