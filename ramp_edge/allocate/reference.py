"""What rewards are measured against: the knapsack on the same table and limits, as a plan and in any state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ramp_edge.allocate.cases import Task
from ramp_edge.allocate.prices import PriceLadder, StackedLadders, exact_plan, price_ladder

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Reference:
    """A plan, its predicted KL, and the knapsack's answers elsewhere."""

    columns: Int64
    kl: float
    ladder: PriceLadder


def reference_of(task: Task) -> Reference:
    """The knapsack's plan. The task must have a table and be feasible, as `task_of` leaves it."""
    assert task.kl is not None, "rewards need a table"
    columns = exact_plan(task.kl, task)
    return Reference(
        columns=columns,
        kl=task.total(task.kl, columns),
        ladder=price_ladder(task.kl, task, _seconds_price(task, columns)),
    )


def stack_references(tasks: Sequence[Task], references: Sequence[Reference]) -> StackedLadders:
    """The knapsack's answers in any state of any of the tasks."""
    return StackedLadders(tasks, [r.ladder for r in references], [r.columns for r in references])


def _seconds_price(task: Task, columns: Int64) -> float:
    """The smallest price of a second with which some price of a byte keeps both limits; 0 where seconds do not bind."""
    if not np.isfinite(task.max_seconds) or task.total(task.seconds, columns) < 0.98 * task.max_seconds:
        return 0.0
    assert task.kl is not None
    kl = task.kl[task.legal]
    low, high = np.log(kl.min() / task.seconds.max()) - 2.0, np.log(kl.max() / task.seconds.max()) + 8.0
    for price in np.exp(np.linspace(low, high, 24)):
        ladder = price_ladder(task.kl, task, float(price))
        for choice, rest in zip(ladder.choice, ladder.rest, strict=True):
            if rest[0] <= task.max_bytes:
                if task.total(task.seconds, choice) <= task.max_seconds:
                    return float(price)
                break
    return 0.0
