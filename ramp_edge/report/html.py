"""A report as one HTML file without scripts: styles and plots are inside, nothing is fetched (its own policy forbids it)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import jinja2
from markupsafe import Markup

from ramp_edge.report import plots
from ramp_edge.report.view import Block, MemoryBar, Report, Scatter, Strips

_TEMPLATES = Path(__file__).parent / "templates"
MARK = '<meta name="generator" content="ramp-edge report">'
"""In the head of every report: tells our files from others."""


def report_html(report: Report) -> str:
    """The whole file."""
    return _environment().get_template("page.html.jinja").render(report=report, mark=Markup(MARK))


@lru_cache(maxsize=1)
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["px"] = _px
    environment.filters["runs"] = _runs
    environment.globals.update(
        draw_scatter=plots.draw_scatter,
        draw_strips=plots.draw_strips,
        draw_bar=_bar,
        shade=plots.shade,
        shade_names=plots.shade_names(),
        breakable=_breakable,
    )
    return environment


def _px(value: float) -> str:
    """A coordinate in as few digits as show."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _runs(blocks: Sequence[Block]) -> list[list[tuple[int, Block]]]:
    """Numbered blocks, plots that follow each other together: they stand side by side where there is room."""
    runs: list[list[tuple[int, Block]]] = []
    for number, block in enumerate(blocks):
        beside = isinstance(block, (Scatter, Strips))
        if beside and runs and isinstance(runs[-1][-1][1], (Scatter, Strips)):
            runs[-1].append((number, block))
        else:
            runs.append([(number, block)])
    return runs


def _breakable(text: str) -> Markup:
    """A type's name that may break after its underscore, where a cell is narrow."""
    return Markup("_<wbr>").join(text.split("_"))


def _bar(bar: MemoryBar) -> dict[str, object]:
    """The parts within the used memory, and the used part within the whole; which of both is drawn large."""
    parts = [(float(p.size_bytes), p.role, f"{p.label}: {p.text}") for p in bar.parts]
    share = bar.used_bytes / max(1, bar.usable_bytes)
    zoomed = share < plots.ZOOM_BELOW
    whole = float(max(1, bar.used_bytes if zoomed else max(bar.usable_bytes, bar.used_bytes)))
    return {
        "zoomed": zoomed,
        "share": 100 * min(share, 1.0),
        "parts": plots.stretches(parts, whole),
        "height": plots.BAR_HEIGHT,
    }
