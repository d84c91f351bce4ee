"""`ramp-edge report`: records of builds and benches as a page to look at, one alone or several beside each other."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ramp_edge.errors import UsageError

if TYPE_CHECKING:
    from ramp_edge.report.view import Report

REPORT_EXAMPLES = """Examples:

  ramp-edge report out

  ramp-edge report out-small out-large -o comparison.html

  ramp-edge report out --format markdown
"""
COMPARISON_FILE = Path("comparison.html")


def report_command(
    records: Annotated[
        list[Path],
        typer.Argument(
            help="Build folders (build.json and bench.json in them), or single ones of these; several are compared.",
            metavar="RECORD|FOLDER",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="File for the report.",
            show_default="html: report.html beside the record, comparison.html for several; else stdout",
        ),
    ] = None,
    form: Annotated[str, typer.Option("--format", help="html, markdown or json.")] = "html",
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON instead of its verdict.")] = False,
) -> None:
    """Draw the report of a build or a bench, or compare builds with builds and boards with boards."""
    from ramp_edge.pipeline.report import FORMATS, check_report_output, report_path, write_report
    from ramp_edge.report.compose import report_of

    if form not in FORMATS:
        raise UsageError(f"--format {form!r} is unknown", hint=f"use one of {', '.join(FORMATS)}")
    report = report_of(records)
    path = output
    if path is None and form == "html":
        path = report_path(records[0]) if len(records) == 1 else COMPARISON_FILE
    if path is not None:
        _check_no_record(path, records)
        if form == "html":
            check_report_output(path)
        write_report(path, FORMATS[form](report))
    if as_json:
        typer.echo(FORMATS["json"](report), nl=False)
    elif path is None:
        typer.echo(FORMATS[form](report), nl=False)
    else:
        typer.echo("\n".join((*verdict_lines(report), "", f"  written     {path}")))


def _check_no_record(path: Path, records: list[Path]) -> None:
    """Raise UsageError where the report would replace what it is drawn from."""
    from ramp_edge.record_files import record_paths

    for file in (file for record in records for file in record_paths(record)):
        if path.exists() and path.samefile(file):
            raise UsageError(f"-o {path} is a record that the report is drawn from", hint="give another file with -o")


def verdict_lines(report: Report) -> list[str]:
    """What the report comes to, as lines of plain text."""
    lines = [f"{report.title}, {report.subtitle}", "", f"  {report.verdict.headline}"]
    lines += [f"  {detail}" for detail in report.verdict.details]
    for notes in report.notes:
        lines += [f"  note        {item}" for item in notes.items]
    return lines
