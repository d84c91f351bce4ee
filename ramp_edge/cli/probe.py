"""`ramp-edge probe`: measure a board and write its profile."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ramp_edge.cli.options import (
    AcceptOption,
    BenchFolderOption,
    MeasuringPlanOption,
    ProgressOption,
    ThreadCountsOption,
)
from ramp_edge.errors import UsageError

if TYPE_CHECKING:
    from ramp_edge.codec.types import QuantType
    from ramp_edge.pipeline.probe import ProbeRequest, ProbeResult

PROBE_EXAMPLES = """Examples:

  ramp-edge probe --target local -o this-machine.yaml

  ramp-edge probe --target pi@192.0.2.7 -o my-pi.yaml && ramp-edge build --device my-pi.yaml
"""


def probe_command(
    target: Annotated[
        str,
        typer.Option(
            "--target", "-t", help="A name in targets.yaml, local, or user@host:port.", envvar="RAMP_EDGE_TARGET"
        ),
    ] = "",
    output: Annotated[Path | None, typer.Option("-o", "--output", help="File for the profile, .yaml.")] = None,
    types: Annotated[str | None, typer.Option(help="Types to time, e.g. Q4_0,Q4_K.", show_default="every type")] = None,
    rounds: Annotated[int, typer.Option(min=3, help="Rounds of each type in turns with Q8_0.")] = 5,
    threads: ThreadCountsOption = None,
    runtime: BenchFolderOption = None,
    timeout: Annotated[float, typer.Option(min=1.0, help="Seconds that one run of a tool may take.")] = 600.0,
    accept_new_host_key: AcceptOption = False,
    dry_run: MeasuringPlanOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the measurements as JSON.")] = False,
    progress: ProgressOption = "auto",
) -> None:
    """Measure memory bandwidth and the speed of every type on a board; write a profile that build --device takes."""
    from ramp_edge.cli.bench import numbers
    from ramp_edge.cli.progress import attached
    from ramp_edge.device.connect import ConnectOptions
    from ramp_edge.device.probe import ProbeOptions
    from ramp_edge.device.targets_file import find_target
    from ramp_edge.pipeline.probe import TYPES, ProbeRequest, probe_target
    from ramp_edge.pipeline.record import to_plain

    if not target:
        raise UsageError("--target is missing", hint="for example --target local, or pi@192.0.2.7")
    if output is None:
        raise UsageError("-o is missing: the file that the profile is written to", hint="for example -o my-board.yaml")
    request = ProbeRequest(
        spec=find_target(target),
        output=output,
        options=ProbeOptions(rounds=rounds, threads=numbers("--threads", threads), timeout_s=timeout),
        connect=ConnectOptions(accept_new_host_key=accept_new_host_key),
        types=TYPES if types is None else _types(types),
        runtime=runtime,
    )
    if dry_run:
        typer.echo(_plan(request))
        return
    with attached(progress) as events:
        result = probe_target(request, events)
    if as_json:
        typer.echo(json.dumps({"profile": str(output), **to_plain(result.measurements)}, indent=2))
        return
    _print(request, result)


def _types(text: str) -> tuple[QuantType, ...]:
    from ramp_edge.codec.types import parse_type
    from ramp_edge.pipeline.probe import TYPES
    from ramp_edge.profile.schema import suggest

    found = []
    for word in text.split(","):
        try:
            kind = parse_type(word)
        except KeyError:
            kind = None
        if kind not in TYPES:
            raise UsageError(
                f"--types: {word.strip()!r} is not a type: {suggest(word.strip(), [t.name for t in TYPES])}"
            )
        found.append(kind)
    # A profile cannot do without these two.
    from ramp_edge.codec.types import QuantType

    return tuple(dict.fromkeys((QuantType.F16, QuantType.Q8_0, *found)))


def _plan(request: ProbeRequest) -> str:
    from ramp_edge.pipeline.probe import probe_bytes
    from ramp_edge.units import human_bytes

    sent, held = probe_bytes(request.types)
    return "\n".join(
        [
            f"would probe   {request.spec.name} ({request.spec.address})",
            f"types         {', '.join(t.name for t in request.types)}, {request.options.rounds} rounds each",
            f"sends         {human_bytes(sent)}; at most {human_bytes(held)} on the board's disk at a time, removed afterwards",
            f"writes        {request.output}",
        ]
    )


def _print(request: ProbeRequest, result: ProbeResult) -> None:
    from ramp_edge.cli.devices import attention_rates, efficiency_in_cache
    from ramp_edge.cli.tables import make_table, show
    from ramp_edge.codec.types import QuantType
    from ramp_edge.profile.load import load_profile_file
    from ramp_edge.units import human_bytes

    target = load_profile_file(request.output)
    measured = result.measurements
    typer.echo(f"{target.title}: {', '.join(target.isa) or 'instruction sets unknown'}")
    typer.echo(
        f"  decode reads {target.bandwidth_effective_bytes_s / 1e9:.1f} GB/s of Q8_0 with {target.decode_threads} of "
        f"{target.cores} threads; beside that {target.token_overhead_s * 1e6:.0f} us a token, "
        f"{target.layer_overhead_s * 1e6:.0f} us a layer"
    )
    if target.bandwidth_in_cache_bytes_s:
        typer.echo(
            f"  a model within the cache of {human_bytes(target.cache_bytes)}: {target.bandwidth_in_cache_bytes_s / 1e9:.1f} GB/s, "
            f"{target.layer_overhead_in_cache_s * 1e6:.0f} us a layer"
        )
    if target.attention_macs_s:
        typer.echo(f"  attention, by type of the KV cache: {attention_rates(target)}")
    if measured.copy_bytes_s:
        typer.echo(f"  memmove moves {measured.copy_bytes_s / 1e9:.1f} GB/s, read and written bytes together")
    typer.echo("")
    spreads = {
        QuantType.Q8_0: measured.q8_0[0].decode_spread,
        **{s.quant_type: s.decode_spread for s in measured.types},
    }
    inside = ["In cache"] if measured.types_in_cache else []
    table = make_table("Type", "Bits", "Decode", "Spread", *inside, "Row (ns)", "Prefill", "Repacks")
    for kind, support in sorted(target.types.items(), key=lambda item: -item[0].bits_per_weight):
        table.add_row(
            kind.name,
            f"{kind.bits_per_weight:.3f}",
            f"{support.decode_efficiency:.2f}",
            f"{spreads[kind]:.0%}",
            *(efficiency_in_cache(support) for _ in inside),
            f"{support.output_row_s * 1e9:.1f}",
            f"{support.prefill_efficiency:.2f}",
            "yes" if support.repacks else "no",
        )
    show(table)
    held = ", in cache: the same for a model that it holds" if inside else ""
    typer.echo(
        f"Decode: bytes per second relative to Q8_0{held}; row: what each row of the output matrix costs beside its bytes;"
    )
    typer.echo("prefill: tokens per second relative to Q8_0.")
    typer.echo(f"  written  {request.output}")
    typer.echo(f"  next     ramp-edge build --device {request.output}")
