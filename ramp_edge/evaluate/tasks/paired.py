"""Paired comparison of two models on the same items.

Of n items, a are right in both, b only in the model, c only in the reference. All intervals are for 95 %.

Difference (b - c)/n: Wald with one pseudo-item in each discordant cell. With p = (b+1)/(n+2), q = (c+1)/(n+2):
    (p - q) +- z sqrt((p + q - (p - q)^2) / (n + 2))
(Bonett and Price, Adjusted Wald confidence interval for a difference of binomial proportions based on paired data,
J. Educ. Behav. Stat. 37, 2012).

Retention (a+b)/(a+c): hybrid Wilson (Bonett and Price, Confidence intervals for a ratio of binomial proportions based
on paired data, Statistics in Medicine 25, 2006). Wilson intervals (l1, u1) and (l2, u2) of (a+b)/m and (a+c)/m with
m = a+b+c and z reduced to z A / (B1 + B2), where
    A  = sqrt((b + c + 2) / ((a+b+1) (a+c+1)))
    B1 = sqrt((1 - (a+b+1)/(m+2)) / (a+b+1)), B2 likewise with c for b
give l1/u2 ... u1/l2. Both are recommended for small and large n, and keep a width where no answer differs, by
Fagerland, Lydersen and Laake, Recommended tests and confidence intervals for paired binomial proportions,
Statistics in Medicine 33, 2014.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ramp_edge.evaluate.tasks.accuracy import accuracy, answers, golds
from ramp_edge.evaluate.tasks.definitions import Metric
from ramp_edge.evaluate.tasks.records import (
    AverageAccuracy,
    AverageComparison,
    Interval,
    PairedComparison,
    TaskRun,
)

Z95 = 1.959963984540054
"""Two-sided 95 % point of the standard normal distribution."""


def difference_interval(*, n: int, only_model: int, only_reference: int) -> Interval:
    """Paired difference of two accuracies over n items."""
    p, q = (only_model + 1) / (n + 2), (only_reference + 1) / (n + 2)
    half = Z95 * math.sqrt((p + q - (p - q) ** 2) / (n + 2))
    return Interval(value=(only_model - only_reference) / n, low=max(-1.0, p - q - half), high=min(1.0, p - q + half))


def retention_interval(*, both: int, only_model: int, only_reference: int) -> Interval | None:
    """Ratio of two accuracies on the same items; None where the reference has no right answer."""
    right, reference_right = both + only_model, both + only_reference
    if reference_right == 0:
        return None
    m = both + only_model + only_reference
    a = math.sqrt((only_model + only_reference + 2) / ((right + 1) * (reference_right + 1)))
    b1, b2 = (math.sqrt((1 - (x + 1) / (m + 2)) / (x + 1)) for x in (right, reference_right))
    z = Z95 * a / (b1 + b2)
    low, high = _wilson(right, m, z)
    reference_low, reference_high = _wilson(reference_right, m, z)
    return Interval(value=right / reference_right, low=low / reference_high, high=high / reference_low)


def _wilson(x: int, n: int, z: float) -> tuple[float, float]:
    centre = 2 * x + z * z
    half = z * math.sqrt(z * z + 4 * x * (1 - x / n))
    return (centre - half) / (2 * (n + z * z)), (centre + half) / (2 * (n + z * z))


def compare(run: TaskRun, reference: TaskRun, metric: Metric) -> PairedComparison:
    """One metric of two runs over the same items."""
    if [item.index for item in run.data.items] != [item.index for item in reference.data.items]:
        raise ValueError("the two runs are not over the same items")
    ours, theirs, gold = answers(run, metric), answers(reference, metric), golds(run)
    right, reference_right = ours == gold, theirs == gold
    both, only_model, only_reference = (
        int((right & reference_right).sum()),
        int((right & ~reference_right).sum()),
        int((~right & reference_right).sum()),
    )
    return PairedComparison(
        metric=metric,
        difference=difference_interval(n=len(gold), only_model=only_model, only_reference=only_reference),
        retention=retention_interval(both=both, only_model=only_model, only_reference=only_reference),
        n_both_correct=both,
        n_only_model_correct=only_model,
        n_only_reference_correct=only_reference,
        changed=float((ours != theirs).mean()),
    )


def average_accuracy(runs: Sequence[TaskRun]) -> AverageAccuracy:
    """Mean of the headline accuracies; tasks are independent, so their variances add."""
    results = [accuracy(run, run.data.definition.headline) for run in runs]
    return AverageAccuracy(
        value=sum(result.value for result in results) / len(results),
        std_error=math.sqrt(sum(result.std_error**2 for result in results)) / len(results),
    )


def compare_averages(runs: Sequence[TaskRun], references: Sequence[TaskRun]) -> AverageComparison:
    """The mean headline accuracy of a model (A) against the reference's (R), over T tasks.

    With V(x, y) = sum over tasks of cov(x, y) / T^2, the difference has the variance V(A,A) + V(R,R) - 2 V(A,R), and
    log(A/R), by the delta method, V(A,A)/A^2 + V(R,R)/R^2 - 2 V(A,R)/(A R). As above, each task's covariances are
    taken with one pseudo-item in each discordant cell.
    """
    model, reference, joint = 0.0, 0.0, 0.0
    for run, other in zip(runs, references, strict=True):
        found = compare(run, other, run.data.definition.headline)
        n = len(run.scores) + 2
        both = found.n_both_correct / n
        p, q = both + (found.n_only_model_correct + 1) / n, both + (found.n_only_reference_correct + 1) / n
        weight = n * len(runs) ** 2
        model += p * (1 - p) / weight
        reference += q * (1 - q) / weight
        joint += (both - p * q) / weight
    a, r = average_accuracy(runs).value, average_accuracy(references).value
    half = Z95 * math.sqrt(model + reference - 2 * joint)
    retention = None
    if a > 0 and r > 0:
        spread = math.exp(Z95 * math.sqrt(model / a**2 + reference / r**2 - 2 * joint / (a * r)))
        retention = Interval(value=a / r, low=a / r / spread, high=a / r * spread)
    return AverageComparison(difference=Interval(value=a - r, low=a - r - half, high=a - r + half), retention=retention)
