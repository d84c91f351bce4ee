"""What was measured on a board: verdict, key numbers, speeds with every repeat."""

from __future__ import annotations

from collections.abc import Sequence

from ramp_edge.report.board_sections import target_name
from ramp_edge.report.documents import BenchDocument, BenchModelPart, SpeedPart
from ramp_edge.report.evidence import Bench
from ramp_edge.report.numbers import TOK_S, percent, significant, speed_range
from ramp_edge.report.view import (
    Axis,
    Block,
    Column,
    Figure,
    Figures,
    Notes,
    Row,
    Section,
    Strip,
    Strips,
    Table,
    Tone,
    Verdict,
)
from ramp_edge.units import human_bytes, human_seconds

_STABLE = 0.05
"""Repeats that lie further apart are a reason for doubt in the record (docs/bench.md)."""


def doubt_notes(benches: Sequence[Bench]) -> Notes | None:
    """Every reason not to trust a figure; of several boards with their names."""
    named = len(benches) > 1
    doubts = [
        f"{bench.label}: {doubt.detail}" if named else doubt.detail
        for bench in benches
        for doubt in bench.document.doubts
    ]
    return Notes(tone=Tone.CAUTION, items=tuple(doubts)) if doubts else None


def bench_verdict(bench: Bench) -> Verdict:
    """Speed at the least depth, whether it is steady, and what became of the prediction."""
    document, model = bench.document, bench.model
    headline = f"Measured on {target_name(document)}."
    if model.decode:
        first = min(model.decode, key=lambda speed: speed.depth_tokens)
        headline = f"{significant(first.median_tok_s)} {TOK_S} decode on {target_name(document)}."
    details = []
    if said := prediction_text(model):
        details.append(said)
    if model.perplexity is not None:
        off = abs(model.perplexity.board / model.perplexity.host - 1)
        details.append(
            f"Perplexity on the board is within {percent(off, 2)} of this machine's: the kernels compute right."
        )
    n = len(document.doubts)
    if n:
        details.append(f"{n} reason{'s' if n > 1 else ''} to doubt the figures, below.")
    else:
        details.append(f"Steady: the repeats of every figure lie within {percent(_STABLE, 0)}.")
    return Verdict(tone=Tone.CAUTION if n else Tone.GOOD, headline=headline, details=tuple(details))


def prediction_text(model: BenchModelPart) -> str:
    """What the build promised beside what was measured; empty where either is not known."""
    prediction = model.prediction
    if prediction is None or prediction.measured_tok_s is None:
        return ""
    ratio = prediction.measured_tok_s / prediction.decode_tok_s
    return (
        f"The build predicted {significant(prediction.decode_tok_s)} {TOK_S} at depth {prediction.depth_tokens}; "
        f"measured {significant(prediction.measured_tok_s)}, {ratio:.2f} of it."
    )


def bench_figures(bench: Bench) -> Figures:
    """Decode, prefill, memory, load time."""
    model, items = bench.model, []
    for label, speeds in (("Decode", model.decode), ("Prefill", model.prefill)):
        if speeds:
            first = min(speeds, key=lambda speed: speed.depth_tokens)
            items.append(
                Figure(
                    label=label,
                    text=significant(first.median_tok_s),
                    unit=TOK_S,
                    spread=speed_range(first),
                    note=f"median; depth {first.depth_tokens}, {threads_text(first.threads)}",
                    value=first.median_tok_s,
                )
            )
    for use in model.memory:
        if use.load_mode == "mmap" and use.peak_resident_bytes is not None:
            number, unit = human_bytes(use.peak_resident_bytes).split(" ")
            loads = f"; loads in {human_seconds(use.load_s)}" if use.load_s is not None else ""
            items.append(
                Figure(
                    label="Peak memory",
                    text=number,
                    unit=unit,
                    note=f"whole process, mapped weights, context {use.n_ctx}{loads}",
                    value=use.peak_resident_bytes,
                )
            )
    number, unit = human_bytes(model.file_bytes).split(" ")
    items.append(Figure(label="File", text=number, unit=unit, note=model.label, value=model.file_bytes))
    return Figures(items=tuple(items))


def threads_text(count: int) -> str:
    """1 thread, 4 threads"""
    return f"{count} thread{'' if count == 1 else 's'}"


def _strips(bench: BenchDocument, kind: str, title: str) -> Strips | None:
    strips = []
    for model in bench.models:
        for speed in model.decode if kind == "decode" else model.prefill:
            prediction = model.prediction
            predicted = (
                prediction.decode_tok_s
                if kind == "decode" and prediction is not None and prediction.depth_tokens == speed.depth_tokens
                else None
            )
            name = f"{model.label}, " if len(bench.models) > 1 else ""
            strips.append(
                Strip(
                    label=f"{name}depth {speed.depth_tokens}",
                    samples=tuple(speed.samples_tok_s),
                    median=speed.median_tok_s,
                    predicted=predicted,
                    tip=f"{name}depth {speed.depth_tokens}: median {significant(speed.median_tok_s)} {TOK_S}, "
                    f"{speed_range(speed)}",
                )
            )
    if not strips:
        return None
    said = " The open diamond is the build's prediction." if any(s.predicted for s in strips) else ""
    return Strips(
        title=title,
        description=f"Every repeat at every depth of the context; the bar is the median.{said}",
        axis=Axis(label=f"{kind} speed", unit=TOK_S),
        strips=tuple(strips),
    )


def _speed_table(bench: BenchDocument) -> Table:
    several = len(bench.models) > 1
    energy = any(s.energy_j_per_token is not None for m in bench.models for s in (*m.decode, *m.prefill))
    rows = []
    for model in bench.models:
        for kind, speeds in (("decode", model.decode), ("prefill", model.prefill)):
            for speed in speeds:
                rows.append(Row(cells=_speed_cells(model, kind, speed, several=several, energy=energy)))
    return Table(
        caption="Every speed",
        columns=(
            *([Column(text="Model")] if several else []),
            Column(text="Kind"),
            Column(text="Depth (tokens)", numeric=True),
            Column(text=f"Median ({TOK_S})", numeric=True),
            Column(text=f"Range ({TOK_S})", numeric=True),
            Column(text="Spread", numeric=True),
            Column(text="Threads", numeric=True),
            *([Column(text="Energy (J/token)", numeric=True)] if energy else []),
        ),
        rows=tuple(rows),
        folded=True,
    )


def _speed_cells(model: BenchModelPart, kind: str, speed: SpeedPart, *, several: bool, energy: bool) -> tuple[str, ...]:
    joules = "" if speed.energy_j_per_token is None else significant(speed.energy_j_per_token)
    return (
        *([model.label] if several else []),
        kind,
        str(speed.depth_tokens),
        significant(speed.median_tok_s),
        speed_range(speed),
        percent(speed.spread),
        str(speed.threads),
        *([joules] if energy else []),
    )


def speed_section(bench: Bench, name: str, anchor: str = "speed") -> Section | None:
    """Every repeat, and the ratios where models took turns."""
    document = bench.document
    blocks: list[Block | None] = [
        _strips(document, "decode", "Decode"),
        _strips(document, "prefill", "Prefill"),
        _speed_table(document),
        _ratio_table(document),
        _sweep_table(document),
    ]
    if blocks[0] is None and blocks[1] is None:
        return None
    said = prediction_text(bench.model)
    return Section(
        anchor=anchor,
        title=f"Speed on {name}",
        lead=" ".join(
            filter(None, (f"{document.repeats} repeats of each figure by llama-bench, after its own warm-up.", said))
        ),
        blocks=tuple(block for block in blocks if block is not None),
    )


def _ratio_table(bench: BenchDocument) -> Table | None:
    if not bench.ratios:
        return None
    return Table(
        caption="Models beside each other, round by round",
        columns=(
            Column(text="First"),
            Column(text="Second"),
            Column(text="Kind"),
            Column(text="Depth (tokens)", numeric=True),
            Column(text="First over second, median", numeric=True),
            Column(text="Range", numeric=True),
        ),
        rows=tuple(
            Row(
                cells=(
                    ratio.first,
                    ratio.second,
                    ratio.kind,
                    str(ratio.depth_tokens),
                    f"{ratio.median:.3f}",
                    f"{min(ratio.samples):.3f} to {max(ratio.samples):.3f}, {len(ratio.samples)} rounds",
                )
            )
            for ratio in bench.ratios
        ),
    )


def _sweep_table(bench: BenchDocument) -> Table | None:
    rows = [
        Row(cells=(model.label, str(p.threads), significant(p.decode_tok_s), significant(p.prefill_tok_s)))
        for model in bench.models
        for p in model.sweep
    ]
    if not rows:
        return None
    return Table(
        caption="Thread counts, a first look (the better of two short repeats)",
        columns=(
            Column(text="Model"),
            Column(text="Threads", numeric=True),
            Column(text=f"Decode ({TOK_S})", numeric=True),
            Column(text=f"Prefill ({TOK_S})", numeric=True),
        ),
        rows=tuple(rows),
        folded=True,
    )
