"""What folding tried, kept and gained, group by group."""

from __future__ import annotations

from ramp_edge.records import TUNED_ORIGIN, comparable_origins
from ramp_edge.report.documents import BuildDocument, FoldGroupPart
from ramp_edge.report.numbers import NATS, kl_text, percent, significant
from ramp_edge.report.view import Block, Column, Row, Section, Table


def folding_section(build: BuildDocument) -> Section | None:
    """None where the build left the channels as they were without a search."""
    folding = build.folding
    if folding is None:
        return None
    measured = _measured(build)
    blocks: tuple[Block, ...] = (_groups(folding.groups),)
    if measured is not None:
        blocks = (measured, *blocks)
    changes = []
    if folding.groups_kept:
        changes.append(f"{folding.groups_kept} of {folding.groups_tried} groups of channels are scaled")
    if folding.reordered:
        changes.append("the residual stream's channels have another order")
    did = " and ".join(changes) if changes else "nothing was kept"
    return Section(
        anchor="folding",
        title="What folding gives",
        lead=f"Changes that leave the function as it is and make it easier to quantize: {did}. "
        "Each is judged with the real codec on activations that nothing was fitted to.",
        blocks=blocks,
    )


def _measured(build: BuildDocument) -> Table | None:
    """The best files with and without, side by side."""
    rows = []
    ours = [c for c in build.candidates if c.codec == "feedback" and c.origin != TUNED_ORIGIN and c.divergence]
    origins = comparable_origins([(c.origin, c.folded) for c in ours]) or {c.origin for c in ours}
    for folded, label in ((True, "folded"), (False, "as it was")):
        found = [
            (divergence.mean_kl, candidate, divergence)
            for candidate in ours
            if candidate.folded is folded and candidate.origin in origins and (divergence := candidate.divergence)
        ]
        if not found:
            return None
        _, best, divergence = min(found, key=lambda entry: entry[0])
        predicted = "" if best.predicted_kl is None else significant(best.predicted_kl)
        rows.append(Row(cells=(label, predicted, kl_text(divergence)), strong=best.chosen))
    return Table(
        caption="The best file of either kind",
        columns=(
            Column(text="Model"),
            Column(text=f"KL predicted ({NATS})", numeric=True),
            Column(text=f"KL measured ({NATS})", numeric=True),
        ),
        rows=tuple(rows),
    )


def _groups(groups: list[FoldGroupPart]) -> Table:
    return Table(
        caption="Every group",
        columns=(
            Column(text="Group"),
            Column(text="Kept"),
            Column(text="Why"),
            Column(text=f"KL before ({NATS})", numeric=True),
            Column(text="Change", numeric=True),
            Column(text="± error", numeric=True),
        ),
        rows=tuple(_row(group) for group in groups),
        folded=True,
    )


def _row(group: FoldGroupPart) -> Row:
    kept = "yes" if group.kept else "no"
    if group.kl_before is None or group.kl_after is None or group.kl_before <= 0:
        return Row(cells=(group.group, kept, group.reason, "", "", ""))
    change = group.kl_after / group.kl_before - 1
    noise = "" if group.kl_noise is None else percent(group.kl_noise / group.kl_before, 1)
    sign = "+" if change > 0 else "−" if change < 0 else ""
    text = f"{sign}{percent(abs(change), 1)}"
    return Row(cells=(group.group, kept, group.reason, significant(group.kl_before), text, noise))
