"""The same work on several boards at once; the failure of one does not stop the others."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from ramp_edge.device.target import TargetSpec
from ramp_edge.errors import RampEdgeError
from ramp_edge.events import Event, EventBus, Note, StageAdvanced, StageFinished, StageStarted, Warned

MAX_AT_ONCE = 16
_LOOK_S = 0.1
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class BoardOutcome(Generic[T]):
    """What became of one board: a value or an error."""

    spec: TargetSpec
    value: T | None
    error: RampEdgeError | None
    seconds: float


@dataclass(slots=True)
class _Job(Generic[T]):
    spec: TargetSpec
    events: EventBus
    outcome: BoardOutcome[T] | None = None
    bug: BaseException | None = None
    done: threading.Event = field(default_factory=threading.Event)


def on_all(
    specs: Sequence[TargetSpec], work: Callable[[TargetSpec, EventBus], T], events: EventBus
) -> tuple[BoardOutcome[T], ...]:
    """Do `work` for every board, up to MAX_AT_ONCE at a time; outcomes in the order of `specs`.

    Each gets an event bus of its own, whose stages and notes come to `events` under the board's name where there are several.
    Errors of ours are outcomes; anything else that `work` raises is a bug and is raised here, after the others are done.
    """
    gate, turn = threading.Lock(), threading.Semaphore(MAX_AT_ONCE)
    jobs: list[_Job[T]] = []
    for spec in specs:
        prefix = f"{spec.name}: " if len(specs) > 1 else ""
        jobs.append(_Job(spec=spec, events=EventBus(listeners=[_forwarder(events, prefix, gate)])))
    for job in jobs:
        # Daemons: after Ctrl-C nobody waits for them, and their connections end with the process.
        threading.Thread(target=_run, args=(job, work, turn), daemon=True).start()
    for job in jobs:
        while not job.done.wait(_LOOK_S):
            pass
    for job in jobs:
        for name, seconds in job.events.stage_seconds.items():
            full = f"{job.spec.name}: {name}" if len(specs) > 1 else name
            events.stage_seconds[full] = events.stage_seconds.get(full, 0.0) + seconds
    if bug := next((job.bug for job in jobs if job.bug is not None), None):
        raise bug
    return tuple(job.outcome for job in jobs if job.outcome is not None)


def raise_failures(outcomes: Sequence[BoardOutcome[T]]) -> None:
    """Raise the first board's error, with the others' messages in it; nothing where all went well."""
    failed = [(outcome.spec.name, outcome.error) for outcome in outcomes if outcome.error is not None]
    if not failed:
        return
    first = failed[0][1]
    if len(outcomes) == 1:
        raise first
    count = f"{len(failed)} of {len(outcomes)} boards failed"
    lines = [f"{name}: {error.message}" for name, error in failed]
    raise type(first)("\n".join([count, *lines]), hint=first.hint) from first


def _run(job: _Job[T], work: Callable[[TargetSpec, EventBus], T], turn: threading.Semaphore) -> None:
    with turn:
        started_s = time.monotonic()
        value, error = None, None
        try:
            value = work(job.spec, job.events)
        except RampEdgeError as failure:
            error = failure
        except BaseException as bug:
            job.bug = bug
        job.outcome = BoardOutcome(spec=job.spec, value=value, error=error, seconds=time.monotonic() - started_s)
        job.done.set()


def _forwarder(events: EventBus, prefix: str, gate: threading.Lock) -> Callable[[Event], None]:
    def forward(event: Event) -> None:
        with gate:
            events.emit(_named(event, prefix))

    return forward


def _named(event: Event, prefix: str) -> Event:
    if isinstance(event, (StageStarted, StageAdvanced, StageFinished)):
        return replace(event, name=prefix + event.name)
    if isinstance(event, (Note, Warned)):
        return replace(event, text=prefix + event.text)
    return event
