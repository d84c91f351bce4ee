"""What a report says of tuning, and that it says nothing where the record is silent."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ramp_edge.report.compose import report_of
from ramp_edge.report.view import Facts, Section, Table

Record = Callable[..., dict[str, Any]]
Folder = Callable[..., Path]
TUNING = {
    "measured_changes": 150, "n_tokens": 2040, "common_factor": 0.81, "tensors_changed": 12,
    "kl_before": 0.0204, "kl_after": 0.0197, "difference_std_error": 0.00021,
}  # fmt: skip


def tuning_of(folder: Path) -> Section | None:
    return next((s for s in report_of([folder]).sections if s.anchor == "tuning"), None)


def facts_of(section: Section) -> dict[str, str]:
    return {fact.label: fact.text for block in section.blocks if isinstance(block, Facts) for fact in block.items}


def test_records_without_tuning_have_no_such_section(record: Record, folder: Folder) -> None:
    assert tuning_of(folder(build=record("new/build.json"))) is None
    assert tuning_of(folder(build=record("new/build.json", tuning=None))) is None


def test_both_texts_are_told_apart(record: Record, folder: Folder) -> None:
    data = record("new/build.json")
    ours = next(c for c in data["candidates"] if c["codec"] == "feedback" and c["evaluation"])
    divergence = ours["evaluation"]["divergence"] | {"mean_kl": 0.004}
    tuned = ours | {"origin": "tuned", "evaluation": ours["evaluation"] | {"divergence": divergence}, "chosen": False}
    # Another allocator's plan, which predictions like less, is not what was tuned.
    other = ours | {"origin": "ramp", "predicted_kl": 2 * ours["predicted_kl"], "chosen": False}
    other["evaluation"] = ours["evaluation"] | {"divergence": divergence | {"mean_kl": 0.9}}
    candidates = [tuned, other, *data["candidates"]]
    section = tuning_of(folder(build=data | {"tuning": TUNING, "candidates": candidates}))
    assert section is not None
    facts = facts_of(section)
    assert facts["Changes measured"] == "150, each on 2,040 tokens of calibration text"
    assert facts["Tensors changed"] == "12"
    assert [t for label, t in facts.items() if label.startswith("KL on that text")] == [
        "0.0204 before, 0.0197 after, ± 0.00021 (paired)"
    ]
    (table,) = (block for block in section.blocks if isinstance(block, Table))
    assert [row.cells[0] for row in table.rows] == ["tuned", "untuned"]
    assert table.rows[0].cells[1].startswith("0.0040")
    assert table.rows[1].cells[1].startswith(f"{ours['evaluation']['divergence']['mean_kl']:.3g}"[:5])


def test_what_is_not_taken_says_so(record: Record, folder: Folder) -> None:
    section = tuning_of(folder(build=record("new/build.json", tuning=TUNING | {"kl_after": 0.0207})))
    assert section is not None and not any(isinstance(block, Table) for block in section.blocks)
    assert any(text.endswith("(paired); not taken") for text in facts_of(section).values())
    unchanged = record("new/build.json", tuning=TUNING | {"tensors_changed": 0, "kl_after": 0.0204})
    nothing = tuning_of(folder(build=unchanged))
    assert nothing is not None and len(facts_of(nothing)) == 3
