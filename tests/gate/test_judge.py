"""Verdicts: what noise may and may not do, on numbers by hand and for all numbers."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ramp_edge.errors import BudgetViolatedError, GateUndecidedError
from ramp_edge.gate.budget_file import Budget
from ramp_edge.gate.judge import judge, judge_limit, judge_regression
from ramp_edge.gate.metrics import METRICS, Better, Source
from ramp_edge.gate.rules import Limit, Regression, parse_limit, parse_regression
from ramp_edge.gate.subject import Measurement, Subject
from ramp_edge.gate.verdict import Verdict
from ramp_edge.yaml_source import Place

PLACE = Place(path=Path("budgets.yaml"), line=3)
WITH_LIMITS = sorted(METRICS)
WITH_REGRESSIONS = sorted(name for name, metric in METRICS.items() if not metric.no_regression)


def measured(value: float, noise: float | None = 0.0, **conditions: str | int) -> Measurement:
    return Measurement(value=value, noise=noise, path=Path("new.json"), conditions=conditions)


def regression(name: str, allowed: float) -> Regression:
    return Regression(metric=METRICS[name], allowed=allowed, allowed_text=f"{100 * allowed}%", place=PLACE)


def limit(text: str) -> Limit:
    return parse_limit(text, PLACE)


def subject(**values: Measurement) -> Subject:
    return Subject(
        profile="pi", target="kitchen", model="m", file_sha256="a", source_sha256="s", file_bytes=1, paths=(Path("new.json"),),
        sources=frozenset(Source), measurements={k.replace("__", "."): v for k, v in values.items()}, doubts=(),
    )  # fmt: skip


def one_rule(rule: Limit | Regression) -> Budget:
    return Budget(path=Path("budgets.yaml"), defaults=(rule,), devices={}, places={})


def verdict(rule: Limit | Regression, new: Subject, old: Subject | None = None) -> Verdict:
    return judge(one_rule(rule), [new], None if old is None else [old]).subjects[0].judgements[0].verdict


@pytest.mark.parametrize(
    ("text", "value", "expected", "headroom"),
    [
        ("size_bytes <= 100 MB", 95e6, Verdict.PASS, 0.05),
        ("size_bytes <= 100 MB", 100e6, Verdict.PASS, 0.0),
        ("size_bytes < 100 MB", 100e6, Verdict.VIOLATED, 0.0),
        ("size_bytes <= 100 MB", 100e6 + 1, Verdict.VIOLATED, -1e-8),
        ("decode_tok_s >= 10", 12, Verdict.PASS, 0.2),
        ("decode_tok_s >= 10", 9.99, Verdict.VIOLATED, -0.001),
        ("accuracy_change.piqa >= -1 %", -0.005, Verdict.PASS, 0.5),
        ("accuracy_change.piqa >= -1 %", -0.02, Verdict.VIOLATED, -1.0),
        ("predicted_kl <= 0", 0.0, Verdict.PASS, None),
    ],
)
def test_a_limit_is_judged_by_the_value(text: str, value: float, expected: Verdict, headroom: float | None) -> None:
    judgement = judge_limit(limit(text), measured(value))
    assert judgement.verdict is expected
    assert judgement.headroom == (None if headroom is None else pytest.approx(headroom))


def test_a_limit_that_only_noise_may_keep_says_so() -> None:
    near = judge_limit(limit("kl_mean <= 0.05"), measured(0.049, 0.002))
    assert (near.verdict, near.reason) == (Verdict.PASS, "within the noise of the limit (+- 0.002 nats)")
    assert judge_limit(limit("kl_mean <= 0.05"), measured(0.045, 0.002)).reason == ""


def test_values_that_differ_by_a_byte_are_told_apart() -> None:
    reason = judge_limit(limit("size_bytes <= 100 MB"), measured(100_000_001)).reason
    assert reason == "size_bytes is 100000001 B, the budget allows at most 100000000 B"


@pytest.mark.parametrize(
    ("change", "noise_each", "allowed", "expected"),
    [
        (-0.04, 0.0, 0.05, Verdict.PASS),
        (-0.05, 0.0, 0.05, Verdict.PASS),
        (-0.06, 0.0, 0.05, Verdict.VIOLATED),
        (-0.06, 0.025, 0.05, Verdict.VIOLATED),  # noise of 5 % together does not explain 6 %
        (-0.06, 0.04, 0.05, Verdict.NOISY),  # 8 % does
        (-0.09, 0.04, 0.05, Verdict.VIOLATED),
        (-0.01, 0.04, 0.05, Verdict.NOISY),  # a real loss of 5 % could look like this
        (+0.02, 0.04, 0.05, Verdict.NOISY),  # and so could this
        (+0.04, 0.04, 0.05, Verdict.PASS),  # here 8 % of luck would still leave a loss of only 4 %
        (+0.20, 0.01, 0.05, Verdict.PASS),
        (0.0, 0.0, 0.0, Verdict.PASS),
        (-1e-6, 0.0, 0.0, Verdict.VIOLATED),
        (0.0, 0.001, 0.0, Verdict.NOISY),
    ],
)
def test_a_regression_needs_more_than_noise(
    change: float, noise_each: float, allowed: float, expected: Verdict
) -> None:
    old, new = measured(20.0, 20 * noise_each), measured(20 * (1 + change), 20 * noise_each)
    judgement = judge_regression(regression("decode_tok_s.median", allowed), new, old)
    assert judgement.verdict is expected
    assert judgement.change == pytest.approx(change, abs=1e-12)
    assert judgement.noise == pytest.approx(2 * noise_each)
    # Where lower is better, the same in the other direction.
    new = measured(20 * (1 - change), 20 * noise_each)
    assert judge_regression(regression("kl_mean", allowed), new, old).verdict is expected


def test_a_baseline_of_nothing() -> None:
    rule = regression("resident_bytes.tied_copy", 0.1)
    assert judge_regression(rule, measured(0), measured(0)).verdict is Verdict.PASS
    worse = judge_regression(rule, measured(5), measured(0))
    assert worse.verdict is Verdict.VIOLATED
    assert "+inf%" in worse.reason or "inf%" in worse.reason


def test_an_unknown_noise_never_passes() -> None:
    rule = regression("decode_tok_s.median", 0.5)
    for new, old in (
        (measured(30, None), measured(20)),
        (measured(30), measured(20, None)),
        (measured(1, None), measured(20)),
    ):
        assert judge_regression(rule, new, old).verdict is Verdict.NOISY


POSITIVE = st.floats(1e-6, 1e12)
NOISE = st.one_of(st.just(0.0), st.floats(0, 1e12), st.none())


@given(st.sampled_from(WITH_LIMITS), POSITIVE, POSITIVE, POSITIVE, NOISE, st.booleans())
def test_a_better_value_never_fails_a_limit_that_it_passed(
    name: str, bound: float, a: float, b: float, noise: float | None, strict: bool
) -> None:
    metric = METRICS[name]
    operator = ("<" if metric.better is Better.LOWER else ">") + ("" if strict else "=")
    rule = Limit(metric=metric, operator=operator, bound=bound, bound_text="", place=PLACE)
    worse, better = sorted((a, b), reverse=metric.better is Better.LOWER)
    first, second = judge_limit(rule, measured(worse, noise)), judge_limit(rule, measured(better, noise))
    assert not (first.verdict is Verdict.PASS and second.verdict is not Verdict.PASS)
    assert (first.verdict is Verdict.PASS) == rule.allows(worse)


@given(st.sampled_from(WITH_REGRESSIONS), st.floats(0, 0.99), POSITIVE, POSITIVE, POSITIVE, NOISE, NOISE)
def test_a_better_value_never_fails_a_regression_that_it_passed(
    name: str, allowed: float, before: float, a: float, b: float, noise: float | None, noise_before: float | None
) -> None:
    metric = METRICS[name]
    worse, better = sorted((a, b), reverse=metric.better is Better.LOWER)
    rule, old = regression(name, allowed), measured(before, noise_before)
    order = {Verdict.VIOLATED: 0, Verdict.NOISY: 1, Verdict.PASS: 2}
    first = judge_regression(rule, measured(worse, noise), old).verdict
    second = judge_regression(rule, measured(better, noise), old).verdict
    assert order[second] >= order[first]


@given(st.floats(0, 0.99), POSITIVE, POSITIVE, st.floats(0, 1e12), st.floats(0, 1e12), st.floats(0, 1e12))
def test_more_noise_never_makes_a_pass(
    allowed: float, before: float, value: float, noise: float, noise_before: float, more: float
) -> None:
    rule = regression("decode_tok_s.median", allowed)
    quiet = judge_regression(rule, measured(value, noise), measured(before, noise_before)).verdict
    loud = judge_regression(rule, measured(value, noise + more), measured(before, noise_before)).verdict
    assert loud is not Verdict.PASS or quiet is Verdict.PASS
    # And a pass means what it says: no worse than allowed, and a loss of twice that would have stood out.
    if quiet is Verdict.PASS:
        assert (before - value) / before <= allowed + 1e-9
        share = (noise + noise_before) / before
        assert share <= allowed + 1e-9 or (before - value) / before + share <= allowed


@given(st.sampled_from(WITH_LIMITS), POSITIVE, st.sampled_from(WITH_REGRESSIONS))
def test_a_missing_metric_never_passes(name: str, bound: float, compared: str) -> None:
    metric = METRICS[name]
    operator = "<=" if metric.better is Better.LOWER else ">="
    rule = Limit(metric=metric, operator=operator, bound=bound, bound_text="", place=PLACE)
    empty = subject()
    result = judge(one_rule(rule), [empty], None)
    assert result.subjects[0].judgements[0].verdict is Verdict.MISSING
    assert isinstance(result.error(), GateUndecidedError)
    there = replace(empty, measurements={compared: measured(bound)})
    assert verdict(regression(compared, 0.1), empty, there) is Verdict.MISSING
    assert verdict(regression(compared, 0.1), there, empty) is Verdict.MISSING
    assert verdict(regression(compared, 0.1), there, None) is Verdict.MISSING


def test_the_bench_s_own_doubts_leave_exact_figures_alone() -> None:
    shaky = replace(
        subject(size_bytes=measured(90e6), decode_tok_s__median=measured(50.0, 0.1)), doubts=("throttled: hot",)
    )
    assert verdict(limit("size_bytes <= 100 MB"), shaky) is Verdict.PASS
    assert verdict(limit("decode_tok_s >= 10"), shaky) is Verdict.UNSTABLE
    assert verdict(limit("decode_tok_s >= 60"), shaky) is Verdict.UNSTABLE
    quiet = replace(shaky, doubts=())
    rule = regression("decode_tok_s.median", 0.05)
    assert verdict(rule, shaky, quiet) is Verdict.UNSTABLE
    assert verdict(rule, quiet, shaky) is Verdict.UNSTABLE
    assert verdict(rule, quiet, quiet) is Verdict.PASS


@pytest.mark.parametrize(
    ("new", "old", "words"),
    [
        ({"threads": 2}, {"threads": 1}, "threads 2, in the baseline 1"),
        ({"runtime commit": None}, {"runtime commit": None}, "runtime commit is not known"),
        ({"runtime commit": "a"}, {"runtime commit": "b"}, "runtime commit a, in the baseline b"),
        ({"CPU": "x"}, {}, "CPU x, in the baseline unknown"),
        ({"governors": ""}, {"governors": "ondemand"}, "governors none, in the baseline ondemand"),
        (
            {"reference's perplexity": 20.0},
            {"reference's perplexity": 20.1},
            "reference's perplexity 20, in the baseline 20.1",
        ),
    ],
)
def test_other_conditions_are_no_baseline(new: dict[str, str], old: dict[str, str], words: str) -> None:
    a = subject(decode_tok_s__median=measured(50.0, 0.1, **new))
    b = subject(decode_tok_s__median=measured(50.0, 0.1, **old))
    judgement = judge(one_rule(regression("decode_tok_s.median", 0.05)), [a], [b]).subjects[0].judgements[0]
    assert judgement.verdict is Verdict.UNLIKE
    assert words in judgement.reason
    same = judge(one_rule(regression("decode_tok_s.median", 0.05)), [a], [a]).subjects[0].judgements[0]
    assert same.verdict is (Verdict.UNLIKE if new == {"runtime commit": None} else Verdict.PASS)


def test_the_reference_s_last_digits_may_differ() -> None:
    a, b = (subject(kl_mean=measured(0.05, 0.001, **{"reference's perplexity": p})) for p in (20.0, 20.01))
    assert verdict(regression("kl_mean", 0.1), a, b) is Verdict.PASS


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"source_sha256": "t"}, "built from another model"),
        ({"source_sha256": None, "file_sha256": "b"}, "give the build.json of both"),
        ({"target": "cellar"}, "the baseline is of cellar (pi), not of kitchen (pi)"),
        ({"profile": "other"}, "the baseline is of kitchen (other)"),
    ],
)
def test_another_model_or_device_is_no_baseline(changes: dict[str, str | None], words: str) -> None:
    new = subject(size_bytes=measured(1.0))
    result = judge(one_rule(regression("size_bytes", 0.05)), [new], [replace(new, **changes)])  # type: ignore[arg-type]
    judgement = result.subjects[0].judgements[0]
    assert judgement.verdict is Verdict.UNLIKE
    assert words in judgement.reason


def test_the_same_file_needs_no_build_record() -> None:
    new = replace(subject(size_bytes=measured(1.0)), source_sha256=None)
    assert verdict(regression("size_bytes", 0.05), new, new) is Verdict.PASS


def test_the_baseline_with_most_in_common_counts() -> None:
    new = subject(size_bytes=measured(1.0))
    alone = replace(subject(size_bytes=measured(0.5)), target=None)
    result = judge(one_rule(regression("size_bytes", 0.05)), [new], [alone, new])
    assert result.subjects[0].baseline is new


def test_a_violation_goes_before_doubts() -> None:
    budget = replace(
        one_rule(limit("size_bytes <= 1 MB")), defaults=(limit("size_bytes <= 1 MB"), limit("kl_mean <= 1"))
    )
    result = judge(budget, [subject(size_bytes=measured(2e6))], None)
    error = result.error()
    assert isinstance(error, BudgetViolatedError)
    assert error.exit_code == result.exit_code == 4
    assert (result.word, result.summary()) == ("violated", "2 rules: 1 violated, 1 missing")
    assert len(result.unjudged) == 1


def test_no_rule_is_no_pass() -> None:
    budget = Budget(path=Path("b"), defaults=(), devices={"x": (limit("kl_mean <= 1"),)}, places={"x": PLACE})
    with pytest.raises(GateUndecidedError, match="no rule for kitchen"):
        judge(budget, [subject()], None)


@pytest.mark.parametrize(("name", "near"), [("kitchn", "'kitchen'"), ("kitchen-pi", None), ("kitchen2", None)])
def test_a_misspelt_device_is_no_pass(name: str, near: str | None) -> None:
    rule = limit("size_bytes <= 1 MB")
    budget = Budget(path=Path("b"), defaults=(rule,), devices={name: (rule,)}, places={name: PLACE})
    new = subject(size_bytes=measured(1.0))
    if near is not None:
        with pytest.raises(GateUndecidedError, match=near):
            judge(budget, [new], None)
        return
    result = judge(budget, [new], None)
    assert [(one.subject.device, [j.verdict for j in one.judgements]) for one in result.subjects] == [
        ("kitchen (pi)", [Verdict.PASS]),
        (name, [Verdict.MISSING]),
    ]
    assert f"no record is for {name}" in result.unjudged[0][1].reason
    assert result.exit_code == 5
    asked = judge(budget, [new], None, devices=["kitchen"])
    assert (asked.exit_code, asked.notes) == (0, (f"no record for {name} (budgets.yaml:3): its rules were not judged",))
    assert judge(budget, [new], None, devices=["kitchen", name]).exit_code == 5
    with pytest.raises(GateUndecidedError, match="no record is for 'cellar'"):
        judge(budget, [new], None, devices=["cellar"])


def test_siblings_are_not_misspelt() -> None:
    rule = limit("size_bytes <= 1 MB")
    names = ("raspberry-pi-5-16gb", "raspberry-pi-5")
    new = replace(subject(size_bytes=measured(1.0)), profile="raspberry-pi-5-8gb", target=None)
    sibling, family = (
        Budget(path=Path("b"), defaults=(rule,), devices={name: (rule,)}, places={name: PLACE}) for name in names
    )
    assert judge(sibling, [new], None, devices=["raspberry-pi-5-8gb"]).word == "pass"
    with pytest.raises(GateUndecidedError, match="raspberry-pi-5-8gb"):
        judge(family, [new], None)


def test_skips_are_shown() -> None:
    skip = parse_regression("kl_mean", "skip", PLACE)
    budget = Budget(
        path=Path("b"), defaults=(limit("kl_mean <= 0.1"), limit("size_bytes <= 1 MB")), devices={"pi": (skip,)}, places={"pi": PLACE}
    )  # fmt: skip
    result = judge(budget, [subject(size_bytes=measured(1.0), kl_mean=measured(5.0))], None)
    assert [(j.metric.name, j.verdict.value) for j in result.subjects[0].judgements] == [
        ("size_bytes", "pass"),
        ("kl_mean", "skipped"),
    ]
    assert (result.exit_code, result.summary()) == (0, "1 rule: 1 pass, 1 skipped")


def test_limits_only_skips_what_needs_a_baseline() -> None:
    budget = Budget(
        path=Path("b"), defaults=(limit("size_bytes <= 1 MB"), regression("size_bytes", 0.0)), devices={}, places={}
    )
    new = subject(size_bytes=measured(1.0))
    assert judge(budget, [new], None).exit_code == 5
    assert judge(budget, [new], None, limits_only=True).exit_code == 0
    with pytest.raises(GateUndecidedError, match="every rule for kitchen"):
        judge(one_rule(regression("size_bytes", 0.0)), [new], None, limits_only=True)


def test_headroom_of_a_regression_is_what_is_left() -> None:
    judgement = judge_regression(regression("kl_mean", 0.1), measured(1.04), measured(1.0))
    assert judgement.headroom == pytest.approx(0.06)
    assert math.isinf(judge_regression(regression("kl_mean", 0.1), measured(1.0), measured(0.0)).headroom or 0)
