"""`ramp-edge build`: options in, a verified GGUF and a short summary out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ramp_edge.cli.options import ProgressOption
from ramp_edge.errors import UsageError
from ramp_edge.threads import MAX_THREADS, default_threads

if TYPE_CHECKING:
    from ramp_edge.codec.types import QuantType
    from ramp_edge.pipeline.request import BuildRequest

BUILD_EXAMPLES = """Examples:

  ramp-edge build --device raspberry-pi-5

  ramp-edge build model-f16.gguf --device jetson-orin --ctx 4096 --min-decode-tok-s 20

  ramp-edge build ./SmolLM2-135M --device raspberry-pi-5 --target-size "95 MB" --calibration text.txt --effort max
"""


def build_command(
    model: Annotated[
        str | None,
        typer.Argument(
            help="A GGUF (F32, F16, BF16), a Hugging Face directory or hub id; absent: the embedded default.",
            show_default=False,
        ),
    ] = None,
    device: Annotated[
        str,
        typer.Option("--device", "-d", help="Profile name, family, or path of a profile.", envvar="RAMP_EDGE_DEVICE"),
    ] = "",
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder for model.gguf, build.json and report.html.")
    ] = Path("out"),
    ctx: Annotated[int | None, typer.Option(help="Context length in tokens.", show_default="the profile's")] = None,
    kv_type: Annotated[
        str | None, typer.Option(help="KV cache type: F16, Q8_0, Q5_1, Q4_0 ...", show_default="the profile's")
    ] = None,
    target_size: Annotated[str | None, typer.Option(help='Largest file, e.g. "95 MB".', show_default=False)] = None,
    target_bpw: Annotated[
        float | None, typer.Option(help="Largest bits per weight.", show_default="the profile's")
    ] = None,
    min_decode_tok_s: Annotated[
        float | None, typer.Option(help="Least predicted decode speed, tokens/s.", show_default=False)
    ] = None,
    types: Annotated[
        str | None, typer.Option(help="Only these types, e.g. Q4_K,Q6_K,Q8_0.", show_default="all of the profile")
    ] = None,
    calibration: Annotated[
        list[Path] | None,
        typer.Option(help="Calibration text (repeatable); absent: text the model writes itself.", show_default=False),
    ] = None,
    eval_text: Annotated[
        Path | None, typer.Option(help="Text for KL and perplexity.", show_default="held-out windows")
    ] = None,
    effort: Annotated[
        str, typer.Option(help="fast: forward passes alone; balanced measures the best few plans; max measures more.")
    ] = "balanced",
    fold: Annotated[
        str | None,
        typer.Option(
            help="Scale and reorder channels, exactly: auto keeps what measures better; off; always.",
            show_default="auto; off at fast",
        ),
    ] = None,
    allocator: Annotated[
        str | None,
        typer.Option(
            help="knapsack (on gradients), ramp (the policy, forward passes only), preset, or best: measures knapsack and policy.",
            show_default="best; ramp at fast",
        ),
    ] = None,
    policy: Annotated[
        Path | None,
        typer.Option(help="A file of ramp-edge train, or outline: nothing trained.", show_default="the package's"),
    ] = None,
    tune: Annotated[
        int, typer.Option(help="Measure so many changes of single tensors, then allocate anew.", min=0, max=999)
    ] = 0,
    allow_requantize: Annotated[
        bool, typer.Option("--allow-requantize", help="Accept an already quantized source.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    threads: Annotated[
        int | None, typer.Option(help="CPU threads.", show_default="all cores", min=1, max=MAX_THREADS)
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the plan; write nothing but cached calibration.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a build that was stopped.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print build.json instead of the summary.")] = False,
    timings: Annotated[bool, typer.Option("--timings", help="Print where the time went.")] = False,
    progress: ProgressOption = "auto",
) -> None:
    """Compile MODEL for a device into a mixed-precision GGUF that unmodified llama.cpp runs."""
    from ramp_edge.cli.progress import attached

    if not device:
        raise UsageError(
            "--device is missing", hint="for example --device raspberry-pi-5; ramp-edge devices list shows all"
        )
    request = _request(
        model=model,
        device=device,
        output=output,
        ctx=ctx,
        kv_type=kv_type,
        target_size=target_size,
        target_bpw=target_bpw,
        min_decode_tok_s=min_decode_tok_s,
        types=types,
        calibration=tuple(calibration or ()),
        eval_text=eval_text,
        effort=effort,
        fold=fold,
        allocator=allocator,
        policy=policy,
        tune=tune,
        allow_requantize=allow_requantize,
        seed=seed,
        threads=threads,
        dry_run=dry_run,
        resume=resume,
    )
    with attached(progress) as events:
        import torch

        from ramp_edge.allocator_settings import keep_freed_memory
        from ramp_edge.build import build

        keep_freed_memory()
        torch.set_num_threads(request.threads or default_threads())
        record = build(request, events)
    from ramp_edge.cli.summary import print_summary, print_timings
    from ramp_edge.pipeline.record import record_json

    if as_json:
        typer.echo(record_json(record))
    else:
        print_summary(record, output)
    if timings:
        print_timings(record)


def _request(
    *,
    kv_type: str | None,
    target_size: str | None,
    types: str | None,
    effort: str,
    fold: str | None,
    allocator: str | None,
    policy: Path | None,
    tune: int,
    min_decode_tok_s: float | None,
    model: str | None,
    device: str,
    output: Path,
    ctx: int | None,
    target_bpw: float | None,
    calibration: tuple[Path, ...],
    eval_text: Path | None,
    allow_requantize: bool,
    seed: int,
    threads: int | None,
    dry_run: bool,
    resume: bool,
) -> BuildRequest:
    from ramp_edge.pipeline.request import AllocatorChoice, BuildRequest, Effort, Fold
    from ramp_edge.profile.schema import KV_TYPES
    from ramp_edge.units import parse_bytes

    try:
        size = None if target_size is None else parse_bytes(target_size)
    except ValueError as error:
        raise UsageError(f"--target-size: {error}", hint='for example --target-size "95 MB"') from error
    if effort not in {e.value for e in Effort}:
        raise UsageError(f"--effort {effort!r} is unknown", hint="use fast, balanced or max")
    if fold is not None and fold not in {f.value for f in Fold}:
        raise UsageError(f"--fold {fold!r} is unknown", hint="use auto, off or always")
    if allocator is not None and allocator not in {a.value for a in AllocatorChoice}:
        raise UsageError(f"--allocator {allocator!r} is unknown", hint="use knapsack, ramp, preset or best")
    if min_decode_tok_s is not None and not 0 < min_decode_tok_s < float("inf"):
        raise UsageError(
            f"--min-decode-tok-s {min_decode_tok_s:g} is not a number above zero",
            hint="give tokens per second, for example --min-decode-tok-s 20",
        )
    if not 0 <= seed < 2**31:
        raise UsageError(f"--seed {seed} is outside 0 to 2147483647", hint="use a small whole number")
    request = BuildRequest(
        model=model,
        device=device,
        output=output,
        ctx=ctx,
        kv_type=None if kv_type is None else _type("--kv-type", kv_type, KV_TYPES, "KV cache type"),
        target_size_bytes=size,
        target_bpw=target_bpw,
        min_decode_tok_s=min_decode_tok_s,
        types=None if types is None else _types(types),
        calibration=calibration,
        eval_text=eval_text,
        effort=Effort(effort),
        fold=None if fold is None else Fold(fold),
        allocator=None if allocator is None else AllocatorChoice(allocator),
        policy=policy,
        tune=tune,
        allow_requantize=allow_requantize,
        seed=seed,
        threads=threads,
        dry_run=dry_run,
        resume=resume,
    )
    _check_allocator(request)
    return request


def _check_allocator(request: BuildRequest) -> None:
    """Raise UsageError for an option that the allocator, asked for or not, knows nothing of."""
    from ramp_edge.pipeline.request import Fold

    allocator = request.allocating
    if not allocator.asks_knapsack and request.fold in (Fold.AUTO, Fold.ALWAYS):
        raise UsageError(
            f"--fold {request.fold.value} has no part in --allocator {allocator.value}",
            hint="folds are judged for the knapsack's plan: --allocator best",
        )
    if request.policy is not None and not allocator.asks_policy:
        raise UsageError(f"--policy has no part in --allocator {allocator.value}", hint="add --allocator ramp or best")
    if request.tune and not allocator.asks_knapsack:
        raise UsageError(
            f"--tune has no part in --allocator {allocator.value}",
            hint="it corrects the knapsack's table: --allocator knapsack or best",
        )


def _types(text: str) -> frozenset[QuantType]:
    from ramp_edge.codec.types import QuantType

    names = [name for name in text.split(",") if name.strip()]
    if not names:
        raise UsageError("--types is empty", hint="for example --types Q4_K,Q6_K,Q8_0; without it the profile's types")
    return frozenset(_type("--types", name, tuple(QuantType), "GGUF type") for name in names)


def _type(option: str, text: str, choices: Sequence[QuantType], kind: str) -> QuantType:
    import difflib

    name = text.strip().upper()
    known = {choice.name: choice for choice in choices}
    if name not in known:
        near = ", ".join(difflib.get_close_matches(name, known, n=3))
        raise UsageError(
            f"{option} {text.strip()!r} is no {kind}",
            hint=f"did you mean {near}?" if near else f"use one of {', '.join(known)}",
        )
    return known[name]
