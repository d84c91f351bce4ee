"""The result as Markdown, for a comment on a pull request and for a step summary. Names from records stay text: no HTML, no mentions."""

from __future__ import annotations

from ramp_edge.gate.verdict import GateResult, SubjectResult, Verdict
from ramp_edge.gate.view import COLUMNS, heading, row, sources
from ramp_edge.plain import one_line

MARKER = "<!-- ramp-edge gate -->"
"""First line: finds the comment again."""
_SIGNS = {Verdict.PASS: "✅", Verdict.VIOLATED: "❌", Verdict.SKIPPED: "⏭️"}
_UNJUDGED = "⚠️"
_HEADINGS = {"pass": "passed", "violated": "violated", "undecided": "undecided"}


def gate_markdown(result: GateResult) -> str:
    """The whole text."""
    sign = {"pass": "✅", "violated": "❌"}.get(result.word, _UNJUDGED)
    lines = [
        MARKER,
        f"### {sign} ramp-edge gate: {_HEADINGS[result.word]}",
        "",
        f"{result.summary()}; {_code(str(result.budget))}",
    ]
    for one in result.subjects:
        lines += ["", *_subject(one)]
    if result.notes:
        lines += ["", *(f"- {_code(note)}" for note in result.notes)]
    return "\n".join(lines) + "\n"


def _subject(one: SubjectResult) -> list[str]:
    lines = [f"**{_code(heading(one))}**", "", f"| {' | '.join(COLUMNS)} |", "|---|---:|---:|---:|---|"]
    reasons = []
    for judgement in one.judgements:
        shown = row(judgement)
        sign = _SIGNS.get(judgement.verdict, _UNJUDGED)
        cells = [f"`{shown.metric}`", shown.value, _code(shown.limit), shown.headroom, f"{sign} {shown.verdict}"]
        # A pipe ends a cell even inside a code span.
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
        if shown.reason and judgement.verdict is not Verdict.SKIPPED:
            reasons.append(f"- {sign} {_code(shown.reason)} ({_code(shown.place)})")
    if reasons:
        lines += ["", *reasons]
    return [*lines, "", f"<sub>{_code(sources(one))}</sub>"]


def _code(text: str) -> str:
    """A code span: nothing in it is markup, a link or a mention."""
    return f"`{one_line(text).replace('`', chr(39)).strip() or '-'}`"
