"""What a gate tells: a table for each device, then every reason in full with its line of the budget."""

from __future__ import annotations

from ramp_edge.gate.verdict import GateResult, SubjectResult, Verdict
from ramp_edge.gate.view import COLUMNS, heading, row, sources
from ramp_edge.plain import one_line


def print_gate(result: GateResult) -> None:
    """Print the report to stdout."""
    print("\n".join(gate_lines(result)))


def gate_lines(result: GateResult) -> list[str]:
    """The report as lines of plain text; none begins with what a record says."""
    lines = []
    for one in result.subjects:
        lines += [*_subject(one), ""]
    lines += [f"  note       {one_line(note)}" for note in result.notes]
    lines.append(f"  {result.word}: {result.summary()}")
    return lines


def _subject(one: SubjectResult) -> list[str]:
    rows = [row(judgement) for judgement in one.judgements]
    table = [COLUMNS, *(shown.cells for shown in rows)]
    widths = [max(len(cells[i]) for cells in table) for i in range(len(COLUMNS))]
    lines = [f"  {heading(one)}", f"    from {sources(one)}"]
    for cells in table:
        name, *figures, verdict = (
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(cells, widths, strict=True))
        )
        lines.append("  ".join(["   ", name, *figures, verdict.strip()]))
    for judgement, shown in zip(one.judgements, rows, strict=True):
        if shown.reason and judgement.verdict is not Verdict.SKIPPED:
            lines.append(f"    {shown.verdict:<10} {shown.reason} ({shown.place})")
    return lines
