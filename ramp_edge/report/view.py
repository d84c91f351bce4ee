"""What a report says, free of any format: sections made of a few kinds of blocks. HTML, Markdown and JSON are three drawings of it.

A section that a record knows nothing for is not there. Values are in the unit that their axis or column names; `text` is the
same value as a reader sees it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import ClassVar


class Tone(str, Enum):
    """How a statement is meant."""

    GOOD = "good"
    PLAIN = "plain"
    CAUTION = "caution"


class Series(str, Enum):
    """Who made a point of a plot: its mark and colour."""

    OURS = "ours"
    PRESET = "preset"
    UNIFORM = "uniform"


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """A key number."""

    label: str
    text: str
    """The number alone."""
    unit: str = ""
    spread: str = ""
    """± error, or the range of repeats."""
    note: str = ""
    value: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Figures:
    """The key numbers, side by side."""

    kind: ClassVar[str] = "figures"
    items: tuple[Figure, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """Heading of a table's column."""

    text: str
    numeric: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """Cells in the order of the columns; `strong` marks the row that the page is about."""

    cells: tuple[str, ...]
    strong: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Rows of text and numbers."""

    kind: ClassVar[str] = "table"
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    folded: bool = False
    """Shown on demand."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BarPart:
    """A stretch of a bar."""

    label: str
    size_bytes: int
    text: str
    detail: str
    role: str
    """weights, kv, buffer, copy or free: its colour."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryBar:
    """Resident memory line by line, and what is left."""

    kind: ClassVar[str] = "memory_bar"
    title: str
    description: str
    parts: tuple[BarPart, ...]
    """Without the free rest."""
    usable_bytes: int
    usable_text: str
    used_text: str
    free_text: str

    @property
    def used_bytes(self) -> int:
        """Sum of the parts."""
        return sum(part.size_bytes for part in self.parts)


@dataclass(frozen=True, kw_only=True, slots=True)
class HeatCell:
    """The type of a tensor."""

    text: str
    bits: float
    """Bits per weight: its colour."""
    tip: str


@dataclass(frozen=True, kw_only=True, slots=True)
class HeatRow:
    """A layer."""

    label: str
    cells: tuple[HeatCell | None, ...]
    """None where the layer has no such tensor."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HeatMap:
    """Types by layer and role."""

    kind: ClassVar[str] = "heat_map"
    title: str
    description: str
    above: tuple[tuple[str, HeatCell], ...]
    """Tensors outside the layers, with their names."""
    columns: tuple[str, ...]
    rows: tuple[HeatRow, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Axis:
    """An axis of a plot."""

    label: str
    unit: str
    logarithmic: bool = False
    more_is_better: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """A mark of a scatter plot."""

    label: str
    x: float
    y: float
    y_error: float | None
    """One standard error; None where y was not measured."""
    series: Series
    chosen: bool
    tip: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Scatter:
    """Points on two axes."""

    kind: ClassVar[str] = "scatter"
    title: str
    description: str
    x: Axis
    y: Axis
    points: tuple[Point, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Strip:
    """Repeats of one figure."""

    label: str
    samples: tuple[float, ...]
    median: float
    predicted: float | None
    tip: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Strips:
    """Repeats of several figures on one axis that begins at 0."""

    kind: ClassVar[str] = "strips"
    title: str
    description: str
    axis: Axis
    strips: tuple[Strip, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Fact:
    """A property in words."""

    label: str
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """Properties."""

    kind: ClassVar[str] = "facts"
    items: tuple[Fact, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Commands:
    """Command lines to copy."""

    kind: ClassVar[str] = "commands"
    lines: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Quote:
    """What a model said."""

    label: str
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Quotes:
    """The same prompt, continued by several models."""

    kind: ClassVar[str] = "quotes"
    prompt: str
    items: tuple[Quote, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Notes:
    """Statements worth a mark."""

    kind: ClassVar[str] = "notes"
    tone: Tone
    items: tuple[str, ...]


Block = Figures | Table | MemoryBar | HeatMap | Scatter | Strips | Facts | Commands | Quotes | Notes


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """A part of the page under a heading."""

    anchor: str
    """Unique in the report; letters, digits and hyphens."""
    title: str
    blocks: tuple[Block, ...]
    lead: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """The answer, before everything else."""

    tone: Tone
    headline: str
    details: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """A whole report."""

    kind: str
    """build, bench or comparison."""
    title: str
    subtitle: str
    verdict: Verdict
    figures: Figures
    notes: tuple[Notes, ...]
    sections: tuple[Section, ...]
    sources: tuple[str, ...]
    """Files that it was drawn from."""
    made_by: str
    """Program and version."""
