"""Several boards at once."""

from __future__ import annotations

import threading
import time

import pytest

from ramp_edge.device.fleet import MAX_AT_ONCE, on_all, raise_failures
from ramp_edge.device.target import TargetSpec
from ramp_edge.errors import BoardStorageError, ConnectionFailedError, RampEdgeError
from ramp_edge.events import Event, EventBus, StageAdvanced, StageStarted

SPECS = tuple(TargetSpec(name=name, host=name) for name in ("a", "b", "c"))


def test_boards_work_at_once_and_answer_in_order() -> None:
    meeting = threading.Barrier(3, timeout=10)

    def work(spec: TargetSpec, _: EventBus) -> str:
        meeting.wait()
        if spec.name == "a":
            time.sleep(0.1)
        return spec.name.upper()

    outcomes = on_all(SPECS, work, EventBus())
    assert [(o.spec.name, o.value, o.error) for o in outcomes] == [("a", "A", None), ("b", "B", None), ("c", "C", None)]
    assert outcomes[0].seconds >= 0.1
    raise_failures(outcomes)


def test_one_failure_does_not_stop_the_others() -> None:
    def work(spec: TargetSpec, _: EventBus) -> str:
        if spec.name == "a":
            time.sleep(0.2)
            raise ConnectionFailedError("a is off", hint="turn it on")
        if spec.name == "b":
            raise BoardStorageError("b is full")
        return "fine"

    outcomes = on_all(SPECS, work, EventBus())
    assert [type(o.error).__name__ for o in outcomes] == ["ConnectionFailedError", "BoardStorageError", "NoneType"]
    with pytest.raises(ConnectionFailedError) as failed:
        raise_failures(outcomes)
    assert failed.value.message == "2 of 3 boards failed\na: a is off\nb: b is full"
    assert failed.value.hint == "turn it on"
    (alone,) = on_all(SPECS[:1], work, EventBus())
    with pytest.raises(ConnectionFailedError) as failed:
        raise_failures([alone])
    assert failed.value.message == "a is off"


def test_stages_carry_the_board_s_name() -> None:
    seen: list[Event] = []
    events = EventBus(listeners=[seen.append])

    def work(spec: TargetSpec, bus: EventBus) -> None:
        with bus.stage("send", total=1, unit="bytes") as stage:
            stage.advance()
        bus.warn("odd")

    on_all(SPECS, work, events)
    assert sorted(events.warnings) == ["a: odd", "b: odd", "c: odd"]
    assert {e.name for e in seen if isinstance(e, (StageStarted, StageAdvanced))} == {"a: send", "b: send", "c: send"}
    assert set(events.stage_seconds) == {"a: send", "b: send", "c: send"}
    alone = EventBus()
    on_all(SPECS[:1], work, alone)
    assert set(alone.stage_seconds) == {"send"} and alone.warnings == ["odd"]


def test_a_bug_is_raised_after_the_others_are_done() -> None:
    done = []

    def work(spec: TargetSpec, _: EventBus) -> None:
        if spec.name == "a":
            raise ZeroDivisionError
        time.sleep(0.2)
        done.append(spec.name)

    with pytest.raises(ZeroDivisionError):
        on_all(SPECS, work, EventBus())
    assert sorted(done) == ["b", "c"]


def test_there_is_a_limit_to_how_many_work_at_once() -> None:
    gate, now, most = threading.Lock(), [0], [0]

    def work(_: TargetSpec, __: EventBus) -> None:
        with gate:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.05)
        with gate:
            now[0] -= 1

    many = tuple(TargetSpec(name=f"n{k}", host="x") for k in range(3 * MAX_AT_ONCE))
    assert len(on_all(many, work, EventBus())) == len(many)
    assert most[0] == MAX_AT_ONCE
    assert on_all((), work, EventBus()) == ()
    assert issubclass(BoardStorageError, RampEdgeError)
