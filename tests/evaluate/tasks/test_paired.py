"""Paired statistics against published values, exact enumeration and resampling."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest

from ramp_edge.evaluate.tasks.accuracy import accuracy
from ramp_edge.evaluate.tasks.definitions import TASKS, Metric
from ramp_edge.evaluate.tasks.paired import (
    average_accuracy,
    compare,
    compare_averages,
    difference_interval,
    retention_interval,
)
from ramp_edge.evaluate.tasks.records import ItemScore, TaskData, TaskItem, TaskRun


def run_of(chosen: list[int], golds: list[int], name: str = "winogrande") -> TaskRun:
    """A run over items of three choices whose answers are `chosen`."""
    items = tuple(
        TaskItem(index=i, line=i + 1, contexts=("c",) * 3, continuations=(" a",) * 3, n_characters=(1,) * 3, gold=gold)
        for i, gold in enumerate(golds)
    )
    scores = tuple(
        ItemScore(
            index=i,
            log_likelihoods=tuple(-1.0 if choice == c else -2.0 for c in range(3)),
            token_means=(0.0,) * 3,
            cut=False,
        )
        for i, choice in enumerate(chosen)
    )
    data = TaskData(definition=TASKS[name], path=Path("x"), sha256="", n_available=len(items), items=items, limit=None)
    return TaskRun(data=data, scores=scores, n_ctx=512, n_evaluated=len(items), seconds=1.0)


def runs_of_table(both: int, only_model: int, only_reference: int, neither: int) -> tuple[TaskRun, TaskRun]:
    """Model and reference with these counts; where both are wrong, they are wrong alike."""
    pairs = [(0, 0)] * both + [(0, 1)] * only_model + [(1, 0)] * only_reference + [(1, 1)] * neither
    golds = [0] * len(pairs)
    return run_of([m for m, _ in pairs], golds), run_of([r for _, r in pairs], golds)


def test_published_values() -> None:
    """Complete response before and after therapy: 59 both, 6 first only, 16 second only, 80 neither (Cavo et al., 2012).

    The intervals are those that Fagerland, Lydersen and Laake's own code gives (R package contingencytables).
    """
    difference = difference_interval(n=161, only_model=6, only_reference=16)
    assert (round(difference.value, 4), round(difference.low, 4), round(difference.high, 4)) == (
        -0.0621,
        -0.1195,
        -0.0032,
    )
    retention = retention_interval(both=59, only_model=6, only_reference=16)
    assert retention is not None
    assert (round(retention.value, 4), round(retention.low, 4), round(retention.high, 4)) == (0.8667, 0.7579, 0.9910)


def test_counts_answers_and_changes() -> None:
    golds = [0, 0, 0, 1, 2, 2]
    found = compare(run_of([0, 0, 1, 0, 2, 1], golds), run_of([0, 1, 0, 2, 2, 1], golds), Metric.ACC)
    assert (found.n_both_correct, found.n_only_model_correct, found.n_only_reference_correct) == (2, 1, 1)
    assert found.changed == pytest.approx(3 / 6)  # one of them wrong in both, differently
    assert found.difference.value == 0.0
    assert found.retention is not None
    assert found.retention.value == 1.0


def test_accuracy_has_a_binomial_error() -> None:
    result = accuracy(run_of([0, 0, 0, 1], [0, 0, 0, 0]), Metric.ACC)
    assert (result.n_correct, result.n_items, result.value) == (3, 4, 0.75)
    assert result.std_error == pytest.approx(math.sqrt(0.75 * 0.25 / 4))


@pytest.mark.parametrize(
    "table", [(40, 0, 0, 60), (0, 0, 0, 10), (10, 0, 0, 0), (0, 5, 0, 5), (0, 0, 5, 5), (1, 0, 0, 0)]
)
def test_no_discordant_item_still_leaves_a_width(table: tuple[int, int, int, int]) -> None:
    found = compare(*runs_of_table(*table), Metric.ACC)
    assert -1 <= found.difference.low < found.difference.high <= 1
    assert found.difference.low <= found.difference.value <= found.difference.high
    if table[0] + table[2] == 0:
        assert found.retention is None
    else:
        assert found.retention is not None
        assert 0 <= found.retention.low <= found.retention.value <= found.retention.high


@pytest.mark.parametrize(
    ("shares", "most"),
    [
        ((0.4, 0.05, 0.08, 0.47), 0.98),  # measured 0.974, 0.963
        ((0.2, 0.15, 0.15, 0.5), 0.97),  # measured 0.959, 0.955
        ((0.7, 0.02, 0.02, 0.26), 1.0),  # measured 0.9991, 0.9953: with two or three discordant items both are wide
    ],
)
def test_intervals_cover_what_they_promise(shares: tuple[float, float, float, float], most: float) -> None:
    """Exact coverage: the probability of all tables of 60 items whose interval holds the truth."""
    n = 60
    logs = [math.lgamma(i + 1) for i in range(n + 1)]
    covered = {"difference": 0.0, "retention": 0.0}
    true_difference = shares[1] - shares[2]
    true_ratio = (shares[0] + shares[1]) / (shares[0] + shares[2])
    for b, c in itertools.product(range(26), repeat=2):
        difference = difference_interval(n=n, only_model=b, only_reference=c)
        for a in range(n - b - c + 1):
            counts = (a, b, c, n - a - b - c)
            weight = logs[n] + sum(k * math.log(p) - logs[k] for k, p in zip(counts, shares, strict=True))
            probability = math.exp(weight)
            covered["difference"] += probability * (difference.low <= true_difference <= difference.high)
            retention = retention_interval(both=a, only_model=b, only_reference=c)
            if retention is not None:
                covered["retention"] += probability * (retention.low <= true_ratio <= retention.high)
    assert all(0.94 < share < most for share in covered.values()), covered


def test_the_average_s_interval_is_that_of_resampled_items() -> None:
    rng = np.random.default_rng(0)
    tables = [(200, 20, 35, 145), (90, 15, 15, 80), (300, 30, 10, 160)]
    pairs = [runs_of_table(*table) for table in tables]
    runs, references = [m for m, _ in pairs], [r for _, r in pairs]
    found = compare_averages(runs, references)
    draws = [
        rng.multinomial(sum(table), np.array(table) / sum(table), size=40_000) / sum(table) for table in tables
    ]  # each [n_draws, 4]
    model = np.mean([draw[:, 0] + draw[:, 1] for draw in draws], axis=0)
    reference = np.mean([draw[:, 0] + draw[:, 2] for draw in draws], axis=0)
    assert found.difference.value == pytest.approx(average_accuracy(runs).value - average_accuracy(references).value)
    assert average_accuracy(runs).std_error == pytest.approx(model.std(), rel=0.02)
    low, high = np.quantile(model - reference, [0.025, 0.975])
    assert (found.difference.low, found.difference.high) == pytest.approx((low, high), abs=0.002)
    assert found.retention is not None
    low, high = np.quantile(model / reference, [0.025, 0.975])
    assert (found.retention.low, found.retention.high) == pytest.approx((low, high), abs=0.004)


def test_an_average_of_nothing_right_has_no_retention() -> None:
    run, reference = runs_of_table(0, 0, 0, 9)
    found = compare_averages([run], [reference])
    assert found.retention is None
    assert found.difference.low < 0 < found.difference.high


def test_runs_over_other_items_are_refused() -> None:
    with pytest.raises(ValueError, match="not over the same items"):
        compare(run_of([0], [0]), run_of([0, 1], [0, 1]), Metric.ACC)
