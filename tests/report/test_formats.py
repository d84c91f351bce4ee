"""Markdown and JSON of the same view: whole, and harmless whatever a record says."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from ramp_edge import __version__
from ramp_edge.report.as_json import SCHEMA_VERSION, report_json
from ramp_edge.report.compose import report_of
from ramp_edge.report.markdown import escape, report_markdown

from .conftest import ASSETS, HOSTILE, MINIMAL

GOLDEN = Path(__file__).parent / "golden" / "build.md"
CASES = {
    "build": [ASSETS / "new"],
    "bench": [ASSETS / "unstable.json"],
    "builds": [ASSETS / "new", ASSETS / "old"],
    "boards": [ASSETS / "new" / "bench.json", ASSETS / "unstable.json"],
    "minimal": [MINIMAL],
}
_ALLOWED = {"h1", "h2", "p", "strong", "table", "thead", "tbody", "tr", "th", "td", "ul", "li", "pre", "code",
            "details", "summary", "sub"}  # fmt: skip


def rendered(text: str) -> str:
    """As a reader of Markdown would show it, raw HTML let through."""
    return str(MarkdownIt("commonmark", {"html": True}).enable("table").render(text))


def tags(html: str) -> set[str]:
    return set(re.findall(r"<([a-z][a-z0-9]*)", html))


@pytest.mark.parametrize("paths", CASES.values(), ids=CASES)
def test_markdown_has_the_verdict_and_every_section(paths: list[Path]) -> None:
    report = report_of(paths)
    html = rendered(report_markdown(report))
    assert tags(html) <= _ALLOWED
    plain = re.sub(r"<[^>]+>", "", html)
    for text in (report.title, report.verdict.headline, *(section.title for section in report.sections)):
        assert text.replace("&", "&amp;") in plain
    for figure in report.figures.items:
        assert figure.text in plain


def test_the_markdown_is_the_golden_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """RAMP_EDGE_UPDATE_GOLDEN=1 writes it anew; read the difference before you commit it."""
    monkeypatch.chdir(ASSETS)
    text = report_markdown(report_of([Path("new")])).replace(f"ramp-edge {__version__}", "ramp-edge VERSION")
    if os.environ.get("RAMP_EDGE_UPDATE_GOLDEN"):
        GOLDEN.write_text(text, encoding="utf-8")
    assert text == GOLDEN.read_text(encoding="utf-8")


def test_tables_stay_tables() -> None:
    text = report_markdown(report_of([ASSETS / "new"]))
    html = rendered(text)
    assert html.count("<table>") >= 6
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({row.count("|") for row in rows}) > 1
    assert "| " not in re.sub(r"<code>.*?</code>", "", html, flags=re.DOTALL), "a row that is no row"


def test_hostile_markdown(hostile_folder: tuple[Path, str]) -> None:
    folder, text = hostile_folder
    source = report_markdown(report_of([folder]))
    html = rendered(source)
    assert tags(html) <= _ALLOWED, text
    outside = re.sub(r"^```.*?^```$", "", source, flags=re.DOTALL | re.MULTILINE)
    assert not re.search(r"@\w", outside)
    assert "](" not in re.sub(r"\\.", "", outside)
    assert all(c.isprintable() or c == "\n" for c in source)


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_escaped_text_reads_as_it_was(text: str) -> None:
    line = " ".join(text.split()) if text.isprintable() else "plain"
    html = rendered(escape(line))
    shown = re.sub(r"<[^>]+>", "", html)
    for entity, char in (("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("\u200b", ""), ("&amp;", "&")):
        shown = shown.replace(entity, char)
    assert shown.strip() == line.strip()


@pytest.mark.parametrize("paths", CASES.values(), ids=CASES)
def test_json_is_the_view(paths: list[Path]) -> None:
    report = report_of(paths)
    data = json.loads(report_json(report))
    assert data["schema_version"] == SCHEMA_VERSION
    assert data["kind"] == report.kind
    assert data["verdict"]["tone"] == report.verdict.tone.value
    assert [s["anchor"] for s in data["sections"]] == [s.anchor for s in report.sections]
    kinds = [[b["kind"] for b in s["blocks"]] for s in data["sections"]]
    assert kinds == [[b.kind for b in s.blocks] for s in report.sections]
    values = {f["label"]: f["value"] for f in data["figures"]["items"]}
    assert values == {f.label: f.value for f in report.figures.items}


def test_hostile_json_reads_back(hostile_folder: tuple[Path, str]) -> None:
    folder, _ = hostile_folder
    json.loads(report_json(report_of([folder])).encode("utf-8"))
