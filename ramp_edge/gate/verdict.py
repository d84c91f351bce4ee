"""What became of each rule, and of the gate as a whole."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from ramp_edge.errors import BudgetViolatedError, GateUndecidedError, RampEdgeError
from ramp_edge.gate.metrics import Metric
from ramp_edge.gate.rules import Rule
from ramp_edge.gate.subject import Measurement, Subject
from ramp_edge.yaml_source import Place


class Verdict(str, Enum):
    """Everything but PASS and SKIPPED turns the gate red."""

    PASS = "pass"
    VIOLATED = "violated"
    MISSING = "missing"
    """The record, or the baseline, does not have the figure."""
    UNLIKE = "unlike"
    """The baseline was made of another model, or under other conditions."""
    UNSTABLE = "unstable"
    """The bench itself doubts its figures."""
    NOISY = "noisy"
    """The noise is larger than the regression that is allowed."""
    SKIPPED = "skipped"

    @property
    def is_unjudged(self) -> bool:
        return self in (Verdict.MISSING, Verdict.UNLIKE, Verdict.UNSTABLE, Verdict.NOISY)


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    """One rule on one subject."""

    metric: Metric
    rule: Rule | None
    """None where a device skips the defaults of the metric."""
    verdict: Verdict
    reason: str
    """Why it is no pass; what to know of a pass."""
    place: Place
    """The rule's line in the budget."""
    measured: Measurement | None = None
    baseline: Measurement | None = None
    """Of a regression."""
    change: float | None = None
    """(new - old) / old of a regression."""
    noise: float | None = None
    """Of both runs together, as a share of the baseline's value."""
    headroom: float | None = None
    """What is left, as a share of the limit; of a regression, as a share of the baseline's value. Below 0 beyond it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SubjectResult:
    """All rules on one subject."""

    subject: Subject
    baseline: Subject | None
    judgements: tuple[Judgement, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class GateResult:
    """Everything that was judged."""

    budget: Path
    subjects: tuple[SubjectResult, ...]
    notes: tuple[str, ...]
    """What was not judged because nobody asked for it."""

    def judgements(self, *verdicts: Verdict) -> list[tuple[SubjectResult, Judgement]]:
        """Those with one of these verdicts."""
        return [(s, j) for s in self.subjects for j in s.judgements if j.verdict in verdicts]

    @property
    def violated(self) -> list[tuple[SubjectResult, Judgement]]:
        return self.judgements(Verdict.VIOLATED)

    @property
    def unjudged(self) -> list[tuple[SubjectResult, Judgement]]:
        return self.judgements(*(verdict for verdict in Verdict if verdict.is_unjudged))

    @property
    def word(self) -> str:
        """pass, violated or undecided."""
        return "violated" if self.violated else "undecided" if self.unjudged else "pass"

    @property
    def exit_code(self) -> int:
        error = self.error()
        return 0 if error is None else error.exit_code

    def summary(self) -> str:
        """How many rules, and what became of them."""
        counts = [(verdict, len(self.judgements(verdict))) for verdict in Verdict]
        total = sum(n for verdict, n in counts if verdict is not Verdict.SKIPPED)
        parts = ", ".join(f"{n} {verdict.value}" for verdict, n in counts if n)
        return f"{total} rule{'' if total == 1 else 's'}: {parts}"

    def error(self) -> RampEdgeError | None:
        """What the gate ends with: a violation before doubts, since measuring again would not mend it; None where all passed."""
        if self.violated:
            return BudgetViolatedError(f"the budget is violated: {_named(self.violated)}")
        if self.unjudged:
            return GateUndecidedError(f"the gate cannot judge: {_named(self.unjudged)}")
        return None


def _named(found: list[tuple[SubjectResult, Judgement]]) -> str:
    return "; ".join(f"{one.subject.device}: {j.reason}" for one, j in found)
