"""`ramp-edge bench`: speed, memory and correctness of models on a board, measured there."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ramp_edge.cli.options import (
    AcceptOption,
    BenchFolderOption,
    BoardsOption,
    MeasuringPlanOption,
    ProgressOption,
    ThreadCountsOption,
)
from ramp_edge.errors import UsageError

if TYPE_CHECKING:
    from ramp_edge.device.target import TargetSpec
    from ramp_edge.events import EventBus

BENCH_EXAMPLES = """Examples:

  ramp-edge bench out --target local

  ramp-edge bench out --target pi@192.0.2.7 --against out-small --depths 0,2048

  ramp-edge bench out --target lab
"""


def bench_command(
    model: Annotated[Path, typer.Argument(help="A build folder (its model.gguf) or a GGUF file.", metavar="OUT|GGUF")],
    target: BoardsOption = None,
    against: Annotated[
        list[Path] | None,
        typer.Option("--against", help="Measure this one in turns with it (repeatable).", show_default=False),
    ] = None,
    threads: ThreadCountsOption = None,
    depths: Annotated[
        str | None,
        typer.Option(help="Tokens in the context before the measured ones.", show_default="0,512,2048 as they fit"),
    ] = None,
    repeats: Annotated[int, typer.Option(help="Repeats of every figure, 5 or more.")] = 5,
    rounds: Annotated[
        int | None, typer.Option(help="Turns that the models take.", show_default="1; with --against the repeats")
    ] = None,
    text: Annotated[
        Path | None, typer.Option(help="UTF-8 text for perplexity.", show_default="a short one of the package")
    ] = None,
    no_perplexity: Annotated[
        bool, typer.Option("--no-perplexity", help="Do not compare perplexity with this machine's.")
    ] = False,
    runtime: BenchFolderOption = None,
    timeout: Annotated[float, typer.Option(help="Seconds that one run of a tool may take.")] = 1800.0,
    accept_new_host_key: AcceptOption = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="File for the record.",
            show_default="bench.json in OUT; bench-BOARD.json for several",
        ),
    ] = None,
    dry_run: MeasuringPlanOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print bench.json instead of the table.")] = False,
    progress: ProgressOption = "auto",
) -> None:
    """Measure decode and prefill speed, memory, load time and perplexity of MODEL on boards."""
    from ramp_edge.cli.bench_report import plan_text, print_bench, print_boards
    from ramp_edge.cli.progress import attached
    from ramp_edge.cli.run import model_file
    from ramp_edge.device.bench_plan import BenchOptions
    from ramp_edge.device.bench_records import BenchRecord, bench_json
    from ramp_edge.device.connect import ConnectOptions
    from ramp_edge.device.fleet import on_all, raise_failures
    from ramp_edge.device.targets_file import select_targets
    from ramp_edge.pipeline.bench import BenchRequest, bench_target, check_bench_output, write_bench
    from ramp_edge.pipeline.report import retire_report

    if not target:
        raise UsageError("--target is missing", hint="for example --target local, or pi@192.0.2.7")
    specs = select_targets(target)
    options = BenchOptions(
        threads=numbers("--threads", threads),
        depths=numbers("--depths", depths),
        repeats=repeats,
        rounds=rounds,
        timeout_s=timeout,
    )
    models = tuple(model_file(path) for path in (model, *(against or ())))
    paths = _record_paths(model, output, specs)
    requests = {
        spec.name: BenchRequest(
            models=models,
            spec=spec,
            options=options,
            connect=ConnectOptions(accept_new_host_key=accept_new_host_key),
            text=text,
            with_perplexity=not no_perplexity,
            runtime=runtime,
        )
        for spec in specs
    }
    for path in paths.values():
        check_bench_output(path)
    if dry_run:
        typer.echo("\n\n".join(plan_text(requests[spec.name], paths.get(spec.name)) for spec in specs))
        return

    def measure(spec: TargetSpec, events: EventBus) -> BenchRecord:
        record = bench_target(requests[spec.name], events)
        if spec.name in paths:
            retire_report(paths[spec.name])
            write_bench(paths[spec.name], record)
        return record

    with attached(progress) as events:
        outcomes = on_all(specs, measure, events)
        reports = _draw_reports(
            [paths[o.spec.name] for o in outcomes if o.value is not None and o.spec.name in paths], events
        )
    records = [outcome.value for outcome in outcomes if outcome.value is not None]
    if as_json:
        documents = [bench_json(record).rstrip("\n") for record in records]
        typer.echo(documents[0] if len(specs) == 1 and documents else "[" + ",\n".join(documents) + "]")
    elif len(specs) == 1:
        for record in records:
            print_bench(record)
    else:
        print_boards(outcomes)
    if not as_json:
        for record in records:
            if record.target in paths:
                typer.echo(f"  written     {paths[record.target]}")
        for report in reports:
            typer.echo(f"  report      {report}")
    raise_failures(outcomes)


def _draw_reports(records: Sequence[Path], events: EventBus) -> list[Path]:
    """One report for each folder, after all boards: they share it."""
    from ramp_edge.pipeline.report import draw_beside, report_path

    firsts: dict[Path, Path] = {}
    for record in records:
        firsts.setdefault(report_path(record), record)
    return [path for record in firsts.values() if (path := draw_beside(record, events)) is not None]


def _record_paths(model: Path, output: Path | None, specs: Sequence[TargetSpec]) -> dict[str, Path]:
    """Board -> the file of its record; nothing for a bare GGUF without -o."""
    from ramp_edge.pipeline.bench import BENCH_FILE

    if len(specs) == 1:
        path = output or (model / BENCH_FILE if model.is_dir() else None)
        return {} if path is None else {specs[0].name: path}
    if output is not None:
        raise UsageError(
            "-o names one file, and several boards are measured", hint="leave -o out, or measure them one by one"
        )
    if not model.is_dir():
        return {}
    names = {spec.name: re.sub(r"[^A-Za-z0-9._-]+", "-", spec.name) for spec in specs}
    return {name: model / f"bench-{safe}.json" for name, safe in names.items()}


def numbers(option: str, text: str | None) -> tuple[int, ...] | None:
    """A list such as `2,4`. Raises UsageError."""
    if text is None:
        return None
    words = [word.strip() for word in text.split(",")]
    if not all(word.isascii() and word.isdecimal() and len(word) < 10 for word in words):
        raise UsageError(f"{option} {text!r} is no list of numbers", hint=f"for example {option} 2,4")
    return tuple(int(word) for word in words)
