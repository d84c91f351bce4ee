"""Frozen records of the task evaluation: what was asked, what a model answered, how it compares."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ramp_edge.evaluate.tasks.definitions import Metric, TaskDefinition


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskItem:
    """One question; choice i is continuations[i] after contexts[i]."""

    index: int
    """Place in the file, from 0."""
    line: int
    """Its first line in the file, from 1."""
    contexts: tuple[str, ...]
    continuations: tuple[str, ...]
    """With the space that separates them from the context."""
    n_characters: tuple[int, ...]
    """Length of each choice without that space."""
    gold: int

    @property
    def n_choices(self) -> int:
        return len(self.continuations)


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskData:
    """A task's file, or a sample of it."""

    definition: TaskDefinition
    path: Path
    sha256: str
    """Of the file as it lies on disk."""
    n_available: int
    """Items in the file."""
    items: tuple[TaskItem, ...]
    """The sample, in file order."""
    limit: int | None
    """What was asked for; None for all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ItemScore:
    """What a model makes of one item; one value a choice."""

    index: int
    log_likelihoods: tuple[float, ...]
    """Sum over the continuation's tokens, nats."""
    token_means: tuple[float, ...]
    """Mean over the continuation's tokens after the prefix that all choices share, nats per token."""
    cut: bool
    """True where the context was longer than the model's and lost its beginning."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskRun:
    """One model on one task."""

    data: TaskData
    scores: tuple[ItemScore, ...]
    """Of data.items, in the same order."""
    n_ctx: int
    n_evaluated: int
    """Items that were evaluated now; the others came from the cache."""
    seconds: float
    """Of that evaluation, loading included."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Accuracy:
    """Share of right answers by one metric."""

    metric: Metric
    n_correct: int
    n_items: int
    value: float
    std_error: float
    """Binomial: sqrt(p (1 - p) / n)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """An estimate and its 95 % confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class PairedComparison:
    """A model against the reference on the same items, by one metric."""

    metric: Metric
    difference: Interval
    """Accuracy minus the reference's."""
    retention: Interval | None
    """Accuracy over the reference's; None where the reference has no right answer."""
    n_both_correct: int
    n_only_model_correct: int
    n_only_reference_correct: int
    changed: float
    """Share of items that the two answer differently, right or wrong."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AverageAccuracy:
    """Mean over the tasks of the headline accuracies, each task counting the same."""

    value: float
    std_error: float


@dataclass(frozen=True, kw_only=True, slots=True)
class AverageComparison:
    """That mean against the reference's."""

    difference: Interval
    retention: Interval | None


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskModel:
    """A model to evaluate."""

    label: str
    path: Path
    sha256: str
    file_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class SuiteRun:
    """A model, and a reference where there is one, on several tasks."""

    model: TaskModel
    reference: TaskModel | None
    limit: int | None
    runs: tuple[TaskRun, ...]
    """One a task."""
    reference_runs: tuple[TaskRun, ...]
    """Of the same tasks; empty without a reference."""
