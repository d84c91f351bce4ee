"""Candidates of a build on two axes and in a table, and the pairs among them that say what error feedback gives."""

from __future__ import annotations

import dataclasses

from ramp_edge.report.build_verdict import preset_name
from ramp_edge.report.documents import BuildDocument, CandidatePart
from ramp_edge.report.numbers import NATS, TOK_S, kl_text, significant
from ramp_edge.report.view import Axis, Column, Point, Row, Scatter, Section, Series, Table
from ramp_edge.units import human_bytes

FILE_SIZE = Axis(label="file size", unit="MB")
PREDICTED_SPEED = Axis(label="decode speed, predicted", unit=TOK_S, more_is_better=True)
KL_AXIS = Axis(label="KL divergence", unit=NATS, logarithmic=True)


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
