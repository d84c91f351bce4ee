"""GitHub's workflow commands: an annotation on the budget's line for every rule that did not pass."""

from __future__ import annotations

from pathlib import Path

from ramp_edge.gate.verdict import GateResult
from ramp_edge.gate.view import row


def annotation_lines(result: GateResult, root: Path) -> list[str]:
    """One command a rule; files are named from `root`, the checkout."""
    lines = []
    for one, judgement in (*result.violated, *result.unjudged):
        place = judgement.place
        title = f"ramp-edge gate: {judgement.metric.name} {judgement.verdict.value} on {one.subject.device}"
        lines.append(annotation(row(judgement).reason, title=title, file=_from(root, place.path), line=place.line))
    return lines


def annotation(message: str, *, title: str, file: str | None = None, line: int | None = None) -> str:
    """A single `::error` command."""
    properties = {"file": file, "line": None if line is None else str(line), "title": title}
    given = ",".join(f"{name}={_property(value)}" for name, value in properties.items() if value is not None)
    return f"::error {given}::{_data(message)}"


def _from(root: Path, path: Path) -> str:
    absolute = path.absolute()
    return str(absolute.relative_to(root) if absolute.is_relative_to(root) else path)


def _data(text: str) -> str:
    """The runner decodes these; anything that could end the line must not stay."""
    text = text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    return "".join(c if c.isprintable() else "?" for c in text)


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
