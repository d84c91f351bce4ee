"""The sections of a build, one function each. None means that the record knows nothing for it.

A new part of build.json becomes a function here and a line in BUILD_SECTIONS.
"""

from __future__ import annotations

from collections.abc import Callable

from ramp_edge.report.allocation import allocation_section
from ramp_edge.report.candidates import candidate_label, candidates_section, feedback_section
from ramp_edge.report.commands import build_command_lines
from ramp_edge.report.documents import BuildDocument, EvaluationPart
from ramp_edge.report.folding import folding_section
from ramp_edge.report.numbers import NATS, kl_text, percent, ppl_text, share_text, significant
from ramp_edge.report.tuning import tuning_section
from ramp_edge.report.view import (
    BarPart,
    Block,
    Column,
    Commands,
    Fact,
    Facts,
    MemoryBar,
    Quote,
    Quotes,
    Row,
    Section,
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
    tuning_section,
    sample_section,
)
"""In the order of the page; what was measured on boards follows, then the two below."""
LAST_SECTIONS: tuple[Callable[[BuildDocument], Section | None], ...] = (device_section, reproduce_section)
