"""`ramp-edge bench`: speed, memory and correctness of models on a board, measured there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ramp_edge.errors import UsageError

BENCH_EXAMPLES = """Examples:

  ramp-edge bench out --target local

  ramp-edge bench out --target pi@192.0.2.7 --against out-small --depths 0,2048
"""


def bench_command(
    model: Annotated[Path, typer.Argument(help="A build folder (its model.gguf) or a GGUF file.", metavar="OUT|GGUF")],
    target: Annotated[
        str,
        typer.Option(
            "--target", "-t", help="A name in targets.yaml, local, or user@host:port.", envvar="RAMP_EDGE_TARGET"
        ),
    ] = "",
    against: Annotated[
        list[Path] | None,
        typer.Option("--against", help="Measure this one in turns with it (repeatable).", show_default=False),
    ] = None,
    threads: Annotated[
        str | None, typer.Option(help="Thread counts to try, e.g. 2,4.", show_default="all up to the board's cores")
    ] = None,
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
    runtime: Annotated[
        str | None,
        typer.Option(
            help="Folder of llama-bench on the board.", show_default="the deployed one; local: this machine's"
        ),
    ] = None,
    timeout: Annotated[float, typer.Option(help="Seconds that one run of a tool may take.")] = 1800.0,
    accept_new_host_key: Annotated[
        bool, typer.Option("--accept-new-host-key", help="Add the key of a host that is not in known_hosts.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="File for the record.", show_default="bench.json in OUT")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be measured; connect to nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print bench.json instead of the table.")] = False,
    progress: Annotated[
        str, typer.Option(help="auto, plain or off (on stderr).", envvar="RAMP_EDGE_PROGRESS")
    ] = "auto",
) -> None:
    """Measure decode and prefill speed, memory, load time and perplexity of MODEL on a board."""
    from ramp_edge.cli.bench_report import plan_text, print_bench
    from ramp_edge.cli.progress import attached
    from ramp_edge.cli.run import model_file
    from ramp_edge.device.bench_plan import BenchOptions
    from ramp_edge.device.bench_records import bench_json
    from ramp_edge.device.connect import ConnectOptions
    from ramp_edge.device.targets_file import find_target
    from ramp_edge.pipeline.bench import BENCH_FILE, BenchRequest, bench_target, check_bench_output, write_bench

    if not target:
        raise UsageError("--target is missing", hint="for example --target local, or pi@192.0.2.7")
    options = BenchOptions(
        threads=numbers("--threads", threads),
        depths=numbers("--depths", depths),
        repeats=repeats,
        rounds=rounds,
        timeout_s=timeout,
    )
    request = BenchRequest(
        models=tuple(model_file(path) for path in (model, *(against or ()))),
        spec=find_target(target),
        options=options,
        connect=ConnectOptions(accept_new_host_key=accept_new_host_key),
        text=text,
        with_perplexity=not no_perplexity,
        runtime=runtime,
    )
    path = output or (model / BENCH_FILE if model.is_dir() else None)
    if path is not None:
        check_bench_output(path)
    if dry_run:
        typer.echo(plan_text(request, path))
        return
    with attached(progress) as events:
        record = bench_target(request, events)
    if path is not None:
        write_bench(path, record)
    if as_json:
        typer.echo(bench_json(record), nl=False)
        return
    print_bench(record)
    if path is not None:
        typer.echo(f"\n  written     {path}")


def numbers(option: str, text: str | None) -> tuple[int, ...] | None:
    """A list such as `2,4`. Raises UsageError."""
    if text is None:
        return None
    words = [word.strip() for word in text.split(",")]
    if not all(word.isascii() and word.isdecimal() and len(word) < 10 for word in words):
        raise UsageError(f"{option} {text!r} is no list of numbers", hint=f"for example {option} 2,4")
    return tuple(int(word) for word in words)
