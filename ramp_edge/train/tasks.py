"""What one policy is trained on: every case under many budgets, type sets and speeds, and the knapsack's answers to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ramp_edge.allocate.cases import ModelCase, Task, task_of
from ramp_edge.allocate.reference import Reference, reference_of
from ramp_edge.codec.types import QuantType

Float64 = npt.NDArray[np.float64]

TYPE_SETS: dict[str, frozenset[QuantType] | None] = {
    "all": None,
    "no codebooks": frozenset(t for t in QuantType if not t.name.startswith("IQ")),
    "32-column": frozenset(t for t in QuantType if t.block_size == 32),
    "4 bits and more": frozenset(t for t in QuantType if t.bits_per_weight >= 4.0),
}
"""Type sets of devices and `--types`; None is everything that was measured."""
SECONDS_RATES = (1.0, 1.0, 1.6)
"""Seconds per byte of plain, K- and codebook types where a task has a speed limit: about what FACTS and profiles say of small CPUs."""
_LEAST_SHARE, _MOST_SHARE = 0.05, 0.85
"""Budgets lie between these shares of the way from the smallest to the largest plan."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskSampling:
    """How many tasks of which kind."""

    per_case: int = 24
    timed_share: float = 0.15
    """Of the tasks, with a limit on seconds."""


def rates_of(types: Sequence[QuantType]) -> tuple[float, ...]:
    """Seconds per byte of each type, in units of the plain types'."""
    plain, k, codebook = SECONDS_RATES
    return tuple(codebook if t.name.startswith("IQ") else k if t.name.endswith("_K") else plain for t in types)


def sample_tasks(cases: Sequence[ModelCase], sampling: TaskSampling, seed: int) -> list[Task]:
    """`per_case` feasible tasks of every case; the same for the same seed."""
    rng = np.random.default_rng(seed)
    tasks: list[Task] = []
    for case in cases:
        found = 0
        while found < sampling.per_case:
            names = list(TYPE_SETS)
            chosen = TYPE_SETS[names[int(rng.choice(len(names), p=[0.55, 0.15, 0.15, 0.15]))]]
            share = float(rng.uniform(_LEAST_SHARE, _MOST_SHARE))
            limit = float(rng.uniform(0.2, 0.9)) if rng.random() < sampling.timed_share else None
            task = budget_task(case, share, chosen, limit)
            if task is not None:
                tasks.append(task)
                found += 1
    return tasks


def budget_task(
    case: ModelCase, share: float, types: frozenset[QuantType] | None = None, seconds_share: float | None = None
) -> Task | None:
    """A task whose budget lies at `share` of the way from the smallest to the largest plan; a limit on seconds likewise."""
    legal = np.isfinite(case.kl)
    if types is not None:
        legal &= np.array([t in types for t in case.types])[None, :]
    if not legal.any(axis=1).all():
        return None
    size, rates = case.size_bytes(), rates_of(case.types)
    low, high = (float(f.sum()) for f in (np.where(legal, size, np.inf).min(1), np.where(legal, size, 0).max(1)))
    budget = int(low + share * (high - low))
    if seconds_share is None:
        return task_of(case, budget, types=tuple(types) if types is not None else None, seconds_per_byte=rates)
    seconds = size * np.array(rates)[None, :] * case.read_per_token[:, None]
    fastest = float(np.where(legal, seconds, np.inf).min(1).sum())
    limit = fastest + seconds_share * max(budget - fastest, 0.0)
    return task_of(
        case, budget, types=tuple(types) if types is not None else None, seconds_per_byte=rates, max_seconds=limit
    )


def references_of(tasks: Sequence[Task]) -> tuple[Reference, ...]:
    """The knapsack's plan of every task."""
    return tuple(reference_of(task) for task in tasks)
