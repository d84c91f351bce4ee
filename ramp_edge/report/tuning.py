"""What measured changes taught the allocation, on their own text and on the evaluation's."""

from __future__ import annotations

from ramp_edge.records import TUNED_ORIGIN
from ramp_edge.report.documents import BuildDocument
from ramp_edge.report.numbers import NATS, kl_text, significant
from ramp_edge.report.view import Column, Fact, Facts, Row, Section, Table


def tuning_section(build: BuildDocument) -> Section | None:
    """None without --tune."""
    tuning = build.tuning
    if tuning is None:
        return None
    facts = [
        Fact(label="Changes measured", text=f"{tuning.measured_changes:,}, each on {tuning.n_tokens:,} tokens of calibration text"),
        Fact(label="Measured over predicted KL", text=f"{tuning.common_factor:.2f}, all changes together"),
        Fact(label="Tensors changed", text=f"{tuning.tensors_changed:,}"),
    ]  # fmt: skip
    if tuning.tensors_changed:
        taken = "" if tuning.kl_after < tuning.kl_before else "; not taken"
        facts.append(
            Fact(
                label=f"KL on that text ({NATS})",
                text=f"{significant(tuning.kl_before)} before, {significant(tuning.kl_after)} after, "
                f"± {significant(tuning.difference_std_error, 2)} (paired){taken}",
            )
        )
    table = _on_other_text(build)
    return Section(
        anchor="tuning",
        title="What tuning gives",
        lead="Single tensors of the best plan were given other types, measured with llama.cpp, and the plan was solved anew.",
        blocks=(Facts(items=tuple(facts)), *(() if table is None else (table,))),
    )


def _on_other_text(build: BuildDocument) -> Table | None:
    """The tuned file beside that of the plan which was tuned: of its kind, the one that predictions like best."""
    ours = [c for c in build.candidates if c.codec == "feedback" and c.divergence is not None]
    tuned = next((c for c in ours if c.origin == TUNED_ORIGIN), None)
    if tuned is None:
        return None
    others = [c for c in ours if c.origin != TUNED_ORIGIN and c.folded is tuned.folded and c.predicted_kl is not None]
    others.sort(key=lambda c: c.predicted_kl or 0.0)
    rows = []
    for label, candidate in (("tuned", tuned), *(("untuned", c) for c in others[:1])):
        assert candidate.divergence is not None
        rows.append(Row(cells=(label, kl_text(candidate.divergence)), strong=candidate.chosen))
    return Table(
        caption="On the evaluation's text, which tuning has not seen",
        columns=(Column(text="Plan"), Column(text=f"KL measured ({NATS})", numeric=True)),
        rows=tuple(rows),
    )
