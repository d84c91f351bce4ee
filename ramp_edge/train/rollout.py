"""Whole episodes at once: actions of a policy, the teacher's answers beside them, rewards, transitions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from ramp_edge.allocate.cases import Task
from ramp_edge.allocate.episode import Episodes, TaskTable, stack
from ramp_edge.allocate.halo import action_for
from ramp_edge.allocate.prices import largest_allowed_below
from ramp_edge.allocate.reference import Reference, stack_references
from ramp_edge.allocate.reward import RewardWeights
from ramp_edge.allocate.scoring import Judge, end_terms
from ramp_edge.train.tasks import references_of

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Act = Callable[[Float32], Float64]
"""States [n, N_STATE] -> actions [n] in [0, 1]."""
_LEAST_WEIGHT = 0.05
"""Of a step, so that small tensors are not blown up."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Transitions:
    """Steps of all episodes, in no particular order."""

    states: Float32
    scalars: Float32
    """[n, 5]: action, teacher's action, weight, reward over weight, end. Weight: the tensor's share of all weights times the number of
    tensors, since a wrong bit costs by the size of the tensor; divided by it rewards of all tensors are of one size."""
    following: Float32


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What whole episodes came to."""

    log_ratio: Float64
    """[n]: ln(KL / reference KL)"""
    terms: dict[str, Float64]
    """Reward terms [n]."""
    columns: Int64


class Arena:
    """Tasks with the knapsack's answers, ready for episodes."""

    def __init__(self, tasks: Sequence[Task], weights: RewardWeights) -> None:
        self.tasks, self.weights = tuple(tasks), weights
        self.references: tuple[Reference, ...] = references_of(tasks)
        self.table: TaskTable = stack(tasks)
        self._teacher = stack_references(self.tasks, self.references)

    def play(self, rows: Int64, act: Act | None, *, blur: float = 0.0, seed: int = 0) -> tuple[Outcome, Transitions]:
        """Episodes over `rows` of the tasks; without `act` the teacher decides: the knapsack with the bytes left.

        `blur` is the standard deviation of noise on all actions: critics learn from choices that differ.
        """
        table, episodes = self.table, Episodes(self.table, rows)
        judge = Judge(self.references, episodes, self.weights)
        rng = np.random.default_rng(seed)
        quality = np.zeros(len(rows))
        steps: list[tuple[Float32, Float32, npt.NDArray[np.bool_]]] = []
        while not episodes.done:
            at, active = episodes.at, episodes.active
            state, allowed = episodes.observe(), episodes.allowed()
            answer, _ = self._teacher.look_up(rows, at, table.max_bytes[rows] - episodes.used)
            wanted = action_for(table.type_bits[largest_allowed_below(answer, allowed)])
            action = wanted if act is None else act(state)
            if blur:
                action = (action + blur * rng.standard_normal(len(rows))).clip(0.0, 1.0)
            step = judge.step(active, episodes.step(action))
            quality += step
            weight = table.weights[rows, at] / table.rest_weights[rows, 0] * table.length[rows]
            weight = np.maximum(weight, _LEAST_WEIGHT)
            end = (at + 1 >= table.length[rows]).astype(np.float64)
            scaled = step * table.length[rows] / weight
            steps.append((state, np.stack([action, wanted, weight, scaled, end], axis=-1).astype(np.float32), active))
        terms = end_terms(self.weights, episodes, judge.log_ratio)
        named = {**asdict(terms), "quality": quality}
        outcome = Outcome(log_ratio=judge.log_ratio, terms=named, columns=episodes.columns)
        return outcome, _gather(steps, terms.total)


def _gather(steps: list[tuple[Float32, Float32, npt.NDArray[np.bool_]]], at_end: Float64) -> Transitions:
    """Join the steps; the terms of the end go to each episode's last step."""
    states, scalars, following = [], [], []
    for at, (state, values, active) in enumerate(steps):
        values[:, 3] += np.where(values[:, 4] > 0, at_end, 0.0)
        after = steps[at + 1][0] if at + 1 < len(steps) else np.zeros_like(state)
        states.append(state[active])
        scalars.append(values[active])
        following.append(after[active])
    return Transitions(
        states=np.concatenate(states), scalars=np.concatenate(scalars), following=np.concatenate(following)
    )
