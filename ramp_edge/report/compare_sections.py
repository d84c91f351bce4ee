"""Builds beside builds and boards beside boards: the first one is what the others are compared with."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ramp_edge.report.allocation import allocated, type_shares
from ramp_edge.report.board_sections import board_facts
from ramp_edge.report.build_sections import memory_bar
from ramp_edge.report.candidates import FILE_SIZE, KL_AXIS, PREDICTED_SPEED
from ramp_edge.report.documents import BuildDocument, DivergencePart, SpeedPart
from ramp_edge.report.evidence import Bench, Build
from ramp_edge.report.numbers import (
    NATS,
    TOK_S,
    apart,
    change,
    kl_text,
    percent,
    ppl_text,
    significant,
    speed_range,
)
from ramp_edge.report.view import (
    Axis,
    Block,
    Column,
    Point,
    Row,
    Scatter,
    Section,
    Series,
    Strip,
    Strips,
    Table,
)
from ramp_edge.units import human_bytes

_SAME_PERPLEXITY = 1e-3
"""Of the same reference on the same text: other processors differ in the last digits."""
_MOST_LISTED = 40


def unlike(first: BuildDocument, second: BuildDocument) -> str | None:
    """Why the KLs of two builds are of different things, or None."""
    if first.model.sha256 is None or first.model.sha256 != second.model.sha256:
        return "they were built from different models"
    if first.reference is None or second.reference is None:
        return "one of them was not measured"
    a, b = first.reference.perplexity, second.reference.perplexity
    same = abs(a.value - b.value) <= _SAME_PERPLEXITY * max(a.value, b.value)
    if (a.n_tokens, a.n_windows) != (b.n_tokens, b.n_windows) or not same:
        return "they were measured on different text"
    return None


def _kl_cell(build: BuildDocument, first: BuildDocument) -> str:
    ours, theirs = build.divergence, first.divergence
    if ours is None:
        return "" if build.predicted_kl is None else f"{significant(build.predicted_kl)} predicted"
    text = kl_text(ours)
    if build is first or theirs is None or theirs.mean_kl <= 0 or unlike(first, build):
        return text
    return f"{text} ({change(ours.mean_kl, theirs.mean_kl) if apart(ours, theirs) else 'no difference'})"


def _beside(value: float, first: float, text: str, *, is_first: bool) -> str:
    return text if is_first or not first else f"{text} ({change(value, first)})"


def builds_table(builds: Sequence[Build], speeds: dict[str, SpeedPart]) -> Table:
    """A row for every property, a column for every build. `speeds`: label -> decode as measured."""
    first = builds[0].document

    def row(label: str, cell: Callable[[BuildDocument], str]) -> Row:
        return Row(cells=(label, *(cell(build.document) for build in builds)))

    def number(label: str, value: Callable[[BuildDocument], float], text: Callable[[float], str]) -> Row:
        return row(label, lambda d: _beside(value(d), value(first), text(value(d)), is_first=d is first))

    rows = [
        row("Model", lambda d: d.model.name),
        row("Device", lambda d: d.device.title),
        number("File", lambda d: d.file_bytes, human_bytes),
        number("Bits per weight", lambda d: d.bits_per_weight, lambda v: f"{v:.2f}"),
        number("Resident memory", lambda d: d.memory.total_bytes, human_bytes),
        row("Context (tokens)", lambda d: f"{d.model.ctx}{f', KV in {d.model.kv_type}' if d.model.kv_type else ''}"),
        row(f"KL ({NATS})", lambda d: _kl_cell(d, first)),
        row("Same top token", lambda d: percent(v.top_token_agreement) if (v := d.divergence) else ""),
        row("Perplexity", lambda d: ppl_text(d.evaluation) if d.evaluation else ""),
        number(f"Decode, predicted ({TOK_S})", lambda d: d.predicted_decode_tok_s, significant),
        row("Bounded by", lambda d: d.limit),
    ]
    if speeds:
        cells = [
            "" if (s := speeds.get(b.label)) is None else f"{significant(s.median_tok_s)} ({speed_range(s)})"
            for b in builds
        ]
        rows.insert(-1, Row(cells=(f"Decode, measured ({TOK_S})", *cells)))
    return Table(
        caption="Side by side; in brackets the change from the first",
        columns=(Column(text=""), *(Column(text=build.label) for build in builds)),
        rows=tuple(row for row in rows if any(row.cells[1:])),
    )


def builds_plot(builds: Sequence[Build]) -> list[Scatter]:
    """Bytes and predicted speed against KL, where the KLs are of one model and one text."""
    known = [(b, d) for b in builds if (d := b.document.divergence) is not None and d.mean_kl > 0]
    if len(known) < 2 or any(unlike(known[0][0].document, b.document) for b, _ in known[1:]):
        return []
    plots = []
    for by_speed, axis in ((False, FILE_SIZE), (True, PREDICTED_SPEED)):
        points = tuple(_point(build, divergence, by_speed, chosen=build is builds[0]) for build, divergence in known)
        if len({point.x for point in points}) > 1:
            plots.append(
                Scatter(
                    title=f"KL divergence by {'speed' if by_speed else 'size'}",
                    description=f"{len(points)} builds; lower is closer to the original. The table has every value.",
                    x=axis,
                    y=KL_AXIS,
                    points=points,
                )
            )
    return plots


def _point(build: Build, divergence: DivergencePart, by_speed: bool, *, chosen: bool) -> Point:
    document = build.document
    x = document.predicted_decode_tok_s if by_speed else document.file_bytes / 1e6
    place = f"{significant(x)} {TOK_S} predicted" if by_speed else human_bytes(document.file_bytes)
    return Point(
        label=build.label,
        x=x,
        y=divergence.mean_kl,
        y_error=divergence.std_error,
        series=Series.OURS,
        chosen=chosen,
        tip=f"{build.label}: {place}, KL {kl_text(divergence)} {NATS}",
    )


def builds_section(builds: Sequence[Build], benches: Sequence[Bench]) -> Section:
    """All figures of the builds."""
    speeds = {
        bench.build.label: min(bench.model.decode, key=lambda s: s.depth_tokens)
        for bench in reversed(benches)
        if bench.build is not None and bench.model.decode
    }
    return Section(
        anchor="builds",
        title="Builds",
        lead="“No difference” where two measured values lie within their standard errors of each other.",
        blocks=(builds_table(builds, speeds), *builds_plot(builds)),
    )


def budgets_section(builds: Sequence[Build]) -> Section:
    """A memory bar for each build."""
    return Section(
        anchor="memory",
        title="Memory",
        blocks=tuple(memory_bar(build.document, build.label) for build in builds),
    )


def types_section(builds: Sequence[Build]) -> Section:
    """Shares of the types, and the tensors that differ."""
    shares = [type_shares(build.document) for build in builds]
    names = list(dict.fromkeys(name for share in shares for name in share))
    totals = [max(1, sum(weights for _, weights, _ in share.values())) for share in shares]
    blocks: list[Block] = [
        Table(
            caption="Share of the weights in each type",
            columns=(Column(text="Type"), *(Column(text=build.label, numeric=True) for build in builds)),
            rows=tuple(
                Row(
                    cells=(
                        name,
                        *(
                            percent(share[name][1] / total) if name in share else "–"
                            for share, total in zip(shares, totals, strict=True)
                        ),
                    )
                )
                for name in names
            ),
        )
    ]
    types = [{t.name: t.type for t in allocated(build.document)} for build in builds]
    both = [name for name in types[0] if all(name in other for other in types)]
    differ = [name for name in both if len({other[name] for other in types}) > 1]
    if differ:
        rows = [Row(cells=(name, *(other[name] for other in types))) for name in differ[:_MOST_LISTED]]
        more = f", the first {_MOST_LISTED}" if len(differ) > _MOST_LISTED else ""
        blocks.append(
            Table(
                caption=f"{len(differ)} of {len(both)} tensors have another type{more}",
                columns=(Column(text="Tensor"), *(Column(text=build.label) for build in builds)),
                rows=tuple(rows),
                folded=True,
            )
        )
    return Section(anchor="types", title="Allocation", blocks=tuple(blocks))


def _first_speed(speeds: Sequence[SpeedPart]) -> SpeedPart | None:
    return min(speeds, key=lambda speed: speed.depth_tokens, default=None)


def boards_section(benches: Sequence[Bench]) -> Section:
    """A row for each board, every repeat in a plot, and what the boards say of themselves."""
    blocks: list[Block] = []
    for kind in ("decode", "prefill"):
        strips = []
        for bench in benches:
            speed = _first_speed(bench.model.decode if kind == "decode" else bench.model.prefill)
            if speed is None:
                continue
            strips.append(
                Strip(
                    label=bench.label,
                    samples=tuple(speed.samples_tok_s),
                    median=speed.median_tok_s,
                    predicted=None,
                    tip=f"{bench.label}: median {significant(speed.median_tok_s)} {TOK_S}, {speed_range(speed)}, "
                    f"depth {speed.depth_tokens}, {speed.threads} threads",
                )
            )
        if len(strips) > 1:
            blocks.append(
                Strips(
                    title=kind.capitalize(),
                    description="Every repeat at the least depth of each board; the bar is the median.",
                    axis=Axis(label=f"{kind} speed", unit=TOK_S),
                    strips=tuple(strips),
                )
            )
    rows = [Row(cells=_board_cells(bench)) for bench in benches]
    columns = (
        Column(text="Board"),
        Column(text="Model"),
        Column(text=f"Decode ({TOK_S})", numeric=True),
        Column(text=f"Prefill ({TOK_S})", numeric=True),
        Column(text="Measured / predicted", numeric=True),
        Column(text="Peak resident", numeric=True),
        Column(text="Doubts", numeric=True),
    )
    blocks.append(Table(caption="Boards side by side", columns=columns, rows=tuple(rows)))
    facts = [{fact.label: fact.text for fact in board_facts(bench.document)} for bench in benches]
    labels = list(dict.fromkeys(label for board in facts for label in board))
    blocks.append(
        Table(
            caption="What the boards say of themselves",
            columns=(Column(text=""), *(Column(text=bench.label) for bench in benches)),
            rows=tuple(Row(cells=(label, *(board.get(label, "") for board in facts))) for label in labels),
            folded=True,
        )
    )
    return Section(anchor="boards", title="Boards", blocks=tuple(blocks))


def _board_cells(bench: Bench) -> tuple[str, ...]:
    model = bench.model
    decode, prefill = _first_speed(model.decode), _first_speed(model.prefill)
    prediction = model.prediction
    ratio = (
        f"{prediction.measured_tok_s / prediction.decode_tok_s:.2f}"
        if prediction is not None and prediction.measured_tok_s is not None
        else ""
    )
    peaks = [use.peak_resident_bytes for use in model.memory if use.peak_resident_bytes is not None]
    return (
        bench.label,
        f"{model.label}, {human_bytes(model.file_bytes)}",
        "" if decode is None else f"{significant(decode.median_tok_s)} ({speed_range(decode)})",
        "" if prefill is None else f"{significant(prefill.median_tok_s)} ({speed_range(prefill)})",
        ratio,
        human_bytes(max(peaks)) if peaks else "",
        str(len(bench.document.doubts)),
    )
