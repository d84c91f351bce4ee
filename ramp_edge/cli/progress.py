"""Progress on stderr: bars on a terminal, a line a stage elsewhere, nothing with `off`. Results go to stdout."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from ramp_edge.errors import UsageError
from ramp_edge.events import Event, EventBus, Note, StageAdvanced, StageFinished, StageStarted, Warned
from ramp_edge.units import human_bytes, human_seconds

QUIET_SECONDS = 0.5
"""Stages shorter than this leave no line in plain mode."""
REPEAT_SECONDS = 10.0
"""In plain mode a long stage says about this often how far it is."""


class _Plain:
    """A line for each stage, and in a long one how far it is."""

    def __init__(self) -> None:
        self._running: dict[str, tuple[StageStarted, float]] = {}
        """Stage name -> how it started, and when it last said something."""

    def __call__(self, event: Event) -> None:
        """Print what the event is worth."""
        if isinstance(event, StageStarted):
            self._running[event.name] = (event, time.monotonic())
            _say(f"{event.name} ...")
        elif isinstance(event, StageAdvanced):
            self._advanced(event)
        elif isinstance(event, StageFinished):
            self._running.pop(event.name, None)
            if not event.failed and event.seconds > QUIET_SECONDS:
                _say(f"{event.name}: {human_seconds(event.seconds)}")
        elif isinstance(event, Note):
            _say(event.text)
        else:
            _warnings_only(event)

    def _advanced(self, event: StageAdvanced) -> None:
        start, said_s = self._running.get(event.name, (None, 0.0))
        now_s = time.monotonic()
        if start is None or now_s - said_s < REPEAT_SECONDS:
            return
        self._running[event.name] = (start, now_s)
        unit = "" if start.unit == "bytes" else f" {start.unit}"
        _say(f"{event.name}: {_amount(start, event.done, ' of ')}{unit}")


def _amount(start: StageStarted, done: int, of: str = "/") -> str:
    number = human_bytes if start.unit == "bytes" else str
    return number(done) if start.total is None else f"{number(done)}{of}{number(start.total)}"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _warnings_only(event: Event) -> None:
    if isinstance(event, Warned):
        _say(f"warning: {event.text}")


@contextmanager
def attached(mode: str) -> Iterator[EventBus]:
    """An event bus with the renderer that `mode` asks for: auto, plain or off."""
    if mode not in ("auto", "plain", "off"):
        raise UsageError(f"--progress {mode!r} is unknown", hint="use auto, plain or off")
    if mode == "auto" and sys.stderr.isatty():
        with _bars() as bus:
            yield bus
        return
    yield EventBus(listeners=[_warnings_only if mode == "off" else _Plain()])


@contextmanager
def _bars() -> Iterator[EventBus]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description:<28}"),
        BarColumn(bar_width=28),
        TextColumn("{task.fields[amount]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=False) as progress:
        tasks = {}
        started: dict[str, StageStarted] = {}

        def listener(event: Event) -> None:
            if isinstance(event, StageStarted):
                started[event.name] = event
                tasks[event.name] = progress.add_task(event.name, total=event.total, amount=_amount(event, 0))
            elif isinstance(event, StageAdvanced):
                amount = _amount(started[event.name], event.done)
                progress.update(tasks[event.name], completed=event.done, amount=amount)
            elif isinstance(event, StageFinished):
                task = tasks.pop(event.name)
                if event.seconds < QUIET_SECONDS:
                    progress.remove_task(task)
                else:
                    total = next(t.total for t in progress.tasks if t.id == task) or 1
                    progress.update(task, total=total, completed=total)
                    progress.stop_task(task)
            elif isinstance(event, Note):
                console.print(event.text, markup=False, highlight=False)
            else:
                console.print(f"warning: {event.text}", style="yellow", markup=False, highlight=False)

        yield EventBus(listeners=[listener])
