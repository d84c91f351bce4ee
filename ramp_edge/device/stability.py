"""Reasons not to trust a measurement: scattered repeats, a board that slowed itself down or swapped, other work on it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ramp_edge.device.bench_records import Speed, Unstable
from ramp_edge.device.facts import BoardFacts, LoadReading
from ramp_edge.units import human_tok_s

SPREAD_LIMIT = 0.05
SWAPPED_PAGES_LIMIT = 256
"""A few pages move on any system."""
OTHER_LOAD_LIMIT_CORES = 0.2
_SINCE_START_BITS = 0xF0000
_SINCE_START_SHIFT = 16


def spread_reasons(speeds: Iterable[Speed]) -> tuple[Unstable, ...]:
    """Speeds whose repeats lie too far apart."""
    return tuple(
        Unstable(
            kind="spread",
            detail=f"{s.kind} at depth {s.depth_tokens}: repeats lie {s.spread:.1%} apart ({human_tok_s(min(s.samples_tok_s))} to "
            f"{human_tok_s(max(s.samples_tok_s))} tok/s), more than {SPREAD_LIMIT:.0%}",
        )
        for s in speeds
        if s.spread > SPREAD_LIMIT
    )


def board_reasons(before: BoardFacts, after: BoardFacts) -> tuple[Unstable, ...]:
    """What happened to the board between two readings."""
    return (*_throttling(before, after), *_swapping(before, after), *_load_before(before))


def _throttling(before: BoardFacts, after: BoardFacts) -> Iterable[Unstable]:
    for when, facts in (("before", before), ("after", after)):
        if why := facts.throttled_now:
            yield Unstable(kind="throttled", detail=f"{when} the bench: {why}")
    if before.throttle_flags is not None and after.throttle_flags is not None:
        new = after.throttle_flags & ~before.throttle_flags & _SINCE_START_BITS
        if new:
            bits = ("under-voltage", "frequency capped", "throttled", "soft temperature limit")
            said = ", ".join(text for bit, text in enumerate(bits) if new >> (_SINCE_START_SHIFT + bit) & 1)
            yield Unstable(kind="throttled", detail=f"during the bench: {said}")
    if before.throttle_events is not None and after.throttle_events is not None:
        count = after.throttle_events - before.throttle_events
        if count > 0:
            yield Unstable(kind="throttled", detail=f"during the bench: cores were slowed {count} times for their heat")


def _swapping(before: BoardFacts, after: BoardFacts) -> Iterable[Unstable]:
    if before.swapped_pages is not None and after.swapped_pages is not None:
        pages = after.swapped_pages - before.swapped_pages
        if pages > SWAPPED_PAGES_LIMIT:
            yield Unstable(kind="swapping", detail=f"{pages} pages were swapped in or out during the bench")


def _load_before(before: BoardFacts) -> Iterable[Unstable]:
    if before.busy_cores is not None and before.busy_cores > OTHER_LOAD_LIMIT_CORES:
        yield Unstable(
            kind="other_load",
            detail=f"before the bench other work kept {before.busy_cores:.2g} of {before.cores or '?'} cores busy",
        )


@dataclass(slots=True)
class OtherLoad:
    """Adds up how busy the board was beside our own tools while they were measured."""

    other_s: float = 0.0
    wall_s: float = 0.0

    def add(self, before: LoadReading, after: LoadReading, own_cpu_s: float | None) -> None:
        """One run of a tool; skipped where the board does not tell."""
        if None in (before.busy_s, after.busy_s, before.uptime_s, after.uptime_s, own_cpu_s):
            return
        assert before.busy_s is not None and after.busy_s is not None and own_cpu_s is not None
        assert before.uptime_s is not None and after.uptime_s is not None
        self.other_s += after.busy_s - before.busy_s - own_cpu_s
        self.wall_s += after.uptime_s - before.uptime_s

    def reasons(self) -> tuple[Unstable, ...]:
        """The reason where other work took more than its share."""
        if self.wall_s <= 0 or self.other_s / self.wall_s <= OTHER_LOAD_LIMIT_CORES:
            return ()
        cores = self.other_s / self.wall_s
        return (Unstable(kind="other_load", detail=f"while it was measured, other work kept {cores:.2g} cores busy"),)
