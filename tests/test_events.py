"""The bus: order of events, cumulative progress, timings, and what an exception leaves behind."""

from __future__ import annotations

import pytest

from ramp_edge.events import Event, EventBus, Note, StageAdvanced, StageFinished, StageStarted, Warned


@pytest.fixture
def seen() -> list[Event]:
    return []


@pytest.fixture
def bus(seen: list[Event]) -> EventBus:
    return EventBus(listeners=[seen.append])


def test_a_stage_starts_advances_and_ends(bus: EventBus, seen: list[Event]) -> None:
    with bus.stage("moments", total=3, unit="layers") as stage:
        stage.advance()
        stage.advance(2)
    start, first, second, end = seen
    assert start == StageStarted(name="moments", total=3, unit="layers")
    assert first == StageAdvanced(name="moments", done=1)
    assert second == StageAdvanced(name="moments", done=3)
    assert isinstance(end, StageFinished)
    assert (end.name, end.failed) == ("moments", False)
    assert bus.stage_seconds == {"moments": end.seconds}


def test_an_exception_ends_the_stage_as_failed_and_goes_on(bus: EventBus, seen: list[Event]) -> None:
    with pytest.raises(ZeroDivisionError), bus.stage("write"):
        raise ZeroDivisionError
    end = seen[-1]
    assert isinstance(end, StageFinished)
    assert end.failed
    assert "write" in bus.stage_seconds


def test_repeated_and_nested_stages_add_up(bus: EventBus, seen: list[Event]) -> None:
    with bus.stage("outer"):
        for _ in range(2):
            with bus.stage("inner"):
                pass
    ends = [e for e in seen if isinstance(e, StageFinished)]
    assert [e.name for e in ends] == ["inner", "inner", "outer"]
    assert bus.stage_seconds["inner"] == pytest.approx(ends[0].seconds + ends[1].seconds)
    assert bus.stage_seconds["outer"] >= bus.stage_seconds["inner"]


def test_warnings_are_kept_and_notes_are_not(bus: EventBus, seen: list[Event]) -> None:
    bus.note("cached")
    bus.warn("already quantized")
    assert seen == [Note(text="cached"), Warned(text="already quantized")]
    assert bus.warnings == ["already quantized"]


def test_every_listener_hears_everything_in_order() -> None:
    left: list[Event] = []
    right: list[Event] = []
    bus = EventBus(listeners=[left.append, right.append])
    bus.note("a")
    bus.note("b")
    assert left == right == [Note(text="a"), Note(text="b")]
