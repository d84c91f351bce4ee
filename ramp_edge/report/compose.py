"""From records to a report: one build with the benches of its file, boards alone, or a comparison."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ramp_edge import __version__
from ramp_edge.plain import one_line
from ramp_edge.report.bench_sections import (
    bench_figures,
    bench_verdict,
    doubt_notes,
    prediction_text,
    speed_section,
    threads_text,
)
from ramp_edge.report.board_sections import board_section, board_title, memory_section, target_name
from ramp_edge.report.build_sections import BUILD_SECTIONS, LAST_SECTIONS
from ramp_edge.report.build_verdict import build_figures, build_verdict
from ramp_edge.report.compare_sections import (
    boards_section,
    budgets_section,
    builds_section,
    types_section,
    unlike,
)
from ramp_edge.report.documents import SpeedPart
from ramp_edge.report.evidence import Bench, Build, Evidence, gather
from ramp_edge.report.numbers import (
    NATS,
    TOK_S,
    apart,
    kl_text,
    more_bytes,
    percent,
    significant,
    speed_range,
    with_error,
)
from ramp_edge.report.view import Figure, Figures, Notes, Report, Section, Tone, Verdict
from ramp_edge.units import human_bytes

_MADE_BY = f"ramp-edge {__version__}"


def report_of(paths: Sequence[Path]) -> Report:
    """The report of records (files, or folders of builds). Raises UsageError for what is no record or does not belong together."""
    evidence = gather(paths)
    if len(evidence.builds) > 1:
        return _comparison(evidence)
    if evidence.builds:
        return _build(evidence.builds[0], evidence)
    if len(evidence.benches) > 1:
        return _boards(evidence)
    return _bench(evidence.benches[0], evidence)


def _sources(evidence: Evidence) -> tuple[str, ...]:
    records: tuple[Build | Bench, ...] = (*evidence.builds, *evidence.benches)
    return tuple(one_line(str(record.path)) for record in records)


def _notes(*notes: Notes | None) -> tuple[Notes, ...]:
    return tuple(note for note in notes if note is not None and note.items)


def _board_sections(benches: Sequence[Bench]) -> list[Section]:
    """Speed, memory and facts of each board; with several, the boards beside each other first."""
    sections: list[Section | None] = [boards_section(benches)] if len(benches) > 1 else []
    for index, bench in enumerate(benches):
        tail = f"-{index}" if index else ""
        name = bench.label if len(benches) > 1 else target_name(bench.document)
        sections += [
            speed_section(bench, name, f"speed{tail}"),
            memory_section(bench, name, f"board-memory{tail}"),
            board_section(bench, name, f"board{tail}"),
        ]
    return [section for section in sections if section is not None]


def _build(build: Build, evidence: Evidence) -> Report:
    document, benches = build.document, evidence.benches
    verdict, figures = build_verdict(document), build_figures(document)
    for bench in benches:
        if (said := prediction_text(bench.model)) and len(benches) == 1:
            verdict = Verdict(
                tone=verdict.tone,
                headline=verdict.headline,
                details=(*verdict.details, f"On {target_name(bench.document)}: {said[:1].lower()}{said[1:]}"),
            )
    if len(benches) == 1 and benches[0].model.decode:
        first = min(benches[0].model.decode, key=lambda speed: speed.depth_tokens)
        measured = Figure(
            label="Decode, measured",
            text=significant(first.median_tok_s),
            unit=TOK_S,
            spread=speed_range(first),
            note=f"on {target_name(benches[0].document)}, depth {first.depth_tokens}",
            value=first.median_tok_s,
        )
        figures = Figures(items=(*figures.items, measured))
    own = [make(document) for make in BUILD_SECTIONS]
    last = [make(document) for make in LAST_SECTIONS]
    return Report(
        kind="build",
        title=document.model.name,
        subtitle=f"{'planned' if document.dry_run else 'built'} for {document.device.title}",
        verdict=verdict,
        figures=figures,
        notes=_notes(
            Notes(tone=Tone.CAUTION, items=(*document.warnings, *evidence.notes)),
            doubt_notes(benches),
        ),
        sections=tuple(s for s in (*own, *_board_sections(benches), *last) if s is not None),
        sources=_sources(evidence),
        made_by=_MADE_BY,
    )


def _bench(bench: Bench, evidence: Evidence) -> Report:
    document = bench.document
    return Report(
        kind="bench",
        title=bench.model.label,
        subtitle=f"measured on {board_title(document)}",
        verdict=bench_verdict(bench),
        figures=bench_figures(bench),
        notes=_notes(Notes(tone=Tone.CAUTION, items=evidence.notes), doubt_notes(evidence.benches)),
        sections=tuple(_board_sections(evidence.benches)),
        sources=_sources(evidence),
        made_by=_MADE_BY,
    )


def _boards(evidence: Evidence) -> Report:
    benches = evidence.benches
    speeds = [(b, min(b.model.decode, key=lambda s: s.depth_tokens)) for b in benches if b.model.decode]
    doubts = sum(len(bench.document.doubts) for bench in benches)
    details = []
    if len({bench.model.sha256 for bench in benches}) > 1:
        details.append("They measured different files: the boards alone do not make the difference.")
    if doubts:
        details.append(f"{doubts} reasons to doubt the figures, below.")
    figures = tuple(
        Figure(
            label=f"Decode, {bench.label}",
            text=significant(speed.median_tok_s),
            unit=TOK_S,
            spread=speed_range(speed),
            note=f"median; depth {speed.depth_tokens}, {threads_text(speed.threads)}",
            value=speed.median_tok_s,
        )
        for bench, speed in speeds
    )
    return Report(
        kind="comparison",
        title=" · ".join(bench.label for bench in benches),
        subtitle="boards beside each other",
        verdict=Verdict(tone=Tone.CAUTION if doubts else Tone.PLAIN, headline=_fastest(speeds), details=tuple(details)),
        figures=Figures(items=figures),
        notes=_notes(doubt_notes(benches)),
        sections=tuple(_board_sections(benches)),
        sources=_sources(evidence),
        made_by=_MADE_BY,
    )


def _fastest(speeds: Sequence[tuple[Bench, SpeedPart]]) -> str:
    """The board of the highest decode speed, where no other's repeats reach its own."""
    if len(speeds) < 2:
        return "Boards beside each other."
    (first, best), *others = sorted(speeds, key=lambda pair: -pair[1].median_tok_s)
    level = [bench.label for bench, speed in others if max(speed.samples_tok_s) >= min(best.samples_tok_s)]
    if level:
        return f"No clear difference in decode speed: the repeats of {first.label} and {', '.join(level)} overlap."
    return f"{first.label} decodes fastest: {significant(best.median_tok_s)} {TOK_S}."


def _comparison(evidence: Evidence) -> Report:
    builds, benches = evidence.builds, evidence.benches
    claims = [_against(builds[0], other) for other in builds[1:]]
    headline, details = claims[0].claim, [claims[0].figures]
    if len(claims) > 1:
        headline = f"{len(builds)} builds beside each other."
        details = [f"{claim.claim} {claim.figures}" for claim in claims]
    figures = []
    for build in builds:
        divergence = build.document.divergence
        if divergence is None:
            continue
        text, spread = with_error(divergence.mean_kl, divergence.std_error)
        figures.append(
            Figure(
                label=f"KL divergence, {build.label}",
                text=text,
                unit=NATS,
                spread=spread,
                note=f"{human_bytes(build.document.file_bytes)}, {build.document.bits_per_weight:.2f} bits per weight",
                value=divergence.mean_kl,
            )
        )
    sections = [builds_section(builds, benches), budgets_section(builds), types_section(builds)]
    if len(benches) > 1:
        sections.append(boards_section(benches))
    models = list(dict.fromkeys(build.document.model.name for build in builds))
    return Report(
        kind="comparison",
        title=" · ".join(build.label for build in builds),
        subtitle=f"builds of {', '.join(models)} beside each other",
        verdict=Verdict(tone=Tone.PLAIN, headline=headline, details=tuple(details)),
        figures=Figures(items=tuple(figures)),
        notes=_notes(Notes(tone=Tone.CAUTION, items=evidence.notes), doubt_notes(benches)),
        sections=tuple(sections),
        sources=_sources(evidence),
        made_by=_MADE_BY,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Claim:
    """A sentence, and the figures behind it."""

    claim: str
    figures: str


def _against(first: Build, other: Build) -> _Claim:
    """What the other build is beside the first."""
    size = f"{other.label} has {more_bytes(other.document.file_bytes, first.document.file_bytes)}"
    a, b = first.document.divergence, other.document.divergence
    why = unlike(first.document, other.document)
    if a is None or b is None or why:
        return _Claim(
            claim=f"{other.label} and {first.label} are not compared in quality.",
            figures=f"Their KL is of different things: {why or 'one of them was not measured'}. {size}.",
        )
    pair = f"KL {kl_text(b)} against {kl_text(a)} {NATS}; {size}."
    if not apart(a, b):
        return _Claim(claim=f"No measurable difference between {other.label} and {first.label}.", figures=pair)
    word = "less" if b.mean_kl < a.mean_kl else "more"
    share = percent(abs(1 - b.mean_kl / a.mean_kl), 0)
    return _Claim(claim=f"{other.label} diverges {share} {word} from the original than {first.label}.", figures=pair)
