"""Progress events: the library tells, renderers subscribe, nothing here prints.

A stage is a named piece of work with a total in some unit. `EventBus.stage` times it, so that the same
events feed the progress bars, the `--timings` table and the build record.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True, slots=True)
class StageStarted:
    """A stage began; `total` is in `unit`s, or None where the length is not known."""

    name: str
    total: int | None
    unit: str


@dataclass(frozen=True, kw_only=True, slots=True)
class StageAdvanced:
    """`done` units of the stage are finished (cumulative)."""

    name: str
    done: int


@dataclass(frozen=True, kw_only=True, slots=True)
class StageFinished:
    """The stage ended after `seconds` of wall time; `failed` when an exception ended it."""

    name: str
    seconds: float
    failed: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Note:
    """Something worth knowing that needs no action."""

    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Warned:
    """Something that costs quality, memory or trust; shown even when progress is off."""

    text: str


Event = StageStarted | StageAdvanced | StageFinished | Note | Warned
Listener = Callable[[Event], None]


class Stage:
    """Handle of a running stage."""

    def __init__(self, bus: EventBus, name: str) -> None:
        self._bus = bus
        self._name = name
        self._done = 0

    def advance(self, count: int = 1) -> None:
        """Report `count` further units as done."""
        self._done += count
        self._bus.emit(StageAdvanced(name=self._name, done=self._done))


@dataclass(slots=True)
class EventBus:
    """Hands events to its listeners and keeps the seconds of every stage and all warnings."""

    listeners: list[Listener] = field(default_factory=list)
    stage_seconds: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def emit(self, event: Event) -> None:
        """Send one event to every listener."""
        if isinstance(event, Warned):
            self.warnings.append(event.text)
        for listener in self.listeners:
            listener(event)

    def note(self, text: str) -> None:
        """Emit a `Note`."""
        self.emit(Note(text=text))

    def warn(self, text: str) -> None:
        """Emit a `Warned`."""
        self.emit(Warned(text=text))

    @contextmanager
    def stage(self, name: str, *, total: int | None = None, unit: str = "") -> Iterator[Stage]:
        """Time a stage; nested stages are allowed, a repeated name adds up."""
        self.emit(StageStarted(name=name, total=total, unit=unit))
        start_s = time.perf_counter()
        failed = True
        try:
            yield Stage(self, name)
            failed = False
        finally:
            seconds = time.perf_counter() - start_s
            self.stage_seconds[name] = self.stage_seconds.get(name, 0.0) + seconds
            self.emit(StageFinished(name=name, seconds=seconds, failed=failed))
