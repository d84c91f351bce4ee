"""`ramp-edge gate`: records against a budget; the exit code, JUnit and annotations are for CI. `gate init` writes a budget."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ramp_edge.errors import RampEdgeError, UsageError

if TYPE_CHECKING:
    from ramp_edge.gate.verdict import GateResult

GATE_EXAMPLES = """Examples:

  ramp-edge gate out --budget budgets.yaml

  ramp-edge gate out eval.json --baseline main/out --junit gate.xml --markdown gate.md

Exit codes: 0 every rule passed, 4 the budget is violated, 5 a rule cannot be judged, 6 the budget file is wrong.
"""
INIT_EXAMPLES = """Example:  ramp-edge gate init out -o budgets.yaml && ramp-edge gate out --budget budgets.yaml"""
Records = Annotated[
    list[Path],
    typer.Argument(
        help="Build folders (build.json and bench.json in them), single ones of these, or the JSON of eval --tasks.",
        metavar="RECORD",
    ),
]


def gate_command(
    records: Records,
    budget: Annotated[Path, typer.Option("--budget", "-b", help="File of rules.")] = Path("budgets.yaml"),
    baseline: Annotated[
        list[Path] | None,
        typer.Option("--baseline", help="Older record to compare with (repeatable).", show_default=False),
    ] = None,
    limits_only: Annotated[
        bool, typer.Option("--limits-only", help="Skip the rules that need a baseline, and say so.")
    ] = False,
    device: Annotated[
        list[str] | None,
        typer.Option(
            "--device",
            "-d",
            help="Want a record for this device alone (repeatable).",
            show_default="every one of the budget",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the verdict as JSON.")] = False,
    junit: Annotated[Path | None, typer.Option("--junit", help="Write JUnit XML.", show_default=False)] = None,
    markdown: Annotated[
        Path | None, typer.Option("--markdown", help="Write Markdown, for a comment.", show_default=False)
    ] = None,
    github: Annotated[
        bool | None,
        typer.Option(
            "--github/--no-github", help="Annotations and step summary.", show_default="where GITHUB_ACTIONS is set"
        ),
    ] = None,
) -> None:
    """Judge builds and benches against a budget of size, memory, quality and speed; nothing passes unjudged."""
    if baseline and limits_only:
        raise UsageError("--limits-only skips what --baseline is for", hint="give one of them")
    for_github = os.environ.get("GITHUB_ACTIONS") == "true" if github is None else github
    from ramp_edge.gate.run import gate_files

    try:
        result = gate_files(records, budget, baseline or (), limits_only=limits_only, devices=device or ())
    except RampEdgeError as error:
        if for_github:
            from ramp_edge.gate.github import annotation

            typer.echo(annotation(error.message, title="ramp-edge gate"), err=True)
        raise
    _write(result, junit, markdown)
    if for_github:
        _tell_github(result)
    if as_json:
        from ramp_edge.gate.as_json import gate_json

        typer.echo(gate_json(result), nl=False)
    else:
        from ramp_edge.cli.gate_report import print_gate

        print_gate(result)
    if (wrong := result.error()) is not None:
        raise wrong


def _write(result: GateResult, junit: Path | None, markdown: Path | None) -> None:
    from ramp_edge.gate.junit import junit_xml
    from ramp_edge.gate.markdown import gate_markdown

    for path, text in ((junit, junit_xml), (markdown, gate_markdown)):
        if path is not None:
            write_text(path, text(result))


def _tell_github(result: GateResult) -> None:
    """On stderr: the runner reads it as well, and stdout stays the result."""
    from ramp_edge.errors import OutputError
    from ramp_edge.gate.github import annotation_lines
    from ramp_edge.gate.markdown import gate_markdown

    for line in annotation_lines(result, Path(os.environ.get("GITHUB_WORKSPACE") or Path.cwd())):
        typer.echo(line, err=True)
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if summary:
        try:
            with Path(summary).open("a", encoding="utf-8") as stream:
                stream.write(gate_markdown(result))
        except OSError as error:
            raise OutputError(f"cannot write the step summary {summary}: {error.strerror or error}") from error


def gate_init_command(
    records: Records,
    output: Annotated[Path, typer.Option("-o", "--output", help="File for the budget.")] = Path("budgets.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Replace the file.")] = False,
) -> None:
    """Write a budget that RECORD passes with some headroom, with a comment on every line."""
    from ramp_edge.gate.run import starter_file

    if output.exists() and not force:
        raise UsageError(f"{output} exists", hint="give another file with -o, or --force to replace it")
    text = starter_file(records)
    write_text(output, text)
    command = shlex.join(["ramp-edge", "gate", *map(str, records), "--budget", str(output)])
    typer.echo(f"{text}\n  written     {output}\n  next        {command}")


def write_text(path: Path, text: str) -> None:
    """Write beside, then rename. Raises OutputError."""
    from ramp_edge.beside import written_beside
    from ramp_edge.errors import OutputError

    try:
        with written_beside(path) as partial:
            partial.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(
            f"cannot write {path}: {error.strerror or error}", hint="check the folder and its permissions"
        ) from error
