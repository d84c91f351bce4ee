"""Places of everything on a plot, computed here so that templates only draw. The units are those of the drawing's viewBox.

Labels go where nothing else is: the chosen one first, then measured ones, then those that nothing beats; who finds no place has
none, and is in the table.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from ramp_edge.report.numbers import significant
from ramp_edge.report.scales import Scale, padded, tick_text
from ramp_edge.report.view import Point, Scatter, Series, Strips

WIDTH = 420
_SCATTER_HEIGHT = 330
_LEFT, _RIGHT, _TOP, _BOTTOM = 54, 12, 28, 48
_FONT = 13
_LETTER = 0.61
"""Width of a letter as a share of the font size, on the wide side."""
_GAP = 8
_LABEL_ROOM = 98
"""Right of the last point: the best candidates are the largest ones, and have the labels that matter."""
_STRIP_HEIGHT, _STRIPS_TOP, _STRIPS_BOTTOM, _STRIPS_LEFT = 54, 6, 44, 8
_LONGEST_LABEL, _LONGEST_STRIP_LABEL = 22, 38


@dataclass(frozen=True, kw_only=True, slots=True)
class Tick:
    """A tick and its text."""

    at: float
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Box:
    """A rectangle."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: Box) -> bool:
        """Whether they overlap."""
        return (
            self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class PlacedLabel:
    """Text with its anchor: start, middle or end."""

    x: float
    y: float
    anchor: str
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Mark:
    """A point with its error bar."""

    x: float
    y: float
    low: float | None
    high: float | None
    series: Series
    measured: bool
    chosen: bool
    tip: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ScatterDrawing:
    """A scatter plot, ready to draw."""

    width: float
    height: float
    left: float
    right: float
    top: float
    bottom: float
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    frontier: str
    """Path data of the line below and left of which nothing is, or empty."""
    marks: tuple[Mark, ...]
    labels: tuple[PlacedLabel, ...]
    series: tuple[Series, ...]
    has_measured: bool
    has_predicted: bool


def unbeaten(points: Sequence[Point], *, more_is_better: bool) -> list[Point]:
    """Those that no other point is at least as good as in both ways and better in one, in the order of x."""
    sign = -1.0 if more_is_better else 1.0
    kept: list[Point] = []
    for point in sorted(points, key=lambda p: (sign * p.x, p.y)):
        if not kept or point.y < kept[-1].y:
            kept.append(point)
    return kept


def draw_scatter(plot: Scatter) -> ScatterDrawing:
    """Lay a scatter plot out."""
    left, right, top, bottom = _LEFT, WIDTH - _RIGHT, _TOP, _SCATTER_HEIGHT - _BOTTOM
    low, high = padded([p.x for p in plot.points], logarithmic=plot.x.logarithmic)
    x = Scale(low=low, high=high, start=left + 6, end=right - _LABEL_ROOM, logarithmic=plot.x.logarithmic)
    reach = [v for p in plot.points for v in (p.y, p.y + (p.y_error or 0.0), max(p.y - (p.y_error or 0.0), p.y / 10))]
    low, high = padded(reach, logarithmic=plot.y.logarithmic)
    y = Scale(low=low, high=high, start=bottom, end=top, logarithmic=plot.y.logarithmic)
    marks = tuple(_mark(point, x, y) for point in plot.points)
    best = unbeaten(plot.points, more_is_better=plot.x.more_is_better)
    area = Box(left=left, top=top - 6, right=WIDTH - 2, bottom=bottom)
    order = sorted(
        range(len(marks)), key=lambda i: (not marks[i].chosen, not marks[i].measured, plot.points[i] not in best)
    )
    corners = [(x.at(p.x), y.at(p.y)) for p in best] if len(best) > 2 else []
    labels = _place([(marks[i], _short(plot.points[i].label)) for i in order], marks, _rails(corners), area)
    return ScatterDrawing(
        width=WIDTH,
        height=_SCATTER_HEIGHT,
        left=left,
        right=right,
        top=top,
        bottom=bottom,
        x_ticks=tuple(Tick(at=x.at(t), text=tick_text(t)) for t in x.ticks(6)),
        y_ticks=tuple(Tick(at=y.at(t), text=tick_text(t)) for t in y.ticks(6)),
        frontier=_steps(corners),
        marks=marks,
        labels=labels,
        series=tuple(s for s in Series if any(m.series is s for m in marks)),
        has_measured=any(m.measured for m in marks),
        has_predicted=any(not m.measured for m in marks),
    )


def _mark(point: Point, x: Scale, y: Scale) -> Mark:
    error = point.y_error
    return Mark(
        x=x.at(point.x),
        y=y.at(point.y),
        low=None if error is None else y.at(max(point.y - error, point.y / 10)),
        high=None if error is None else y.at(point.y + error),
        series=point.series,
        measured=error is not None,
        chosen=point.chosen,
        tip=point.tip,
    )


def _steps(corners: Sequence[tuple[float, float]]) -> str:
    """A staircase through points: what lies on its far side is beaten by one of them."""
    if not corners:
        return ""
    data = f"M{corners[0][0]:.1f} {corners[0][1]:.1f}"
    for across, down in corners[1:]:
        data += f"H{across:.1f}V{down:.1f}"
    return data


def _rails(corners: Sequence[tuple[float, float]]) -> list[Box]:
    """The staircase as thin boxes."""
    boxes = []
    for (x, y), (across, down) in itertools.pairwise(corners):
        boxes.append(Box(left=min(x, across), top=y - 1, right=max(x, across), bottom=y + 1))
        boxes.append(Box(left=across - 1, top=min(y, down), right=across + 1, bottom=max(y, down)))
    return boxes


def _short(text: str, most: int = _LONGEST_LABEL) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _place(
    wanted: Sequence[tuple[Mark, str]], marks: Sequence[Mark], rails: Sequence[Box], area: Box
) -> tuple[PlacedLabel, ...]:
    taken = [Box(left=m.x - 5, top=m.y - 5, right=m.x + 5, bottom=m.y + 5) for m in marks]
    labels = []
    for mark, text in wanted:
        free = [
            (label, box)
            for label, box in _choices(mark, text, corners=mark.measured)
            if _within(box, area) and not _meets(box, taken)
        ]
        # Across the line rather than nowhere.
        free.sort(key=lambda choice: _meets(choice[1], rails))
        if free:
            labels.append(free[0][0])
            taken.append(free[0][1])
    return tuple(labels)


def _within(box: Box, area: Box) -> bool:
    return box.left >= area.left and box.right <= area.right and box.top >= area.top and box.bottom <= area.bottom


def _meets(box: Box, others: Sequence[Box]) -> bool:
    return any(box.meets(other) for other in others)


def _choices(mark: Mark, text: str, *, corners: bool) -> list[tuple[PlacedLabel, Box]]:
    """Right, left, above, below; the corners are further off, and another point might seem to be meant."""
    width, gap = len(text) * _FONT * _LETTER, _GAP + (2 if mark.chosen else 0)
    places = []
    sides = [(1, 0), (-1, 0), (0, -1), (0, 1)]
    for across, down in (*sides, *([(1, -1), (-1, -1), (1, 1), (-1, 1)] if corners else [])):
        anchor = {1: "start", 0: "middle", -1: "end"}[across]
        x = mark.x + across * (gap if not down else 2)
        middle = mark.y + down * (gap + _FONT / 2)
        left = x - {1: 0.0, 0: width / 2, -1: width}[across]
        label = PlacedLabel(x=x, y=middle + _FONT * 0.36, anchor=anchor, text=text)
        box = Box(left=left, top=middle - _FONT / 2, right=left + width, bottom=middle + _FONT / 2)
        places.append((label, box))
    return places


@dataclass(frozen=True, kw_only=True, slots=True)
class StripRow:
    """One strip, ready to draw."""

    label: str
    value: str
    y: float
    dots: tuple[float, ...]
    median: float
    predicted: float | None
    tip: str


@dataclass(frozen=True, kw_only=True, slots=True)
class StripsDrawing:
    """Strips, ready to draw."""

    width: float
    height: float
    left: float
    right: float
    bottom: float
    ticks: tuple[Tick, ...]
    rows: tuple[StripRow, ...]
    has_prediction: bool


def draw_strips(plot: Strips) -> StripsDrawing:
    """Lay strips out under each other, on an axis that begins at 0."""
    left, right = _STRIPS_LEFT, WIDTH - _RIGHT
    most = max(max(*s.samples, s.median, s.predicted or 0.0) for s in plot.strips)
    scale = Scale(low=0.0, high=most * 1.08, start=left, end=right - 6)
    rows = []
    for index, strip in enumerate(plot.strips):
        median = scale.at(strip.median)
        # Label and value stand above the strip, where they meet no dot.
        rows.append(
            StripRow(
                label=_short(strip.label, _LONGEST_STRIP_LABEL),
                value=significant(strip.median),
                y=_STRIPS_TOP + index * _STRIP_HEIGHT + 34,
                dots=tuple(scale.at(v) for v in strip.samples),
                median=median,
                predicted=None if strip.predicted is None else scale.at(strip.predicted),
                tip=strip.tip,
            )
        )
    bottom = _STRIPS_TOP + len(rows) * _STRIP_HEIGHT
    return StripsDrawing(
        width=WIDTH,
        height=bottom + _STRIPS_BOTTOM,
        left=left,
        right=right,
        bottom=bottom,
        ticks=tuple(Tick(at=scale.at(t), text=tick_text(t)) for t in scale.ticks(6)),
        rows=tuple(rows),
        has_prediction=any(row.predicted is not None for row in rows),
    )


BITS = (2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 9.0)
"""Borders of the colours of the heat map, in bits per weight."""


def shade(bits: float) -> int:
    """1 (fewest bits) to 8 (most)."""
    return 1 + sum(bits >= border for border in BITS)


def shade_names() -> tuple[tuple[int, str], ...]:
    """Legend: colour and range."""
    edges = [f"{b:g}" for b in BITS]
    middle = [f"{a} to {b}" for a, b in itertools.pairwise(edges)]
    return tuple(enumerate((f"under {edges[0]}", *middle, f"{edges[-1]} and more"), 1))


BAR_HEIGHT = 34
ZOOM_BELOW = 0.2
"""Where less than this share of the memory is used, a second bar shows what the used part is made of."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BarStretch:
    """A part of a bar, in percent of its width."""

    start: float
    width: float
    role: str
    tip: str


def stretches(parts: Sequence[tuple[float, str, str]], whole: float) -> tuple[BarStretch, ...]:
    """(size, role, tip) of each part -> its place, the last one ending where the sum ends."""
    out, at = [], 0.0
    for size, role, tip in parts:
        width = 100 * size / whole
        out.append(BarStretch(start=at, width=width, role=role, tip=tip))
        at += width
    return tuple(out)
