"""Plain progress: a line for each stage, and in a long one how far it is, about every ten seconds."""

from __future__ import annotations

import pytest

from ramp_edge.cli import progress
from ramp_edge.cli.progress import attached
from ramp_edge.errors import UsageError


class Clock:
    """Time that only a test moves."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_a_long_stage_says_how_far_it_is(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with attached("plain") as events, events.stage("moments", total=30, unit="layers") as stage:
        for _ in range(30):
            clock.now_s += 4.0
            stage.advance()
    lines = capsys.readouterr().err.splitlines()
    assert lines[:3] == ["moments ...", "moments: 3 of 30 layers", "moments: 6 of 30 layers"]
    assert len(lines) == 11


def test_a_short_stage_stays_one_line(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with attached("plain") as events, events.stage("write", total=90, unit="tensors") as stage:
        for _ in range(90):
            clock.now_s += 0.1
            stage.advance()
    assert capsys.readouterr().err.splitlines() == ["write ..."]


def test_bytes_are_readable_and_an_unknown_length_is_left_out(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with attached("plain") as events:
        for total, unit in ((10**9, "bytes"), (None, "files")):
            with events.stage(f"of {unit}", total=total, unit=unit) as stage:
                clock.now_s += 11.0
                stage.advance(25_000_000)
    assert capsys.readouterr().err.splitlines() == [
        "of bytes ...", "of bytes: 25.0 MB of 1.00 GB", "of files ...", "of files: 25000000 files",
    ]  # fmt: skip


def test_off_prints_warnings_only(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with attached("off") as events, events.stage("moments", total=2, unit="layers") as stage:
        clock.now_s += 60.0
        stage.advance()
        events.note("something")
        events.warn("look here")
    assert capsys.readouterr().err == "warning: look here\n"
    with pytest.raises(UsageError, match="--progress 'loud'"), attached("loud"):
        pass
