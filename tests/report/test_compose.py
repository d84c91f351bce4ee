"""What a report says of real records: the verdict in each case, sections only for what is known, comparisons that are fair."""

from __future__ import annotations

import copy
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from ramp_edge.cli.main import app
from ramp_edge.report.compose import report_of
from ramp_edge.report.view import (
    Block,
    Commands,
    Facts,
    HeatMap,
    MemoryBar,
    Notes,
    Report,
    Scatter,
    Strips,
    Table,
    Tone,
)

from .conftest import ASSETS, MINIMAL

Record = Callable[..., dict[str, Any]]
Folder = Callable[..., Path]


def blocks(report: Report, anchor: str | None = None) -> list[Block]:
    return [b for s in report.sections if anchor in (None, s.anchor) for b in s.blocks]


def only(report: Report, kind: type[Any], anchor: str | None = None) -> list[Any]:
    return [block for block in blocks(report, anchor) if isinstance(block, kind)]


def anchors(report: Report) -> list[str]:
    return [section.anchor for section in report.sections]


def test_a_build_with_its_bench() -> None:
    report = report_of([ASSETS / "new"])
    assert report.kind == "build"
    assert report.verdict.tone is Tone.GOOD
    assert report.verdict.headline == "75 % less divergence from the original than llama.cpp's stock Q3_K_M."
    assert any("measured 1789, 0.48 of it" in line for line in report.verdict.details)
    assert anchors(report) == [
        "memory", "allocation", "candidates", "quality", "sample", "speed", "board-memory", "board", "device", "reproduce",
    ]  # fmt: skip
    assert {f.label: (f.text, f.unit) for f in report.figures.items}["KL divergence"] == ("0.00590", "nats/token")


def test_figures_are_the_record_s(record: Record) -> None:
    data, report = record("new/build.json"), report_of([ASSETS / "new"])
    values = {figure.label: figure.value for figure in report.figures.items}
    assert values["File"] == data["file_bytes"]
    assert values["Memory"] == data["memory"]["total_bytes"]
    assert values["KL divergence"] == data["evaluation"]["divergence"]["mean_kl"]
    assert values["Decode, predicted"] == data["predicted_decode_tok_s"]
    assert values["Decode, measured"] == record("new/bench.json")["models"][0]["decode"][0]["median_tok_s"]
    bar = only(report, MemoryBar)[0]
    assert bar.used_bytes == data["memory"]["total_bytes"]
    drawn = only(report, HeatMap)[0]
    shown = [cell.text for row in drawn.rows for cell in row.cells] + [cell.text for _, cell in drawn.above]
    assert sorted(shown) == sorted(t["type"] for t in data["tensors"] if t["kept_reason"] is None)
    points = only(report, Scatter)[0].points
    assert sum(point.y_error is not None for point in points) == sum(
        c["evaluation"] is not None for c in data["candidates"]
    )
    strip = only(report, Strips)[0].strips[1]
    assert strip.samples == tuple(record("new/bench.json")["models"][0]["decode"][1]["samples_tok_s"])
    assert strip.predicted == pytest.approx(3713.657, abs=0.01)


def test_what_a_record_does_not_know_is_not_drawn() -> None:
    report = report_of([MINIMAL])
    assert "reproduce" in anchors(report)
    assert not only(report, Commands), "it does not know its settings"
    assert not only(report, Table, "device")
    for section in report.sections:
        assert section.blocks
        for block in section.blocks:
            if isinstance(block, Table):
                assert block.rows and all(len(row.cells) == len(block.columns) for row in block.rows)
            if isinstance(block, Facts):
                assert all(fact.text for fact in block.items)


def test_tables_are_square_and_anchors_unique() -> None:
    for paths in ([ASSETS / "new"], [ASSETS / "new", ASSETS / "old"], [ASSETS / "unstable.json"],
                  [ASSETS / "new" / "bench.json", ASSETS / "unstable.json"]):  # fmt: skip
        report = report_of(paths)
        assert len(set(anchors(report))) == len(report.sections)
        for table in only(report, Table):
            assert all(len(row.cells) == len(table.columns) for row in table.rows), table.caption
            assert all(any(row.cells[1:]) for row in table.rows), table.caption


def _preset(data: dict[str, Any], mean_kl: float, std_error: float = 0.0001, **changes: Any) -> dict[str, Any]:
    preset = copy.deepcopy(data["best_preset"])
    preset["evaluation"]["divergence"] |= {"mean_kl": mean_kl, "std_error": std_error}
    return data | {"best_preset": preset | changes}


def test_within_the_errors_there_is_no_difference(record: Record, folder: Folder) -> None:
    data = record("new/build.json")
    own = data["evaluation"]["divergence"]
    near = _preset(data, own["mean_kl"] + own["std_error"] + 0.00009)
    verdict = report_of([folder(build=near)]).verdict
    assert (verdict.tone, verdict.headline) == (Tone.PLAIN, "No measurable difference to stock Q3_K_M.")
    far = _preset(data, own["mean_kl"] + own["std_error"] + 0.00011)
    assert report_of([folder(build=far)]).verdict.tone is Tone.GOOD


def test_a_preset_that_won_is_called_so(record: Record, folder: Folder) -> None:
    verdict = report_of([folder(build=_preset(record("new/build.json"), 0.001, chosen=True))]).verdict
    assert verdict.tone is Tone.CAUTION
    assert "stock Q3_K_M: it measured better" in verdict.headline
    verdict = report_of([folder(build=_preset(record("new/build.json"), 0.001))]).verdict
    assert verdict.tone is Tone.CAUTION
    assert "closer to the original, but may not be taken" in verdict.headline


def test_plans_and_unmeasured_builds_claim_nothing(record: Record, folder: Folder) -> None:
    data = record("new/build.json", evaluation=None, reference=None, continuation=None)
    data["candidates"] = [c | {"evaluation": None} for c in data["candidates"]]
    data["best_preset"] = None
    report = report_of([folder(build=data)])
    assert report.verdict.headline == "Built; its closeness to the original was not measured."
    assert not {"quality", "sample", "feedback"} & set(anchors(report))
    plan = data | {"dry_run": True, "file_sha256": None}
    report = report_of([folder(build=plan)])
    assert report.verdict.headline.startswith("A plan")
    assert any(line.endswith("--dry-run -o out") for line in only(report, Commands)[0].lines)


def test_feedback_is_shown_where_both_quantizers_were_measured(record: Record, folder: Folder) -> None:
    data = record("new/build.json")
    assert "feedback" not in anchors(report_of([folder(build=data)]))
    stock = next(c for c in data["candidates"] if c["codec"] == "stock")
    ours = copy.deepcopy(stock) | {"codec": "feedback"}
    ours["evaluation"]["divergence"]["mean_kl"] = stock["evaluation"]["divergence"]["mean_kl"] / 2
    report = report_of([folder(build=data | {"candidates": [*data["candidates"], ours]})])
    table = only(report, Table, "feedback")[0]
    assert [row.cells[0] for row in table.rows] == ["Q3_K_M"]
    assert table.rows[0].cells[-1] == "0.50"


def test_speeds_of_candidates_make_a_second_plot(record: Record, folder: Folder) -> None:
    data = record("new/build.json")
    assert [plot.x.label for plot in only(report_of([folder(build=data)]), Scatter)] == ["file size"]
    for number, candidate in enumerate(data["candidates"]):
        candidate["predicted_decode_tok_s"] = 1000.0 + number
    plots = only(report_of([folder(build=data)]), Scatter)
    assert [(plot.x.label, plot.x.more_is_better) for plot in plots] == [
        ("file size", False),
        ("decode speed, predicted", True),
    ]


def test_warnings_and_a_stale_bench_are_before_the_sections(record: Record, folder: Folder) -> None:
    build = record("new/build.json", warnings=["the calibration text is short"])
    report = report_of([folder(build=build, bench=record("old/bench.json"))])
    said = [item for notes in report.notes for item in notes.items]
    assert said[0] == "the calibration text is short"
    assert "another file" in said[1]
    assert "speed" not in anchors(report)


def test_an_unstable_bench_says_why() -> None:
    report = report_of([ASSETS / "unstable.json"])
    assert report.verdict.tone is Tone.CAUTION
    assert report.notes[0] == Notes(tone=Tone.CAUTION, items=report.notes[0].items)
    assert len(report.notes[0].items) == 6
    assert report_of([ASSETS / "new" / "bench.json"]).verdict.tone is Tone.GOOD


def test_facts_that_a_board_does_not_tell_are_absent() -> None:
    labels = {fact.label for fact in only(report_of([ASSETS / "new"]), Facts, "board")[0].items}
    assert "Processor" in labels
    assert not {"GPU", "Governor", "Temperature", "Power mode", "Board", "Clock"} & labels


def test_builds_side_by_side() -> None:
    report = report_of([ASSETS / "new", ASSETS / "old"])
    assert report.kind == "comparison"
    assert report.verdict.headline == "old diverges 66 % less from the original than new."
    rows = {row.cells[0]: row.cells[1:] for row in only(report, Table, "builds")[0].rows}
    assert rows["File"] == ("3.38 MB", "4.10 MB (+21.3 %)")
    assert rows["KL (nats/token)"][1].endswith("(−66.4 %)")
    assert rows["Decode, measured (tok/s)"][0].startswith("2404 (2046 to 2475")
    assert len(only(report, MemoryBar)) == 2
    assert len(only(report, Scatter)) == 2
    assert any("36 of 43 tensors" in table.caption for table in only(report, Table, "types"))


def test_a_build_beside_itself_is_no_difference(record: Record, folder: Folder) -> None:
    first = folder("a", build=record("new/build.json"))
    report = report_of([first, folder("b", build=record("new/build.json"))])
    assert report.verdict.headline == "No measurable difference between b and a."
    assert report.verdict.details[0].endswith("b has the same bytes.")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"model": {"sha256": "0" * 64}}, "different models"),
        (
            {"reference": {"perplexity": {"value": 12.0, "std_error": 1.0, "n_tokens": 2040, "n_windows": 8}}},
            "different text",
        ),
        ({"reference": None}, "not measured"),
    ],
)
def test_unlike_builds_are_not_compared_in_quality(
    record: Record, folder: Folder, change: dict[str, Any], why: str
) -> None:
    data = record("old/build.json")
    other = data | {key: value if value is None else data[key] | value for key, value in change.items()}
    report = report_of([folder("a", build=data), folder("b", build=other)])
    assert report.verdict.headline == "b and a are not compared in quality."
    assert why in report.verdict.details[0]
    assert not only(report, Scatter)
    assert "(" not in {row.cells[0]: row.cells[2] for row in only(report, Table, "builds")[0].rows}["KL (nats/token)"]


def test_boards_side_by_side(record: Record, folder: Folder) -> None:
    bench = record("new/bench.json")
    fast = copy.deepcopy(bench) | {"target": "desk"}
    for speed in fast["models"][0]["decode"]:
        speed["samples_tok_s"] = [2 * v for v in speed["samples_tok_s"]]
        speed["median_tok_s"] *= 2
    place = folder(**{"bench": bench, "bench-desk": fast})
    report = report_of([place])
    assert report.verdict.headline == "desk decodes fastest: 4809 tok/s."
    assert only(report, Strips, "boards")[0].strips[1].label == "desk"
    same = folder(**{"bench-desk": bench | {"target": "desk"}})
    assert "overlap" in report_of([same]).verdict.headline


def _parse(*args: str) -> Result:
    return CliRunner().invoke(app, [*args, "--help"])


def test_the_commands_are_commands() -> None:
    """Each option is one that the verb has."""
    report = report_of([ASSETS / "new"])
    lines = [line for block in only(report, Commands) for line in block.lines]
    assert lines == [
        "ramp-edge bench out --target local --depths 0,256 --repeats 5 --threads 1",
        "ramp-edge build --device x86-avx512-32gb --target-bpw 4.5 --allocator knapsack -o out",
    ]
    for line in lines:
        verb, *words = shlex.split(line)[1:]
        known = _parse(verb).output
        assert all(word in known for word in words if word.startswith("--")), line


def test_every_setting_is_an_option(record: Record, folder: Folder) -> None:
    settings = {
        "model": "my model.gguf", "device": "raspberry-pi-5", "ctx": 1024, "kv_type": "Q8_0", "target_size_bytes": 3_500_000,
        "target_bpw": 4.5, "min_decode_tok_s": 20.0, "types": ["Q4_K", "Q6_K"], "calibration": ["a.txt", "b.txt"],
        "eval_text": "e.txt", "effort": "max", "allow_requantize": True, "seed": 3,
    }  # fmt: skip
    report = report_of([folder(build=record("new/build.json", settings=settings))])
    line = only(report, Commands)[0].lines[0]
    assert line == (
        "ramp-edge build 'my model.gguf' --device raspberry-pi-5 --ctx 1024 --kv-type Q8_0 --target-size '3500000 B' "
        "--target-bpw 4.5 --min-decode-tok-s 20.0 --types Q4_K,Q6_K --calibration a.txt --calibration b.txt --eval-text e.txt "
        "--effort max --seed 3 --allocator knapsack --allow-requantize -o out"
    )
    known = _parse("build").output
    assert all(word in known for word in shlex.split(line) if word.startswith("--"))
