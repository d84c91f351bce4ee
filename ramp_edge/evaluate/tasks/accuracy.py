"""From log-likelihoods to answers and accuracies."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from ramp_edge.evaluate.tasks.definitions import Metric
from ramp_edge.evaluate.tasks.records import Accuracy, ItemScore, TaskItem, TaskRun


def answer(item: TaskItem, score: ItemScore, metric: Metric) -> int:
    """Index of the best choice; the first where several are equal."""
    if metric is Metric.ACC:
        values = list(score.log_likelihoods)
    elif metric is Metric.ACC_NORM:
        values = [total / n for total, n in zip(score.log_likelihoods, item.n_characters, strict=True)]
    else:
        values = list(score.token_means)
    return int(np.argmax(values))


def answers(run: TaskRun, metric: Metric) -> npt.NDArray[np.int64]:
    """The answer to each item, [n_items]."""
    pairs = zip(run.data.items, run.scores, strict=True)
    return np.array([answer(item, score, metric) for item, score in pairs], dtype=np.int64)


def golds(run: TaskRun) -> npt.NDArray[np.int64]:
    """The right answers, [n_items]."""
    return np.array([item.gold for item in run.data.items], dtype=np.int64)


def accuracy(run: TaskRun, metric: Metric) -> Accuracy:
    """Share of right answers with its binomial standard error."""
    n = len(run.scores)
    n_correct = int((answers(run, metric) == golds(run)).sum())
    p = n_correct / n
    return Accuracy(metric=metric, n_correct=n_correct, n_items=n, value=p, std_error=math.sqrt(p * (1.0 - p) / n))
