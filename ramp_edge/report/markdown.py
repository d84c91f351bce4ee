"""A report as Markdown, for a comment or a page of a repository. Text from records stays text: no HTML, no links, no mentions."""

from __future__ import annotations

import re

from ramp_edge.report.view import (
    Block,
    Commands,
    Facts,
    Figures,
    HeatMap,
    MemoryBar,
    Notes,
    Quotes,
    Report,
    Scatter,
    Strips,
    Table,
    Tone,
)

_SIGNS = {Tone.GOOD: "✅ ", Tone.PLAIN: "", Tone.CAUTION: "⚠️ "}
_MOST_ROWS = 60
"""Longer tables are left to the HTML: comments have a limit of their own."""
_MARKUP = re.compile(r"([\\`*{}\[\]#!|~$]|(?<!\w)_|_(?!\w))")
_APART = "&#8203;"
"""A space of no width: what it stands in is no mention, issue or address."""


def escape(text: str) -> str:
    """Text that no Markdown reader takes for markup."""
    safe = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    safe = _MARKUP.sub(r"\\\1", safe)
    safe = re.sub(r"(@|\\#)(?=\w)", rf"\1{_APART}", safe)
    return re.sub(r"(://|www)(?=.)", lambda m: m[1][:1] + _APART + m[1][1:], safe, flags=re.IGNORECASE)


def report_markdown(report: Report) -> str:
    """The whole text."""
    lines = [f"# {escape(report.title)}", "", escape(report.subtitle), ""]
    lines += [f"**{_SIGNS[report.verdict.tone]}{escape(report.verdict.headline)}**", ""]
    for detail in report.verdict.details:
        lines += [escape(detail), ""]
    lines += _block(report.figures)
    for notes in report.notes:
        lines += _block(notes)
    for section in report.sections:
        lines += [f"## {escape(section.title)}", ""]
        if section.lead:
            lines += [escape(section.lead), ""]
        for block in section.blocks:
            lines += _block(block)
    lines.append(f"<sub>Drawn by {escape(report.made_by)} from {escape(', '.join(report.sources))}.</sub>")
    return "\n".join(lines) + "\n"


def _block(block: Block) -> list[str]:
    if isinstance(block, Figures):
        return _figures(block)
    if isinstance(block, Table):
        return _table(block)
    if isinstance(block, MemoryBar):
        return [escape(f"{block.title}: {block.description}"), ""]
    if isinstance(block, HeatMap):
        return _heat_map(block)
    if isinstance(block, (Scatter, Strips)):
        return []  # their tables follow
    if isinstance(block, Facts):
        return [*(f"- {escape(item.label)}: {escape(item.text)}" for item in block.items), ""]
    if isinstance(block, Commands):
        return ["```console", *(f"$ {line}" for line in block.lines), "```", ""]
    if isinstance(block, Quotes):
        said = [f"- {escape(item.label)}: … {escape(item.text)}" for item in block.items]
        return [f"“{escape(block.prompt)} …", "", *said, ""]
    if isinstance(block, Notes):
        return [*(f"- {_SIGNS[block.tone]}{escape(item)}" for item in block.items), ""]
    raise TypeError(block)


def _figures(block: Figures) -> list[str]:
    rows = []
    for item in block.items:
        spread = item.spread if item.spread.startswith("±") or not item.spread else f"({item.spread})"
        rows.append([item.label, " ".join(filter(None, (item.text, item.unit, spread))), item.note])
    return _rows(["", "Value", ""], [False, True, False], rows)


def _table(block: Table) -> list[str]:
    if len(block.rows) > _MOST_ROWS:
        return [f"{escape(block.caption)}: {len(block.rows)} rows, in the HTML report.", ""]
    body = _rows(
        [column.text for column in block.columns],
        [column.numeric for column in block.columns],
        [list(row.cells) for row in block.rows],
        [row.strong for row in block.rows],
    )
    if block.folded:
        return ["<details>", f"<summary>{escape(block.caption)}</summary>", "", *body, "</details>", ""]
    return [f"**{escape(block.caption)}**", "", *body]


def _heat_map(block: HeatMap) -> list[str]:
    lines = [f"- {escape(name)}: {escape(cell.text)}" for name, cell in block.above]
    rows = [[row.label, *("" if cell is None else cell.text for cell in row.cells)] for row in block.rows]
    if not rows:
        return [*lines, ""]
    table = _rows(["layer", *block.columns], [False] * (1 + len(block.columns)), rows)
    return [*lines, "", *table]


def _rows(
    columns: list[str], numeric: list[bool], rows: list[list[str]], strong: list[bool] | None = None
) -> list[str]:
    lines = [_line(columns), "|" + "|".join("---:" if n else "---" for n in numeric) + "|"]
    for index, cells in enumerate(rows):
        marked = strong is not None and strong[index]
        lines.append(_line(cells, strong=marked))
    return [*lines, ""]


def _line(cells: list[str], *, strong: bool = False) -> str:
    texts = [escape(cell).strip() for cell in cells]
    return "| " + " | ".join(f"**{text}**" if strong and text else text for text in texts) + " |"
