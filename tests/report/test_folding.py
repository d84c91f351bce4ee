"""What a report says of folding, and that it says nothing where the record is silent."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ramp_edge.report.compose import report_of
from ramp_edge.report.view import Section, Table

Record = Callable[..., dict[str, Any]]
Folder = Callable[..., Path]

FOLDING = {
    "mode": "auto", "rounds": 2, "groups_tried": 2, "groups_kept": 1, "reordered": True,
    "groups": [
        {"group": "residual stream", "kept": True, "reason": "it lowers held-out error", "kl_before": 0.02, "kl_after": 0.018,
         "kl_noise": 0.0002},
        {"group": "blk.0.ffn_down", "kept": False, "reason": "no gain on held-out activations", "kl_before": 0.001,
         "kl_after": 0.00101, "kl_noise": 0.00001},
        {"group": "head", "kept": False, "reason": "the output matrix is the input embedding as well"},
    ],
}  # fmt: skip


def folding_of(folder: Path) -> Section | None:
    return next((s for s in report_of([folder]).sections if s.anchor == "folding"), None)


def measured(record: dict[str, Any], kl_folded: float) -> list[dict[str, Any]]:
    """The record's candidates, with the best of ours once more as a folded one."""
    ours = next(c for c in record["candidates"] if c["codec"] == "feedback" and c["evaluation"])
    divergence = ours["evaluation"]["divergence"] | {"mean_kl": kl_folded}
    twin = ours | {"folded": True, "evaluation": ours["evaluation"] | {"divergence": divergence}, "chosen": False}
    return [twin, *record["candidates"]]


def test_old_records_have_no_such_section(record: Record, folder: Folder) -> None:
    assert folding_of(folder(build=record("new/build.json"))) is None


def test_groups_and_both_files(record: Record, folder: Folder) -> None:
    data = record("new/build.json")
    section = folding_of(folder(build=data | {"folding": FOLDING, "candidates": measured(data, 0.004)}))
    assert section is not None
    assert "1 of 2 groups of channels are scaled and the residual stream's channels have another order" in section.lead
    files, groups = (block for block in section.blocks if isinstance(block, Table))
    assert [row.cells[0] for row in files.rows] == ["folded", "as it was"]
    assert files.rows[0].cells[2].startswith("0.0040")
    assert files.rows[1].strong and not files.rows[0].strong
    assert [row.cells[4] for row in groups.rows] == ["−10.0 %", "+1.0 %", ""]
    assert groups.rows[0].cells[5] == "1.0 %"


def test_another_allocator_s_folded_plan_is_no_proof_of_folding(record: Record, folder: Folder) -> None:
    """It was measured in one kind alone: its being better says nothing of the channels."""
    data = record("new/build.json")
    twin, *rest = measured(data, 0.005)
    ramp = measured(data, 0.003)[0] | {"origin": "ramp"}
    section = folding_of(folder(build=data | {"folding": FOLDING, "candidates": [twin, *rest, ramp]}))
    assert section is not None
    files = next(block for block in section.blocks if isinstance(block, Table))
    assert files.rows[0].cells[2].startswith("0.0050")


def test_one_measured_file_is_no_comparison(record: Record, folder: Folder) -> None:
    section = folding_of(
        folder(build=record("new/build.json", folding=FOLDING | {"reordered": False, "groups_kept": 0}))
    )
    assert section is not None
    assert "nothing was kept" in section.lead
    assert len(section.blocks) == 1


def test_a_folded_file_says_nothing_of_feedback(record: Record, folder: Folder) -> None:
    """It differs from the stock file of its types in more than rounding."""
    data = record("new/build.json")
    ours = measured(data, 0.004)[0]
    stock = next(c for c in data["candidates"] if c["codec"] == "stock" and c["evaluation"])
    alone = {"candidates": [ours | {"origin": stock["origin"]}, stock]}
    anchors = [s.anchor for s in report_of([folder(build=data | alone)]).sections]
    assert "feedback" not in anchors
    plain = {"candidates": [ours | {"origin": stock["origin"], "folded": False}, stock]}
    assert "feedback" in [s.anchor for s in report_of([folder("plain", build=data | plain)]).sections]
