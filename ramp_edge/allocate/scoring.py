"""From episodes to reward terms: what the environment and the trainer share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ramp_edge.allocate.cases import Task
from ramp_edge.allocate.episode import Episodes
from ramp_edge.allocate.reference import Reference, stack_references
from ramp_edge.allocate.reward import (
    RewardTerms,
    RewardWeights,
    cliff_term,
    log_ratio_step,
    over_term,
    quality_term,
    speed_term,
    unused_term,
    worse_term,
)
from ramp_edge.codec.types import QuantType

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasuredTruth:
    """Measured KL of whole plans, the final word beside the table: real codecs, real text."""

    kl: Callable[[Task, Mapping[str, QuantType]], float]
    """Nats per token of a plan. It is asked for reference plans again and again."""
    models: frozenset[str]
    """Names of tasks that can be measured."""
    share: float
    """Of the episodes that are measured, 0 to 1."""
    identity: str = ""
    """Of models and texts: a training run that was stopped goes on with the same."""

    def log_ratio(self, task: Task, columns: Int64, reference: Reference) -> float:
        """ln(KL / reference KL), both measured, of a plan's columns [n_tensors]."""
        plans = (columns, reference.columns)
        of_plan, of_reference = (
            self.kl(task, {n: task.types[c] for n, c in zip(task.names, plan, strict=True)}) for plan in plans
        )
        return float(np.log(of_plan / of_reference))


class Judge:
    """What choices of many episodes come to, step by step: KL so far, and the best rest with the bytes left."""

    def __init__(self, references: Sequence[Reference], episodes: Episodes, weights: RewardWeights) -> None:
        self._ladders = stack_references(episodes.table.tasks, references)
        self._episodes, self._weights = episodes, weights
        self._reference = np.array([reference.kl for reference in references])[episodes.rows]
        self.kl = np.zeros(len(episodes.rows))
        self._hoped = self._reference.copy()

    @property
    def log_ratio(self) -> Float64:
        """ln(KL so far / the reference's KL) [n]."""
        return np.asarray(np.log(self.kl / self._reference), np.float64)

    def step(self, active: npt.NDArray[np.bool_], taken: Int64) -> Float64:
        """The quality term [n] of the step that the episodes have just taken; 0 where an episode was over."""
        episodes = self._episodes
        table, rows, at = episodes.table, episodes.rows, episodes.at
        self.kl = self.kl + np.where(active, table.kl[rows, at - 1, taken], 0.0)
        left = table.max_bytes[rows] - episodes.used
        hoped = np.where(active, self.kl + self._ladders.best_kl(rows, at, left), self._hoped)
        quality = quality_term(self._weights, log_ratio_step(self._hoped, hoped))
        self._hoped = hoped
        return np.asarray(np.where(active, quality, 0.0), np.float64)


def end_terms(weights: RewardWeights, episodes: Episodes, log_ratio: Float64) -> RewardTerms:
    """The terms that only the whole plan decides; quality, which the steps paid, is 0. log_ratio [n]: ln(KL / reference KL)."""
    table, rows = episodes.table, episodes.rows
    used = episodes.used / np.maximum(table.max_bytes[rows], 1.0)
    limit = table.max_seconds[rows]
    seconds = np.where(np.isfinite(limit), episodes.used_seconds / np.where(np.isfinite(limit), limit, 1.0), 0.0)
    # Within the tolerance of the mask.
    seconds = np.where(seconds <= 1.0 + 1e-8, np.minimum(seconds, 1.0), seconds)
    return RewardTerms(
        quality=np.zeros(len(rows)),
        worse=worse_term(weights, log_ratio),
        unused=unused_term(weights, used),
        over=over_term(weights, used),
        cliff=cliff_term(weights, used, seconds, episodes.forced),
        speed=speed_term(weights, seconds),
    )
