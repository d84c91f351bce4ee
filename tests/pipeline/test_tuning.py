"""Builds with --tune: real files, real measurements, on the tiny model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ramp_edge.build as pipeline
from ramp_edge.build import build
from ramp_edge.cli.summary import summary_lines
from ramp_edge.events import EventBus
from ramp_edge.pipeline.calibration import Calibrated
from ramp_edge.pipeline.request import AllocatorChoice, BuildRequest, Effort, Fold
from ramp_edge.pipeline.tuning import Tuning
from ramp_edge.records import ErrorTable

Make = Callable[..., BuildRequest]


def test_a_tuned_build_tells_what_was_measured(tiny_request: Make, tmp_path: Path) -> None:
    events = EventBus()
    record = build(tiny_request(tune=5), events)
    tuning = record.tuning
    assert tuning is not None and tuning.measured_changes == 5 and tuning.n_tokens > 0
    assert "tune" in events.stage_seconds
    measured = {c.origin for c in record.candidates if c.codec == "feedback" and c.evaluation is not None}
    taken = tuning.tensors_changed > 0 and tuning.kl_after < tuning.kl_before
    assert measured == ({"tuned", "knapsack"} if taken else {"knapsack"})
    [line] = [line for line in summary_lines(record, tmp_path / "out") if line.startswith("  tuning ")]
    assert line.startswith("  tuning      5 changes measured on ")
    assert not list((tmp_path / "out").glob("**/tuning*")), "nothing is left of it"
    assert record.settings["tune"] == 5


def distorted(calibrated: Calibrated) -> Calibrated:
    """As if the Fisher pass had seen every second tensor wrong by a factor of 50 either way."""
    rows = {
        name: {t: v * (50.0 if i % 2 else 0.02) for t, v in row.items()}
        for i, (name, row) in enumerate(sorted(calibrated.table.kl.items()))
    }
    return dataclasses.replace(calibrated, table=ErrorTable(kl=rows))


def test_tuning_mends_a_table_that_is_wrong(tiny_request: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    calibrate = pipeline.calibrate
    monkeypatch.setattr(pipeline, "calibrate", lambda *a, **k: distorted(calibrate(*a, **k)))
    record = build(tiny_request(tune=200, fold=Fold.OFF), EventBus())
    tuning = record.tuning
    assert tuning is not None
    # Measured: 0.60 of it, 14 standard errors, 58 changes.
    assert tuning.kl_after < 0.85 * tuning.kl_before
    assert tuning.kl_after - tuning.kl_before < -4 * tuning.difference_std_error
    assert record.origin == "tuned"
    kl = {c.origin: c.measured_kl for c in record.candidates if c.evaluation is not None and c.codec == "feedback"}
    assert kl["tuned"] is not None and kl["knapsack"] is not None and kl["tuned"] < kl["knapsack"]


def test_a_stopped_tuning_goes_on_where_it_was(tiny_request: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    measure, calls = Tuning._measure, [0]

    def counted(self: Tuning, *arguments: Any) -> tuple[float, float]:
        calls[0] += 1
        if calls[0] == 4:
            raise KeyboardInterrupt
        return measure(self, *arguments)

    monkeypatch.setattr(Tuning, "_measure", counted)
    with pytest.raises(KeyboardInterrupt):
        build(tiny_request(tune=5), EventBus())
    record = build(tiny_request(tune=5, resume=True), EventBus())
    assert calls[0] == 6, "three before the stop, the one it fell into, the two that were missing"
    assert record.tuning is not None and record.tuning.measured_changes == 5


def test_the_policy_and_a_folded_plan_are_measured_beside_the_tuned_one(tiny_request: Make, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the small board reads a page of words and writes the next one. " * 400)
    request = tiny_request(tune=8, effort=Effort.BALANCED, calibration=(text,), allocator=AllocatorChoice.BEST)
    record = build(request, EventBus())
    measured = [c.origin for c in record.candidates if c.codec == "feedback" and c.evaluation is not None]
    assert "ramp" in measured and "knapsack" in measured


def test_a_dry_run_measures_nothing(tiny_request: Make) -> None:
    record = build(tiny_request(tune=5, dry_run=True), EventBus())
    assert record.tuning is None and record.dry_run
