"""Rules on measurements. Pure functions; docs/gates.md tells the definitions in words.

A limit is judged by the value: beyond it is a violation, whatever the noise. A regression with the change c in the worse
direction, the allowance a and the noise u of both runs together, all as shares of the baseline's value:

    c + u <= a          pass: within the allowance even if noise flattered both runs
    c > a and c > u     violated: worse than allowed, and by more than noise can explain
    otherwise u > a     noisy: a loss of the allowed size could not be told from noise, so nothing passes
    otherwise           pass: no worse than allowed, seen through less noise than that

So more noise never makes a pass, and a better value never turns a pass into anything else.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from ramp_edge.errors import GateUndecidedError
from ramp_edge.gate.budget_file import Budget
from ramp_edge.gate.metrics import HOW_TO_MEASURE, Better, Metric, Source
from ramp_edge.gate.rules import Limit, Regression, Rule, Skip
from ramp_edge.gate.subject import Measurement, Subject, nothing_of, same_device, unlike_conditions, unlike_models
from ramp_edge.gate.values import format_apart, format_value, percent
from ramp_edge.gate.verdict import GateResult, Judgement, SubjectResult, Verdict
from ramp_edge.plain import one_line

_WORDS = {"<=": "allows at most", "<": "wants less than", ">=": "wants at least", ">": "wants more than"}
_NEAR = 0.85
"""So alike that one name is a misspelling of the other."""
_DOUBTS_TOLD = 2
_ROUNDING = 1e-12
"""0.6 / 12 is a little more than 5 %."""


def judge(
    budget: Budget,
    subjects: Sequence[Subject],
    baselines: Sequence[Subject] | None,
    *,
    limits_only: bool = False,
    devices: Sequence[str] = (),
) -> GateResult:
    """Apply the budget to every subject. `baselines` is None where none was given, `limits_only` skips what needs one.

    Every section of the budget wants a record; with `devices` only those do, and the others are noted.
    Raises GateUndecidedError where no rule speaks of a subject, or a section's name is nearly that of a device.
    """
    _check_names(budget, subjects, devices)
    results = []
    for subject in subjects:
        rules, skips = budget.rules_for(subject.names)
        if not rules:
            raise GateUndecidedError(
                f"{budget.path} has no rule for {subject.device} ({subject.paths[0]})",
                hint="add a rule to defaults, or a section of that name to devices",
            )
        old = _baseline(subject, baselines)
        judgements = [_judge_rule(rule, subject, old, limits_only) for rule in rules]
        judgements += [
            Judgement(
                metric=skip.metric, rule=None, verdict=Verdict.SKIPPED, reason="skipped by the device's section",
                place=skip.place, measured=subject.measurements.get(skip.metric.name),
            )
            for skip in skips
        ]  # fmt: skip
        if all(judgement.verdict is Verdict.SKIPPED for judgement in judgements):
            raise GateUndecidedError(
                f"every rule for {subject.device} in {budget.path} needs a baseline, and --limits-only was given",
                hint="give a --baseline, or add a limit",
            )
        results.append(
            SubjectResult(
                subject=subject, baseline=old if isinstance(old, Subject) else None, judgements=tuple(judgements)
            )
        )
    absent, notes = _absent(budget, subjects, devices)
    return GateResult(budget=budget.path, subjects=(*results, *absent), notes=tuple(notes))


def _check_names(budget: Budget, subjects: Sequence[Subject], devices: Sequence[str]) -> None:
    names = [name for subject in subjects for name in subject.names]
    for name in devices:
        if name not in names and name not in budget.devices:
            raise GateUndecidedError(
                f"no record is for {name!r}; there are records for {', '.join(names) or 'no device'}"
            )
    unspoken = [name for name in names if name not in budget.devices]
    for name in budget.devices.keys() - set(names):
        # Names that differ in numbers alone are siblings: pi-8gb and pi-16gb, lab and lab-2.
        others = [other for other in unspoken if _without_numbers(other) != _without_numbers(name)]
        if near := difflib.get_close_matches(name, others, n=1, cutoff=_NEAR):
            raise GateUndecidedError(
                f"{budget.places[name]}: devices.{one_line(name)}: no record is for a device of that name, but there is one for {near[0]!r}",
                hint="correct the name in the budget",
            )


def _absent(
    budget: Budget, subjects: Sequence[Subject], devices: Sequence[str]
) -> tuple[list[SubjectResult], list[str]]:
    """Sections without a record: all their rules are missing, or a note where other devices were asked for."""
    results, notes = [], []
    names = {name for subject in subjects for name in subject.names}
    for name, section in budget.devices.items():
        rules = [rule for rule in section if not isinstance(rule, Skip)]
        if name in names or not rules:
            continue
        if devices and name not in devices:
            notes.append(f"no record for {one_line(name)} ({budget.places[name]}): its rules were not judged")
            continue
        reason = f"no record is for {one_line(name)}: give its bench.json or build.json; --device judges single devices"
        judgements = tuple(_said(rule, Verdict.MISSING, f"{rule.text}: {reason}", None) for rule in rules)
        results.append(SubjectResult(subject=nothing_of(one_line(name)), baseline=None, judgements=judgements))
    return results, notes


def _without_numbers(name: str) -> str:
    return re.sub(r"[-_.]?[0-9]+", "", name)


@dataclass(frozen=True, kw_only=True, slots=True)
class _NoBaseline:
    """Why there is nothing to compare with."""

    verdict: Verdict
    reason: str


def _baseline(subject: Subject, baselines: Sequence[Subject] | None) -> Subject | _NoBaseline:
    """The subject to compare with."""
    if baselines is None:
        return _NoBaseline(verdict=Verdict.MISSING, reason="no --baseline was given")
    found = [old for old in baselines if same_device(subject, old)]
    if not found:
        devices = ", ".join(old.device for old in baselines) or "nothing"
        return _NoBaseline(verdict=Verdict.UNLIKE, reason=f"the baseline is of {devices}, not of {subject.device}")
    # A build alone and a build with its bench may both be there: the one that shares most names counts.
    return max(found, key=lambda old: len(set(old.names) & set(subject.names)))


def _judge_rule(rule: Rule, subject: Subject, old: Subject | _NoBaseline, limits_only: bool) -> Judgement:
    new = subject.measurements.get(rule.metric.name)
    if isinstance(rule, Regression) and limits_only:
        return _said(rule, Verdict.SKIPPED, "needs a baseline, and --limits-only was given", new)
    if new is None:
        return _said(rule, Verdict.MISSING, _missing(rule.metric, subject), None)
    if rule.metric.source is Source.BENCH and subject.doubts:
        return _said(
            rule, Verdict.UNSTABLE, f"{rule.metric.name}: the bench is unstable: {_first(subject.doubts)}", new
        )
    if isinstance(rule, Limit):
        return judge_limit(rule, new)
    if isinstance(old, _NoBaseline):
        return _said(rule, old.verdict, f"{rule.text}: {old.reason}", new)
    before = old.measurements.get(rule.metric.name)
    if before is None:
        return _said(rule, Verdict.MISSING, f"in the baseline, {_missing(rule.metric, old)}", new)
    model = unlike_models(subject, old)
    unlike = [model] if model is not None else unlike_conditions(new, before)
    if unlike:
        return _said(
            rule, Verdict.UNLIKE, f"{rule.metric.name}: {before.path} is no baseline: {'; '.join(unlike)}", new
        )
    if rule.metric.source is Source.BENCH and old.doubts:
        doubts = _first(old.doubts)
        return _said(rule, Verdict.UNSTABLE, f"{rule.metric.name}: the baseline's bench is unstable: {doubts}", new)
    return judge_regression(rule, new, before)


def _first(doubts: Sequence[str]) -> str:
    """Enough of them to know what to mend; bench.json has them all."""
    more = f"; and {len(doubts) - _DOUBTS_TOLD} more" if len(doubts) > _DOUBTS_TOLD else ""
    return "; ".join(doubts[:_DOUBTS_TOLD]) + more


def _said(rule: Rule, verdict: Verdict, reason: str, measured: Measurement | None) -> Judgement:
    return Judgement(metric=rule.metric, rule=rule, verdict=verdict, reason=reason, place=rule.place, measured=measured)


def judge_limit(rule: Limit, new: Measurement) -> Judgement:
    """By the value alone; a pass that noise could have made says so."""
    metric = rule.metric
    room = rule.bound - new.value if metric.better is Better.LOWER else new.value - rule.bound
    headroom = room / abs(rule.bound) if rule.bound else None
    if not rule.allows(new.value):
        value, bound = format_apart(new.value, rule.bound, metric.unit)
        verdict = Verdict.VIOLATED
        reason = f"{metric.name} is {value}, the budget {_WORDS[rule.operator]} {bound}"
    else:
        verdict, reason = Verdict.PASS, ""
        if new.noise and new.noise > room:
            reason = f"within the noise of the limit (+- {format_value(new.noise, metric.unit, 2)})"
    return Judgement(
        metric=metric, rule=rule, verdict=verdict, reason=reason, place=rule.place, measured=new, headroom=headroom
    )


def judge_regression(rule: Regression, new: Measurement, old: Measurement) -> Judgement:
    """By the change and the noise of both runs; the module says how."""
    metric = rule.metric
    worse = new.value - old.value if metric.better is Better.LOWER else old.value - new.value
    worse = _share(worse, old.value)
    change = worse if metric.better is Better.LOWER else -worse
    noise = math.inf if new.noise is None or old.noise is None else _share(new.noise + old.noise, old.value)
    if worse + noise <= rule.allowed:
        verdict, reason = Verdict.PASS, ""
    elif worse > rule.allowed + _ROUNDING and worse > noise:
        value, before = format_apart(new.value, old.value, metric.unit)
        verdict = Verdict.VIOLATED
        reason = f"{metric.name} is {value}, {percent(change, sign=True)} from {before} of the baseline; {rule.allowed_text} is allowed"
        reason += f", noise is +-{percent(noise)}" if noise else ""
    elif noise > rule.allowed + _ROUNDING:
        verdict = Verdict.NOISY
        reason = (
            f"{metric.name}: {percent(change, sign=True)}, but the noise of both runs is +-{percent(noise)}, more than the "
            f"{percent(rule.allowed)} that are allowed: {_quieter(metric)}"
        )
    else:
        verdict, reason = Verdict.PASS, ""
    return Judgement(
        metric=metric,
        rule=rule,
        verdict=verdict,
        reason=reason,
        place=rule.place,
        measured=new,
        baseline=old,
        change=change,
        noise=noise,
        headroom=rule.allowed - worse,
    )


def _share(amount: float, of: float) -> float:
    """amount / of, where a baseline of 0 makes any change endless."""
    if amount == 0:
        return 0.0
    return amount / abs(of) if of else math.copysign(math.inf, amount)


def _quieter(metric: Metric) -> str:
    if metric.source is Source.BENCH:
        return "measure again on a quiet board with more --repeats, or allow more"
    if metric.source is Source.TASKS:
        return "evaluate more items, or allow more"
    return "evaluate more text (--effort max), or allow more"


def _missing(metric: Metric, subject: Subject) -> str:
    if metric.source not in subject.sources:
        return f"{metric.name} is missing: {HOW_TO_MEASURE[metric.source]}"
    head = metric.name.split(".")[0]
    near = sorted(name for name in subject.measurements if name.split(".")[0] == head)
    also = f"; there are {', '.join(near)}" if near else ""
    return f"{metric.name} is missing: the record does not have it{also}"
