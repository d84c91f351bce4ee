"""Progress on stderr: bars on a terminal, a line a stage elsewhere, nothing with `off`. Results go to stdout."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from ramp_edge.errors import UsageError
from ramp_edge.events import Event, EventBus, Note, StageAdvanced, StageFinished, StageStarted, Warned
from ramp_edge.units import human_seconds

QUIET_SECONDS = 0.5
"""Stages shorter than this leave no line in plain mode."""


def _plain(event: Event) -> None:
    if isinstance(event, StageStarted):
        print(f"{event.name} ...", file=sys.stderr, flush=True)
    elif isinstance(event, StageFinished) and not event.failed and event.seconds > QUIET_SECONDS:
        print(f"{event.name}: {human_seconds(event.seconds)}", file=sys.stderr, flush=True)
    elif isinstance(event, Note):
        print(event.text, file=sys.stderr, flush=True)
    else:
        _warnings_only(event)


def _warnings_only(event: Event) -> None:
    if isinstance(event, Warned):
        print(f"warning: {event.text}", file=sys.stderr, flush=True)


@contextmanager
def attached(mode: str) -> Iterator[EventBus]:
    """An event bus with the renderer that `mode` asks for: auto, plain or off."""
    if mode not in ("auto", "plain", "off"):
        raise UsageError(f"--progress {mode!r} is unknown", hint="use auto, plain or off")
    if mode == "auto" and sys.stderr.isatty():
        with _bars() as bus:
            yield bus
        return
    yield EventBus(listeners=[_warnings_only if mode == "off" else _plain])


@contextmanager
def _bars() -> Iterator[EventBus]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description:<28}"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=False) as progress:
        tasks = {}

        def listener(event: Event) -> None:
            if isinstance(event, StageStarted):
                tasks[event.name] = progress.add_task(event.name, total=event.total)
            elif isinstance(event, StageAdvanced):
                progress.update(tasks[event.name], completed=event.done)
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
