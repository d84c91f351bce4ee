"""Judgements in words: the same cells for the table, Markdown and JUnit."""

from __future__ import annotations

from dataclasses import dataclass

from ramp_edge.gate.rules import Limit, Regression
from ramp_edge.gate.values import format_apart, format_value, percent
from ramp_edge.gate.verdict import Judgement, SubjectResult
from ramp_edge.plain import one_line
from ramp_edge.units import human_bytes

COLUMNS = ("Metric", "Value", "Limit", "Headroom", "Verdict")


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A judgement as text."""

    metric: str
    value: str
    limit: str
    headroom: str
    verdict: str
    reason: str
    place: str

    @property
    def cells(self) -> tuple[str, ...]:
        """In the order of COLUMNS."""
        return (self.metric, self.value, self.limit, self.headroom, self.verdict)


def heading(result: SubjectResult) -> str:
    """Which model on which device."""
    subject = result.subject
    size = f", {human_bytes(subject.file_bytes)}" if subject.paths else ""
    return one_line(f"{subject.device}: {subject.model}{size}")


def sources(result: SubjectResult) -> str:
    """The files behind it."""
    text = ", ".join(map(str, result.subject.paths)) or "nothing"
    if result.baseline is not None:
        text += f"; baseline {', '.join(map(str, result.baseline.paths))}"
    return one_line(text)


def row(judgement: Judgement) -> Row:
    """A judgement as text."""
    rule = judgement.rule
    limit = "-"
    if isinstance(rule, Limit):
        limit = f"{rule.operator} {rule.bound_text}"
    elif isinstance(rule, Regression):
        limit = f"{rule.allowed_text} of baseline"
    headroom = "-" if judgement.headroom is None else percent(judgement.headroom, sign=judgement.headroom < 0)
    return Row(
        metric=judgement.metric.name,
        value=_value(judgement),
        limit=one_line(limit),
        headroom=headroom,
        verdict=judgement.verdict.value,
        reason=one_line(judgement.reason),
        place=one_line(str(judgement.place)),
    )


def _value(judgement: Judgement) -> str:
    measured, unit = judgement.measured, judgement.metric.unit
    if measured is None:
        return "-"
    if judgement.change is not None and judgement.baseline is not None:
        value, _ = format_apart(measured.value, judgement.baseline.value, unit)
        noise = f" +-{percent(judgement.noise)}" if judgement.noise else ""
        return f"{value} ({percent(judgement.change, sign=True)}{noise})"
    value = format_value(measured.value, unit)
    if isinstance(judgement.rule, Limit):
        value, _ = format_apart(measured.value, judgement.rule.bound, unit)
    noise = f" +-{percent(measured.noise / abs(measured.value))}" if measured.noise and measured.value else ""
    return value + noise
