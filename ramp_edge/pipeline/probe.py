"""`ramp-edge probe`: from a board's own times to a complete profile that `build --device` takes."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

from ramp_edge.codec.types import QUANTIZED_TYPES, QuantType
from ramp_edge.device.connect import ConnectOptions, connected
from ramp_edge.device.facts import BoardFacts
from ramp_edge.device.probe import ProbeMeasurements, ProbeOptions, probe
from ramp_edge.device.probe_models import ProbeModels, TimedModel, TypeSpeed
from ramp_edge.device.speed_fit import SpeedFit, fit_speeds
from ramp_edge.device.target import TargetSpec
from ramp_edge.errors import BoardToolError, UsageError
from ramp_edge.events import EventBus
from ramp_edge.model.synthetic import STRIP_ROWS, Shape, synthetic_model
from ramp_edge.pipeline.bench import bench_tools
from ramp_edge.profile.load import load_target
from ramp_edge.profile.schema import (
    AttentionFigure,
    Bandwidth,
    Bits,
    Defaults,
    Memory,
    OverheadFigure,
    Processor,
    Profile,
    RateFigure,
    SizeFigure,
    TypeFigures,
)
from ramp_edge.profile.write import write_profile
from ramp_edge.records import DeviceTarget

COMMENT = "Measured on the board by `ramp-edge probe`."
"""First line of what probe writes: only such a file is written over."""
WIDE = Shape(n_embd=2048, n_layer=4, n_vocab=4096)
DEEP = Shape(n_embd=512, n_layer=64, n_vocab=4096)
TALL = Shape(n_embd=512, n_layer=2, n_vocab=262144)
"""As small models are, and more: nearly all bytes in an output matrix of many short rows. Of 2 bits it still is beyond a cache of 32 MB."""
SMALL = Shape(n_embd=256, n_layer=4, n_vocab=4096)
SMALL_DEEP = Shape(n_embd=256, n_layer=16, n_vocab=4096)
CACHED = Shape(n_embd=512, n_layer=2, n_vocab=2048)
"""5 MB in Q8_0, most of it bytes and not layers."""
TYPES = tuple(sorted((QuantType.F16, *QUANTIZED_TYPES), key=lambda t: -t.bits_per_weight))
KV_TYPES = (QuantType.Q8_0, QuantType.Q4_0)
"""Of the KV cache, timed beside F16."""
_MAX_EFFICIENCY, _MIN_EFFICIENCY = 4.0, 0.01


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeRequest:
    """What to measure, where, and the file that it becomes."""

    spec: TargetSpec
    output: Path
    options: ProbeOptions = field(default_factory=ProbeOptions)
    connect: ConnectOptions = field(default_factory=ConnectOptions)
    types: tuple[QuantType, ...] = TYPES
    runtime: str | None = None
    """Folder with llama.cpp's programs on the board; None: this machine's own, or the deployed ones."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeResult:
    """What was measured, and the profile that says it."""

    measurements: ProbeMeasurements
    fit: SpeedFit
    profile: Profile


def probe_target(request: ProbeRequest, events: EventBus) -> ProbeResult:
    """Measure the board and write its profile. Everything that can be checked here is checked before the board is asked."""
    _check_output(request.output)
    base = load_target(request.spec.profile) if request.spec.profile is not None else None
    types = tuple(t for t in request.types if t is not QuantType.Q8_0)
    with (
        tempfile.TemporaryDirectory(prefix="ramp-edge-probe-") as folder,
        connected(request.spec, request.connect) as target,
    ):
        work = Path(folder)
        tools, commit = bench_tools(target, request.runtime, with_perplexity=False)
        measurements = probe(
            target,
            ProbeModels(
                wide=timed_model("wide", QuantType.Q8_0, WIDE, work),
                deep=timed_model("deep", QuantType.Q8_0, DEEP, work),
                tall=timed_model("tall", QuantType.Q8_0, TALL, work),
                cached=timed_model("cached", QuantType.Q8_0, CACHED, work),
                small=timed_model("small", QuantType.Q8_0, SMALL, work),
                small_deep=timed_model("small-deep", QuantType.Q8_0, SMALL_DEEP, work),
                # One at a time, so that neither memory nor disk holds them all.
                types=(timed_model("wide", t, WIDE, work) for t in types),
                types_tall=(timed_model("tall", t, TALL, work) for t in types),
                types_in_cache=(timed_model("cached", t, CACHED, work) for t in types),
                n_types=len(types),
                kv_types=KV_TYPES,
            ),
            tools,
            request.options,
            events,
        )
    fit = fit_speeds(
        [speed.decode for speed in measurements.q8_0],
        {speed.quant_type: speed.decode for speed in measurements.types},
        measurements.cache_bytes or 0,
        {speed.quant_type: speed.decode for speed in measurements.types_in_cache},
        {speed.quant_type: speed.decode for speed in measurements.types_tall},
        {speed.filling.kv_type: speed.decode for speed in measurements.kv_types},
    )
    profile = probed_profile(measurements, fit, base, request.spec, commit)
    write_profile(request.output, profile, _comment(measurements, request, commit))
    return ProbeResult(measurements=measurements, fit=fit, profile=profile)


def timed_model(name: str, quant_type: QuantType, shape: Shape, work: Path) -> TimedModel:
    """A synthetic model as the board gets it."""
    made = synthetic_model(quant_type, shape, work)
    return TimedModel(
        name=f"probe-{name}-{quant_type.name}",
        quant_type=quant_type,
        head=made.head,
        strip=made.strip,
        repeats=made.repeats,
        n_layer=shape.n_layer,
        n_output_rows=shape.n_vocab,
        kv_values=2 * shape.n_embd * shape.n_layer,
    )


def _check_output(path: Path) -> None:
    if path.suffix not in (".yaml", ".yml"):
        raise UsageError(f"-o {path}: a profile's name ends in .yaml", hint=f"-o {path.with_suffix('.yaml')}")
    if path.exists():
        with path.open(encoding="utf-8", errors="replace") as stream:
            ours = stream.readline().rstrip("\n") == f"# {COMMENT}"
        if not ours:
            raise UsageError(
                f"{path} was not written by ramp-edge probe, which would overwrite it", hint="give another file"
            )


def probed_profile(
    measured: ProbeMeasurements, fit: SpeedFit, base: DeviceTarget | None, spec: TargetSpec, commit: str | None
) -> Profile:
    """The profile that these measurements make; what no measurement tells comes from `base` and says so.

    Raises BoardToolError where the board does not tell how much memory it has.
    """
    facts = measured.facts_before
    source = f"ramp-edge probe, llama.cpp {commit or measured.runtime_commit}, {measured.decode_threads} threads"
    overheads = fit.overheads
    effective = 1 / overheads.seconds_per_byte
    copy = measured.copy_bytes_s or 0.0
    peak = (
        SourcedRate(copy, "memmove, bytes read and written")
        if copy > effective
        else SourcedRate(effective, "as decode")
    )
    types = {QuantType.Q8_0: measured.q8_0[0], **{speed.quant_type: speed for speed in measured.types}}
    return Profile(
        title=_title(facts, base, spec),
        memory=_memory(facts, spec),
        bandwidth=Bandwidth(
            peak=RateFigure(value=_rate(peak.bytes_s), measured=True, source=f"ramp-edge probe: {peak.source}"),
            effective=RateFigure(value=_rate(effective), measured=True, source=f"Q8_0 decode, {source}"),
            in_cache=(
                RateFigure(
                    value=_rate(1 / overheads.seconds_per_byte_in_cache),
                    measured=True,
                    source="as decode, small models",
                )
                if fit.decode_efficiency_in_cache
                else None
            ),
        ),
        cache=(
            SizeFigure(value=f"{measured.cache_bytes} B", measured=True, source="what the system reports")
            if measured.cache_bytes
            else None
        ),
        token_overhead=OverheadFigure(
            milliseconds=round(overheads.token_s * 1e3, 4),
            per_layer_microseconds=round(overheads.layer_s * 1e6, 2),
            per_layer_in_cache_microseconds=round(overheads.layer_in_cache_s * 1e6, 2),
            measured=True,
            source=f"synthetic models of 4, 16 and 64 layers, {source}",
        ),
        attention=_attention(measured, fit, source),
        processor=Processor(
            backend=_backend(base, measured),
            cores=facts.usable_cores or facts.cores or 1,
            decode_threads=measured.decode_threads,
            isa=list(facts.isa),
            measured=True,
            source=facts.cpu_model or "what the system reports",
        ),
        bits=Bits(
            target_bpw=4.85 if base is None else base.target_bpw,
            max_bpw=8.5 if base is None else base.max_bpw,
            measured=False,
            source="project choice" if base is None else f"profile {base.name}",
        ),
        defaults=Defaults(
            ctx=4096 if base is None else base.default_ctx,
            kv_type="F16" if base is None else base.default_kv_type.name,
        ),
        types={kind.name: _figures(kind, speed, fit, source) for kind, speed in types.items()},
    )


def _attention(measured: ProbeMeasurements, fit: SpeedFit, source: str) -> dict[str, AttentionFigure] | None:
    spreads = {speed.filling.kv_type: speed.decode_spread for speed in measured.kv_types}
    # Of the models that have a filled KV cache of F16 the deep one decides.
    spreads[QuantType.F16] = next(speed.decode_spread for speed in measured.q8_0 if speed.filling.depth)
    return {
        kind.name: AttentionFigure(
            gigamacs_per_second=float(f"{1e-9 / seconds:.4g}"),
            measured=True,
            source=f"{source}; spread {spreads[kind]:.0%}",
        )
        for kind, seconds in fit.attention_mac_s.items()
    } or None


@dataclass(frozen=True, slots=True)
class SourcedRate:
    """Bytes per second and how they were found."""

    bytes_s: float
    source: str


def _figures(kind: QuantType, speed: TypeSpeed, fit: SpeedFit, source: str) -> TypeFigures:
    in_cache = fit.decode_efficiency_in_cache.get(kind)
    return TypeFigures(
        decode_efficiency=_limited(fit.decode_efficiency[kind]),
        decode_efficiency_in_cache=None if in_cache is None else _limited(in_cache),
        output_row_nanoseconds=round(fit.output_row_s[kind] * 1e9, 3),
        # Q8_0 is the measure of all others, whatever its noise.
        prefill_efficiency=1.0 if speed.prefill_ratio is None else _limited(speed.prefill_ratio),
        repacks=speed.repacks,
        measured=True,
        source=f"{source}; spread {speed.decode_spread:.0%}",
    )


def _limited(efficiency: float) -> float:
    return round(min(_MAX_EFFICIENCY, max(_MIN_EFFICIENCY, efficiency)), 3)


def _title(facts: BoardFacts, base: DeviceTarget | None, spec: TargetSpec) -> str:
    if base is not None:
        return f"{base.title} ({spec.name})"
    return facts.board_model or facts.cpu_model or spec.name


def _memory(facts: BoardFacts, spec: TargetSpec) -> Memory:
    total, usable = facts.memory_total_bytes, facts.memory_available_bytes
    if not total or not usable:
        raise BoardToolError(f"{spec.name} does not tell how much memory it has", hint="write the profile by hand")
    return Memory(
        total=SizeFigure(value=f"{total / 1e6:.0f} MB", measured=True, source="what the system reports"),
        usable=SizeFigure(
            value=f"{min(usable, total) / 1e6:.0f} MB", measured=True, source="available when it was probed"
        ),
    )


def _backend(base: DeviceTarget | None, measured: ProbeMeasurements) -> Literal["cpu", "cuda", "metal"]:
    said = (measured.backends or "").lower()
    if "cuda" in said:
        return "cuda"
    if "metal" in said or "mtl" in said:
        return "metal"
    return "cpu"


def _rate(bytes_s: float) -> str:
    return f"{bytes_s / 1e9:.3f} GB/s"


def _comment(measured: ProbeMeasurements, request: ProbeRequest, commit: str | None) -> str:
    facts = measured.facts_before
    noise = measured.q8_0[0].decode_spread
    lost = measured.disturbed_rounds
    again = f" {lost} rounds were made again, because the board had lost its pace." if lost else ""
    return "\n".join(
        [
            COMMENT,
            f"Target {request.spec.name}, {datetime.now(timezone.utc).isoformat(timespec='seconds')}, "
            f"llama.cpp {commit or measured.runtime_commit}, kernel {facts.kernel or 'unknown'}.",
            f"Medians of {measured.rounds} rounds, each type in turns with Q8_0; the same file beside itself spread by {noise:.0%}.{again}",
        ]
    )


def probe_bytes(types: tuple[QuantType, ...]) -> tuple[int, int]:
    """(bytes that are sent to the board, most bytes on its disk at a time) for these types, norms and headers left out."""
    strips = [STRIP_ROWS * t.row_bytes(WIDE.n_embd) for t in types]
    others = [STRIP_ROWS * t.row_bytes(shape.n_embd) for t in types for shape in (TALL, CACHED)]
    widest = max(types, key=lambda t: t.bits_per_weight)
    most = max(widest.row_bytes(shape.n_embd) * shape.n_matrix_rows for shape in (WIDE, TALL))
    return sum(strips) + sum(others), QuantType.Q8_0.row_bytes(WIDE.n_embd) * WIDE.n_matrix_rows + most
