"""The report beside a build or a bench: where it lies, whose files it replaces, and that nothing is lost where it cannot be drawn."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ramp_edge.build import build
from ramp_edge.errors import UsageError
from ramp_edge.events import EventBus
from ramp_edge.pipeline import report as pipeline_report
from ramp_edge.pipeline.output_folder import check_inputs
from ramp_edge.pipeline.report import check_report_output, draw_beside, report_path, retire_report
from ramp_edge.pipeline.request import BuildRequest
from ramp_edge.report.html import MARK

ASSETS = Path(__file__).parents[1] / "gate" / "assets"
Make = Callable[..., BuildRequest]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A folder with the records of a build and its bench."""
    folder = tmp_path / "out"
    shutil.copytree(ASSETS / "new", folder)
    return folder


def test_where_a_report_belongs(out: Path, tmp_path: Path) -> None:
    assert report_path(out) == out / "report.html"
    for name in ("build.json", "bench.json", "bench-kitchen-pi.json"):
        assert report_path(out / name) == out / "report.html"
    assert report_path(out / "earlier.json") == out / "earlier.html"
    assert report_path(tmp_path / "bench-kitchen-pi.json") == tmp_path / "bench-kitchen-pi.html"
    assert report_path(tmp_path / "bench.json") == tmp_path / "report.html"


def test_a_build_has_its_report(tiny_request: Make, tmp_path: Path) -> None:
    record = build(tiny_request(), EventBus())
    text = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert MARK in text
    assert record.file_sha256 is not None and record.file_sha256 in text
    saved = json.loads((tmp_path / "out" / "build.json").read_text())
    assert all(c["predicted_decode_tok_s"] > 0 for c in saved["candidates"])
    chosen = next(c for c in saved["candidates"] if c["chosen"])
    assert chosen["predicted_decode_tok_s"] == saved["predicted_decode_tok_s"]


def test_a_plan_writes_no_report(tiny_request: Make, tmp_path: Path) -> None:
    build(tiny_request(dry_run=True), EventBus())
    assert not (tmp_path / "out").exists()


def test_a_picture_that_fails_costs_no_build(
    tiny_request: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "report.html").write_text(f"<!doctype html><head>{MARK} an earlier build's")

    def fail(*_: object) -> str:
        raise ZeroDivisionError("no ticks")

    monkeypatch.setattr(pipeline_report, "draw", fail)
    events = EventBus()
    record = build(tiny_request(), events)
    assert json.loads((out / "build.json").read_text())["file_sha256"] == record.file_sha256
    assert (out / "model.gguf").stat().st_size == record.file_bytes
    assert any("report.html could not be drawn: ZeroDivisionError: no ticks" in text for text in events.warnings)
    assert not (out / "report.html").exists(), "what it said is no longer true"
    assert sorted(p.name for p in out.iterdir()) == ["build.json", "model.gguf"]


def test_a_full_disk_costs_no_record(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, *_: object, **__: object) -> int:
        raise OSError(28, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_text", full)
    events = EventBus()
    assert draw_beside(out / "build.json", events) is None
    assert events.warnings and "the disk is full" in events.warnings[0]
    assert not list(out.glob("report.html*"))


@pytest.mark.parametrize("text", ["<html>my own page</html>", ""])
def test_a_page_of_others_stays(out: Path, text: str) -> None:
    (out / "report.html").write_text(text)
    events = EventBus()
    assert draw_beside(out / "bench.json", events) is None
    assert (out / "report.html").read_text() == text
    assert events.warnings and "was not written by ramp-edge report" in events.warnings[0]
    with pytest.raises(UsageError, match="would overwrite"):
        check_report_output(out / "report.html")


def test_a_folder_in_the_way(out: Path) -> None:
    (out / "report.html").mkdir()
    events = EventBus()
    assert draw_beside(out / "bench.json", events) is None
    assert "is a folder" in events.warnings[0]
    assert (out / "report.html").is_dir()


def test_a_report_of_ours_is_drawn_anew(out: Path) -> None:
    first = draw_beside(out / "build.json", EventBus())
    assert first == out / "report.html"
    before = first.read_text(encoding="utf-8")
    (out / "bench.json").unlink()
    draw_beside(out / "build.json", EventBus())
    assert first.read_text(encoding="utf-8") != before
    assert sorted(p.name for p in out.iterdir()) == ["build.json", "eval.json", "report.html"]


def test_another_record_of_the_folder_that_is_broken(out: Path) -> None:
    draw_beside(out / "build.json", EventBus())
    (out / "bench.json").write_text("{")
    events = EventBus()
    assert draw_beside(out / "build.json", events) is None
    assert "bench.json is not JSON" in events.warnings[0]
    assert not (out / "report.html").exists()


def test_a_report_goes_before_its_record_changes(out: Path) -> None:
    """A build that is killed between its record and its report leaves no report of the file before."""
    draw_beside(out / "build.json", EventBus())
    retire_report(out / "build.json")
    assert not (out / "report.html").exists()
    retire_report(out / "build.json")


def test_only_reports_of_ours_are_retired(out: Path) -> None:
    (out / "report.html").write_text("<html>mine</html>")
    retire_report(out / "bench.json")
    assert (out / "report.html").read_text() == "<html>mine</html>"


def test_no_build_reads_the_report_that_it_writes(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"report\.html"):
        check_inputs(tmp_path, [("--calibration", tmp_path / "report.html")])
