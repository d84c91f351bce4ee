"""The sections of a build, one function each. None means that the record knows nothing for it.

A new part of build.json becomes a function here and a line in BUILD_SECTIONS.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from ramp_edge.report.allocation import allocation_section
from ramp_edge.report.build_verdict import preset_name
from ramp_edge.report.commands import build_command_lines
from ramp_edge.report.documents import BuildDocument, CandidatePart, EvaluationPart
from ramp_edge.report.folding import folding_section
from ramp_edge.report.numbers import NATS, TOK_S, kl_text, percent, ppl_text, share_text, significant
from ramp_edge.report.view import (
    Axis,
    BarPart,
    Block,
    Column,
    Commands,
    Fact,
    Facts,
    MemoryBar,
    Point,
    Quote,
    Quotes,
    Row,
    Scatter,
    Section,
    Series,
    Table,
)
from ramp_edge.units import human_bytes, human_seconds

LINE_ROLES = {
    "weights": "weights",
    "kv_cache": "kv",
    "compute_buffer": "buffer",
    "output_buffer": "buffer",
    "repack_copy": "copy",
    "tied_copy": "copy",
}
"""Line of the memory budget -> colour."""
FILE_SIZE = Axis(label="file size", unit="MB")
PREDICTED_SPEED = Axis(label="decode speed, predicted", unit=TOK_S, more_is_better=True)
KL_AXIS = Axis(label="KL divergence", unit=NATS, logarithmic=True)


def memory_bar(build: BuildDocument, title: str) -> MemoryBar:
    """The budget as a bar; lines of no bytes are not drawn."""
    memory = build.memory
    parts = tuple(
        BarPart(
            label=line.name.replace("_", " "),
            size_bytes=line.size_bytes,
            text=human_bytes(line.size_bytes),
            detail=line.detail,
            role=LINE_ROLES.get(line.name, "buffer"),
        )
        for line in memory.lines
        if line.size_bytes
    )
    named = ", ".join(f"{part.label} {part.text}" for part in parts)
    return MemoryBar(
        title=title,
        description=f"{human_bytes(memory.total_bytes)} resident of {human_bytes(memory.usable_bytes)} usable: {named}; "
        f"{human_bytes(memory.free_bytes)} free.",
        parts=parts,
        usable_bytes=memory.usable_bytes,
        usable_text=human_bytes(memory.usable_bytes),
        used_text=human_bytes(memory.total_bytes),
        free_text=human_bytes(memory.free_bytes),
    )


def memory_section(build: BuildDocument) -> Section:
    """The memory budget."""
    memory = build.memory
    rows = [
        Row(cells=(line.name.replace("_", " "), human_bytes(line.size_bytes), line.detail)) for line in memory.lines
    ]
    rows.append(Row(cells=("total", human_bytes(memory.total_bytes), ""), strong=True))
    rows.append(Row(cells=("free", human_bytes(memory.free_bytes), f"of {human_bytes(memory.usable_bytes)} usable")))
    table = Table(
        caption="Resident memory, line by line",
        columns=(Column(text="Line"), Column(text="Bytes", numeric=True), Column(text="Where it comes from")),
        rows=tuple(rows),
        folded=True,
    )
    return Section(
        anchor="memory",
        title="Memory",
        lead=f"What llama.cpp keeps resident at a context of {build.model.ctx} tokens, computed, not measured: "
        f"{human_bytes(memory.total_bytes)}, {share_text(memory.total_bytes, memory.usable_bytes)} of the usable "
        f"{human_bytes(memory.usable_bytes)}.",
        blocks=(memory_bar(build, "Resident memory"), table),
    )


def candidate_series(origin: str) -> Series:
    """Who proposed it."""
    if origin.startswith("preset:"):
        return Series.PRESET
    return Series.UNIFORM if origin.startswith("uniform:") else Series.OURS


def candidate_label(candidate: CandidatePart) -> str:
    """Short name with the codec where it is llama.cpp's, and whether the model was folded."""
    if candidate.folded:
        return f"{candidate_label(candidate.model_copy(update={'folded': False}))}, folded"
    name = candidate.origin.removeprefix("preset:").removeprefix("uniform:")
    if candidate.codec == "stock":
        return f"stock {name}"
    if candidate.origin.startswith("preset:"):
        return f"{name} types"
    return f"all {name}" if candidate.origin.startswith("uniform:") else name


def _points(build: BuildDocument, *, speed: bool) -> tuple[Point, ...]:
    points = []
    for candidate in build.candidates:
        divergence = candidate.divergence
        y = candidate.predicted_kl if divergence is None else divergence.mean_kl
        x = candidate.predicted_decode_tok_s if speed else candidate.file_bytes
        if x is None or y is None or y <= 0:
            continue
        kl = f"KL {kl_text(divergence)}" if divergence is not None else f"KL {significant(y)} predicted"
        place = f"{significant(x)} {TOK_S} predicted" if speed else human_bytes(candidate.file_bytes)
        points.append(
            Point(
                label=candidate_label(candidate),
                x=float(x),
                y=y,
                y_error=divergence.std_error if divergence is not None else None,
                series=candidate_series(candidate.origin),
                chosen=candidate.chosen,
                tip=f"{candidate_label(candidate)}: {place}, {kl} {NATS}",
            )
        )
    return tuple(points)


def _scatters(build: BuildDocument) -> list[Scatter]:
    plots = []
    for speed, axis in ((False, FILE_SIZE), (True, PREDICTED_SPEED)):
        points = _points(build, speed=speed)
        if len({point.x for point in points}) < 2:
            continue
        if not speed:
            points = tuple(_in_megabytes(point) for point in points)
        measured = sum(point.y_error is not None for point in points)
        plots.append(
            Scatter(
                title="KL divergence by speed" if speed else "KL divergence by size",
                description=f"{len(points)} candidates, {measured} of them measured; lower is closer to the original. "
                "The table below has every value.",
                x=axis,
                y=KL_AXIS,
                points=points,
            )
        )
    return plots


def _in_megabytes(point: Point) -> Point:
    return dataclasses.replace(point, x=point.x / 1e6)


def candidates_section(build: BuildDocument) -> Section | None:
    """Everything that was considered."""
    if len(build.candidates) < 2:
        return None
    with_speed = any(c.predicted_decode_tok_s is not None for c in build.candidates)
    columns = [
        Column(text="Candidate"),
        Column(text="File", numeric=True),
        *([Column(text=f"Decode, predicted ({TOK_S})", numeric=True)] if with_speed else []),
        Column(text=f"KL predicted ({NATS})", numeric=True),
        Column(text=f"KL measured ({NATS})", numeric=True),
    ]
    rows = []
    for candidate in build.candidates:
        divergence = candidate.divergence
        tok_s = candidate.predicted_decode_tok_s
        rows.append(
            Row(
                cells=(
                    candidate_label(candidate) + (" (chosen)" if candidate.chosen else ""),
                    human_bytes(candidate.file_bytes),
                    *(["" if tok_s is None else significant(tok_s)] if with_speed else []),
                    "" if candidate.predicted_kl is None else significant(candidate.predicted_kl),
                    "" if divergence is None else kl_text(divergence),
                ),
                strong=candidate.chosen,
            )
        )
    table = Table(caption="Every candidate", columns=tuple(columns), rows=tuple(rows), folded=True)
    return Section(
        anchor="candidates",
        title="Candidates",
        lead="Predictions come from the error table; the best few are quantized and measured, and the least measured KL wins. "
        "“Types” are a preset's types quantized by ramp-edge, “stock” is llama.cpp's own file.",
        blocks=(*_scatters(build), table),
    )


def quality_section(build: BuildDocument) -> Section | None:
    """Measured on text."""
    if build.evaluation is None or build.reference is None:
        return None
    measured: list[tuple[str, EvaluationPart, bool]] = [("original", build.reference, False)]
    measured.append(("this file", build.evaluation, True))
    for candidate in build.candidates:
        if candidate.evaluation is not None and not candidate.chosen:
            measured.append((candidate_label(candidate), candidate.evaluation, False))
    rows = tuple(
        Row(
            cells=(
                label,
                human_bytes(result.file_bytes),
                kl_text(result.divergence) if result.divergence else "",
                significant(result.divergence.median_kl) if result.divergence else "",
                significant(result.divergence.p99_kl) if result.divergence else "",
                percent(result.divergence.top_token_agreement) if result.divergence else "",
                ppl_text(result),
            ),
            strong=strong,
        )
        for label, result, strong in measured
    )
    n = build.evaluation.perplexity
    text = f"; {build.calibration.evaluation}" if build.calibration.evaluation else ""
    table = Table(
        caption="Closeness to the original",
        columns=(
            Column(text="Model"),
            Column(text="File", numeric=True),
            Column(text=f"Mean KL ({NATS})", numeric=True),
            Column(text="Median", numeric=True),
            Column(text="99th percentile", numeric=True),
            Column(text="Same top token", numeric=True),
            Column(text="Perplexity", numeric=True),
        ),
        rows=rows,
    )
    return Section(
        anchor="quality",
        title="Quality, measured",
        lead=f"{n.n_tokens} scored tokens in {n.n_windows} windows{text}. ± is one standard error.",
        blocks=(table,),
    )


def feedback_section(build: BuildDocument) -> Section | None:
    """The same types by ramp-edge's quantizer and by llama.cpp's, where the build measured both."""
    # A folded file differs in more than rounding.
    ours = {c.origin: d for c in build.candidates if c.codec == "feedback" and not c.folded and (d := c.divergence)}
    stock = {c.origin: d for c in build.candidates if c.codec == "stock" and (d := c.divergence) and d.mean_kl}
    rows = []
    for origin in sorted(ours.keys() & stock.keys()):
        a, b = ours[origin], stock[origin]
        rows.append(Row(cells=(preset_name(origin), kl_text(b), kl_text(a), f"{a.mean_kl / b.mean_kl:.2f}")))
    if not rows:
        return None
    table = Table(
        caption="The same types, two quantizers",
        columns=(
            Column(text="Types of"),
            Column(text=f"llama.cpp with importance matrix ({NATS})", numeric=True),
            Column(text=f"Error feedback ({NATS})", numeric=True),
            Column(text="Ratio", numeric=True),
        ),
        rows=tuple(rows),
    )
    return Section(
        anchor="feedback",
        title="What error feedback gives",
        lead="Mean KL of files that differ in nothing but how the weights were rounded.",
        blocks=(table,),
    )


def sample_section(build: BuildDocument) -> Section | None:
    """The same prompt, continued by both models."""
    if build.continuation is None:
        return None
    said = build.continuation
    return Section(
        anchor="sample",
        title="A sample",
        lead="Both models continue one prompt, each time with the most probable token.",
        blocks=(
            Quotes(
                prompt=said.prompt,
                items=(Quote(label="original", text=said.reference), Quote(label="this file", text=said.emitted)),
            ),
        ),
    )


def device_section(build: BuildDocument) -> Section:
    """The profile, and how it runs each type that the file has."""
    device = build.device
    facts = [Fact(label="Profile", text=device.name)]
    if device.memory_total_bytes:
        usable = f", {human_bytes(device.memory_usable_bytes)} usable" if device.memory_usable_bytes else ""
        facts.append(Fact(label="Memory", text=f"{human_bytes(device.memory_total_bytes)}{usable}"))
    if device.bandwidth_peak_bytes_s and device.bandwidth_effective_bytes_s:
        rates = [
            f"{rate / 1e9:.1f} GB/s" for rate in (device.bandwidth_peak_bytes_s, device.bandwidth_effective_bytes_s)
        ]
        facts.append(Fact(label="Bandwidth", text=f"{rates[0]} peak, {rates[1]} in decode with Q8_0"))
    if device.cores:
        threads = f", {device.decode_threads} threads for decode" if device.decode_threads else ""
        facts.append(Fact(label="Cores", text=f"{device.cores}{threads}"))
    if device.isa or device.backend:
        facts.append(Fact(label="Backend", text=", ".join(filter(None, (device.backend, *device.isa)))))
    facts.append(
        Fact(label="Speeds", text="measured on the board" if device.measured else "from documents, not all measured")
    )
    blocks: list[Block] = [Facts(items=tuple(facts))]
    used = {tensor.type for tensor in build.tensors if tensor.kept_reason is None}
    rows = [
        Row(
            cells=(
                name,
                f"{support.decode_efficiency:.2f}",
                f"{support.prefill_efficiency:.2f}",
                "yes" if support.repacks else "no",
                "measured" if support.measured else support.source,
            )
        )
        for name, support in device.types.items()
        if name in used
    ]
    if rows:
        blocks.append(
            Table(
                caption="How the device runs the types in this file, relative to Q8_0",
                columns=(
                    Column(text="Type"),
                    Column(text="Decode", numeric=True),
                    Column(text="Prefill", numeric=True),
                    Column(text="Repacked"),
                    Column(text="Source"),
                ),
                rows=tuple(rows),
                folded=True,
            )
        )
    return Section(anchor="device", title=device.title, blocks=tuple(blocks))


def reproduce_section(build: BuildDocument) -> Section:
    """Command, versions, hashes, and where the time went."""
    facts = [
        Fact(label="Model", text=build.model.path or build.model.name),
        *([Fact(label="Model SHA-256", text=build.model.sha256)] if build.model.sha256 else []),
        *([Fact(label="File SHA-256", text=build.file_sha256)] if build.file_sha256 else []),
        *([Fact(label="Calibration", text=_calibration(build))] if build.calibration.source else []),
    ]
    if build.versions:
        facts.append(Fact(label="Versions", text=", ".join(f"{k} {v}" for k, v in build.versions.items())))
    blocks: list[Block] = []
    if lines := build_command_lines(build):
        blocks.append(Commands(lines=lines))
    blocks.append(Facts(items=tuple(facts)))
    if build.stage_seconds:
        slow = sorted(build.stage_seconds.items(), key=lambda item: -item[1])
        blocks.append(
            Table(
                caption="Where the time went",
                columns=(Column(text="Stage"), Column(text="Time", numeric=True)),
                rows=tuple(Row(cells=(name, human_seconds(seconds))) for name, seconds in slow),
                folded=True,
            )
        )
    return Section(anchor="reproduce", title="Reproduce", blocks=tuple(blocks))


def _calibration(build: BuildDocument) -> str:
    part = build.calibration
    size = f", {part.windows[0]} windows of {part.windows[1]} tokens" if part.windows and len(part.windows) == 2 else ""
    return f"{part.source}{size}"


BUILD_SECTIONS: tuple[Callable[[BuildDocument], Section | None], ...] = (
    memory_section,
    allocation_section,
    candidates_section,
    quality_section,
    feedback_section,
    folding_section,
    sample_section,
)
"""In the order of the page; what was measured on boards follows, then the two below."""
LAST_SECTIONS: tuple[Callable[[BuildDocument], Section | None], ...] = (device_section, reproduce_section)
