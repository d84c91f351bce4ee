"""A first budget, written from records: a limit with headroom for each figure that matters, and what each line means."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ramp_edge.errors import GateUndecidedError
from ramp_edge.gate.metrics import METRICS, TASKS, Better, Metric, Unit
from ramp_edge.gate.subject import Measurement, Subject
from ramp_edge.gate.values import percent
from ramp_edge.units import human_bytes
from ramp_edge.yaml_source import quoted

_COLUMN = 44
"""Where comments begin."""
_PLAIN = re.compile(r"^[A-Za-z][A-Za-z0-9._-]*$")
_YAML_WORDS = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Line:
    """How much room a limit leaves."""

    metric: str
    room: float
    """Share of the value."""
    n_noise: float = 0.0
    """At least that many times the noise."""
    added: float = 0.0
    """In the metric's own unit."""
    allowed: float | None = None
    """Regression to suggest, as a share; more where the noise of two runs is larger."""


_LINES = (
    _Line(metric="size_bytes", room=0.02, allowed=0.01),
    _Line(metric="resident_bytes", room=0.05, allowed=0.02),
    _Line(metric="kl_mean", room=0.2, n_noise=3, allowed=0.1),
    _Line(metric="ppl_ratio", room=0.0, added=0.01),
    _Line(metric="decode_tok_s.median", room=0.1, allowed=0.05),
    _Line(metric="prefill_tok_s.median", room=0.1, allowed=0.05),
    _Line(metric="load_s.mmap", room=1.0),
    _Line(metric="peak_resident_bytes.mmap", room=0.05, allowed=0.05),
    *(_Line(metric=f"accuracy.{task}", room=0.0, n_noise=2, allowed=0.03) for task in TASKS),
)


def starter_budget(subjects: Sequence[Subject]) -> str:
    """The text of budgets.yaml. Raises GateUndecidedError for an unstable bench: nobody should be held to its figures."""
    for subject in subjects:
        if subject.doubts:
            raise GateUndecidedError(
                f"the bench of {subject.device} is unstable: {'; '.join(subject.doubts)}",
                hint="measure again on a quiet board, or give the build alone",
            )
    lines = [
        "# Budget for `ramp-edge gate`; docs/gates.md lists every metric. Limits are today's values with some headroom:",
        "# tighten what you promise to somebody, loosen what may change.",
    ]
    unnamed = [subject for subject in subjects if not subject.names]
    named = [subject for subject in subjects if subject.names]
    for subject in unnamed:
        lines += ["defaults:  # for every device", *_rules(subject, "  ")]
    if named:
        lines.append("devices:  # a profile's name, or that of a board in targets.yaml")
    for subject in named:
        lines += [f"  {_key(subject.names[-1])}:", *_rules(subject, "    ")]
    return "\n".join(lines) + "\n"


def _rules(subject: Subject, indent: str) -> Iterator[str]:
    regressions = []
    for line in _LINES:
        measured = subject.measurements.get(line.metric)
        if measured is None:
            continue
        metric = METRICS[line.metric]
        operator = "<=" if metric.better is Better.LOWER else ">="
        bound = _text(_bound(line, measured, metric), metric)
        yield _commented(f"{indent}- {metric.name} {operator} {bound}", _meaning(line, measured, metric))
        if line.allowed is not None and measured.noise is not None:
            sign = "+" if metric.better is Better.LOWER else "-"
            allowed = _allowed(line.allowed, measured)
            if allowed < 100:  # else nothing can be told
                regressions.append(f"{indent}# - {metric.name}: {sign}{allowed}%")
    if regressions:
        yield f"{indent}# At most so much worse than an older record; these need --baseline OLD."
        yield from regressions


def _bound(line: _Line, measured: Measurement, metric: Metric) -> float:
    room = max(abs(measured.value) * line.room, line.n_noise * (measured.noise or 0.0), line.added)
    value = measured.value + (room if metric.better is Better.LOWER else -room)
    return max(value, 0.0)


def _allowed(wanted: float, measured: Measurement) -> int:
    """Whole percent that two runs as noisy as this one can tell, half as much again to be on the safe side."""
    noise = 2 * (measured.noise or 0.0) / abs(measured.value) if measured.value else 0.0
    return math.ceil(100 * max(wanted, 1.5 * noise) - 1e-9)


def _text(value: float, metric: Metric) -> str:
    """Three digits, rounded away from the measured value, in the metric's unit."""
    up = metric.better is Better.LOWER
    if metric.unit is Unit.BYTES:
        return human_bytes(_rounded(value, up))
    if metric.unit is Unit.SHARE:
        return f"{_plain(_rounded(100 * value, up))} %"
    number = _plain(_rounded(value, up))
    return f"{number} {metric.unit.value}" if metric.unit in (Unit.TOK_S, Unit.SECONDS) else number


def _rounded(value: float, up: bool) -> float:
    if value == 0:
        return 0.0
    # From its decimal digits: a factor of 10 is not exact.
    mantissa, exponent = f"{value:.15e}".split("e")
    digits = math.ceil(float(mantissa) * 100) if up else math.floor(float(mantissa) * 100)
    return float(f"{digits}e{int(exponent) - 2}")


def _plain(value: float) -> str:
    text = f"{value:.15f}".rstrip("0").rstrip(".")
    return text if float(text) == value else repr(value)


def _meaning(line: _Line, measured: Measurement, metric: Metric) -> str:
    noise = f" +- {percent(measured.noise / abs(measured.value))}" if measured.noise and measured.value else ""
    return f"{metric.meaning}; now {_text_now(measured.value, metric)}{noise}"


def _text_now(value: float, metric: Metric) -> str:
    if metric.unit is Unit.BYTES:
        return human_bytes(value)
    return percent(value) if metric.unit is Unit.SHARE else f"{value:.4g}"


def _commented(rule: str, comment: str) -> str:
    return f"{rule:<{_COLUMN}}  # {comment}"


def _key(name: str) -> str:
    return name if _PLAIN.match(name) and name.lower() not in _YAML_WORDS else quoted(name)
