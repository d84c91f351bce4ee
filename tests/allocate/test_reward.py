"""Each reward term on its own, and what they add up to."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ramp_edge.allocate import reward as r

W = r.RewardWeights()
ZERO = np.zeros(1)


def one(value: float) -> np.ndarray:
    return np.array([value])


def test_quality_falls_with_the_logarithm_of_kl() -> None:
    assert float(r.quality_term(W, one(np.log(2.0)))[0]) == pytest.approx(-np.log(2.0))
    assert float(r.quality_term(W, one(np.log(0.5)))[0]) == pytest.approx(np.log(2.0))


@given(st.lists(st.floats(1e-9, 10.0), min_size=2, max_size=20))
def test_steps_of_quality_add_up_to_the_end_s(hoped: list[float]) -> None:
    """What the plan is hoped to come to, from the reference's KL to the plan's own."""
    steps = [r.log_ratio_step(one(a), one(b)) for a, b in itertools.pairwise(hoped)]
    assert sum(float(s[0]) for s in steps) == pytest.approx(np.log(hoped[-1] / hoped[0]), rel=1e-6, abs=1e-9)


def test_worse_than_the_reference_counts_more_than_better() -> None:
    worse = r.quality_term(W, one(0.3)) + r.worse_term(W, one(0.3))
    better = r.quality_term(W, one(-0.3)) + r.worse_term(W, one(-0.3))
    assert float(-worse[0]) == pytest.approx(0.45) and float(better[0]) == pytest.approx(0.3)


def test_over_budget_costs_far_more_than_under() -> None:
    assert float(r.unused_term(W, one(0.9))[0]) == pytest.approx(-0.02)
    assert float(r.over_term(W, one(1.1))[0]) == pytest.approx(-1.0)
    assert float(r.unused_term(W, one(1.1))[0]) == float(r.over_term(W, one(0.9))[0]) == 0.0
    excess = r.over_term(W, one(1.1)) + r.cliff_term(W, one(1.1), ZERO, ZERO)
    assert float(excess[0]) < 50 * float(r.unused_term(W, one(0.9))[0])


def test_the_cliff_is_a_step_and_counts_what_the_limits_decided() -> None:
    assert float(r.cliff_term(W, one(1.0), one(1.0), ZERO)[0]) == 0.0
    assert float(r.cliff_term(W, one(1.0 + 1e-9), ZERO, ZERO)[0]) == -1.0
    assert float(r.cliff_term(W, ZERO, one(1.01), ZERO)[0]) == -1.0
    assert float(r.cliff_term(W, ZERO, ZERO, one(0.25))[0]) == -0.25


def test_speed_costs_beyond_its_limit_only() -> None:
    assert float(r.speed_term(W, one(1.2))[0]) == pytest.approx(-0.1)
    assert float(r.speed_term(W, one(0.5))[0]) == 0.0


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("quality", lambda w: r.quality_term(w, one(1.0))),
        ("worse", lambda w: r.worse_term(w, one(1.0))),
        ("unused", lambda w: r.unused_term(w, one(0.5))),
        ("over", lambda w: r.over_term(w, one(1.5))),
        ("cliff", lambda w: r.cliff_term(w, one(1.5), one(0.0), one(0.5))),
        ("speed", lambda w: r.speed_term(w, one(1.5))),
    ],
)
def test_a_weight_of_nothing_takes_a_term_out(name: str, call: object) -> None:
    assert callable(call)
    assert float(call(W)[0]) < 0.0
    assert float(call(replace(W, **{name: 0.0}))[0]) == 0.0


def test_the_total_is_the_sum_of_the_terms() -> None:
    values = dict(zip(r.RewardTerms.__dataclass_fields__, np.arange(1.0, 7.0), strict=True))
    terms = r.RewardTerms(**{name: one(v) for name, v in values.items()})
    assert float(terms.total[0]) == 21.0
