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
from ramp_edge.allocate.scoring import Judge, MeasuredTruth, end_terms
from ramp_edge.train.tasks import references_of

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Act = Callable[[Float32], Float64]
"""States [n, N_STATE] -> actions [n] in [0, 1]."""
Step = tuple[Float32, Float32, npt.NDArray[np.bool_]]
"""(states [n, N_STATE], scalars [n, 5], which episodes were not over [n])."""
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
    measured: dict[int, float]
    """Episodes that were measured: measured less predicted log_ratio, which log_ratio and terms hold already."""


def step_weight(table: TaskTable, rows: Int64, at: int) -> Float64:
    """Of the step that decides tensor `at` [n]: its share of the weights times the number of tensors."""
    share = table.weights[rows, at] / table.rest_weights[rows, 0]
    return np.asarray(np.maximum(share * table.length[rows], _LEAST_WEIGHT), np.float64)


class Arena:
    """Tasks with the knapsack's answers, ready for episodes."""

    def __init__(self, tasks: Sequence[Task], weights: RewardWeights) -> None:
        self.tasks, self.weights = tuple(tasks), weights
        self.references: tuple[Reference, ...] = references_of(tasks)
        self.table: TaskTable = stack(tasks)
        self._teacher = stack_references(self.tasks, self.references)

    def play(
        self, rows: Int64, act: Act | None, *, blur: float = 0.0, seed: int = 0, truth: MeasuredTruth | None = None
    ) -> tuple[Outcome, Transitions]:
        """Episodes over `rows` of the tasks; without `act` the teacher decides: the knapsack with the bytes left.

        `blur` is the standard deviation of noise on all actions: critics learn from choices that differ. `truth` measures its share of the
        episodes that end with another plan than the reference's.
        """
        table, episodes = self.table, Episodes(self.table, rows)
        judge = Judge(self.references, episodes, self.weights)
        rng = np.random.default_rng(seed)
        quality = np.zeros(len(rows))
        steps: list[Step] = []
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
            weight = step_weight(table, rows, at)
            end = (at + 1 >= table.length[rows]).astype(np.float64)
            scaled = step * table.length[rows] / weight
            steps.append((state, np.stack([action, wanted, weight, scaled, end], axis=-1).astype(np.float32), active))
        measured = {} if truth is None else self._measure(truth, episodes, judge.log_ratio, rng)
        log_ratio = judge.log_ratio
        for episode, surprise in measured.items():
            log_ratio[episode] += surprise
            correction = -self.weights.quality * surprise
            quality[episode] += correction
            self._spread(steps, episode, correction * self._blame(episodes, episode))
        terms = end_terms(self.weights, episodes, log_ratio)
        named = {**asdict(terms), "quality": quality}
        outcome = Outcome(log_ratio=log_ratio, terms=named, columns=episodes.columns, measured=measured)
        return outcome, _gather(steps, terms.total)

    def _measure(
        self, truth: MeasuredTruth, episodes: Episodes, predicted: Float64, rng: np.random.Generator
    ) -> dict[int, float]:
        """Episode -> measured less predicted log-ratio, of a random share."""
        chosen = np.flatnonzero(rng.random(len(episodes.rows)) < truth.share)
        found = {}
        for episode in chosen:
            task, reference = self.tasks[episodes.rows[episode]], self.references[episodes.rows[episode]]
            if task.name in truth.models and self._blame(episodes, int(episode)).any():
                columns = episodes.columns[episode, : len(task.names)]
                found[int(episode)] = truth.log_ratio(task, columns, reference) - float(predicted[episode])
        return found

    def _blame(self, episodes: Episodes, episode: int) -> Float64:
        """Each step's share [n_tensors] of what a measurement adds to the prediction: by its predicted distance from the reference plan.

        A tensor of the reference's own type has done nothing that the measurement of that plan does not hold as well.
        """
        row = episodes.rows[episode]
        kl, columns = self.tasks[row].kl, self.references[row].columns
        assert kl is not None
        each = np.arange(len(columns))
        moved = np.abs(kl[each, episodes.columns[episode, : len(columns)]] - kl[each, columns])
        return np.asarray(moved / moved.sum() if moved.any() else moved, np.float64)

    @staticmethod
    def _spread(steps: Sequence[Step], episode: int, rewards: Float64) -> None:
        """Add rewards [n_tensors] to the steps of an episode, scaled as theirs are."""
        for (_, values, _), reward in zip(steps, rewards, strict=False):
            values[episode, 3] += reward * len(rewards) / values[episode, 2]


def _gather(steps: list[Step], at_end: Float64) -> Transitions:
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
