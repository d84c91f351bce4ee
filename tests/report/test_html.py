"""The HTML: one file that fetches nothing, escapes everything, and is readable without its colours and without its plots."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from ramp_edge.report.compose import report_of
from ramp_edge.report.documents import Name
from ramp_edge.report.html import MARK, report_html

from .conftest import ASSETS, MINIMAL

STYLE = (Path(__file__).parents[2] / "ramp_edge/report/templates/style.css").read_text(encoding="utf-8")
REPORTS = {
    "build": [ASSETS / "new"],
    "bench": [ASSETS / "unstable.json"],
    "builds": [ASSETS / "new", ASSETS / "old"],
    "boards": [ASSETS / "new" / "bench.json", ASSETS / "unstable.json"],
    "minimal": [MINIMAL],
}
TAGS = {
    "html", "head", "meta", "link", "title", "style", "body", "header", "main", "footer", "section", "nav", "h1", "h2", "p",
    "bdi", "span", "strong", "a", "ul", "li", "dl", "div", "dt", "dd", "table", "caption", "thead", "tbody", "tr", "th", "td",
    "details", "summary", "figure", "figcaption", "svg", "desc", "g", "rect", "line", "circle", "path", "text", "pre", "code",
    "blockquote", "wbr",
}  # fmt: skip
VOID = {"meta", "link", "wbr"}


class Page(HTMLParser):
    """Tags, attributes and text; nesting is checked as it goes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.text += data

    def values(self, name: str) -> list[str]:
        """Of every attribute of that name."""
        return [value for _, found, value in self.attributes if found == name]


@pytest.fixture(params=REPORTS, ids=str)
def html(request: pytest.FixtureRequest) -> str:
    return report_html(report_of(REPORTS[request.param]))


def test_it_is_well_formed_and_of_known_parts(html: str) -> None:
    page = Page(html)
    assert page.open == []
    assert set(page.tags) <= TAGS
    assert html.startswith("<!doctype html>")
    assert MARK in html[:2000]
    assert len(html.encode()) < 3_000_000


def test_nothing_is_fetched_and_nothing_runs(html: str) -> None:
    page = Page(html)
    assert {value for name in ("src", "href") for value in page.values(name) if not value.startswith("#")} == {"data:,"}
    assert not [name for _, name, _ in page.attributes if name.startswith("on") or name == "style"]
    assert "url(" not in html and "@import" not in html and "@font-face" not in html
    policy = next(value for value in page.values("content") if "default-src" in value)
    assert "default-src 'none'" in policy and "script-src" not in policy


def test_ids_are_unique_and_every_reference_leads_somewhere(html: str) -> None:
    page = Page(html)
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    wanted = [word for value in page.values("aria-labelledby") for word in value.split()]
    wanted += [value[1:] for value in page.values("href") if value.startswith("#")]
    assert set(wanted) <= set(ids)


def test_plots_have_words_and_tables_behind_them(html: str) -> None:
    page = Page(html)
    drawn = page.values("role").count("img")
    assert drawn == len(page.values("aria-labelledby"))
    assert page.tags["desc"] == drawn
    hidden = page.values("aria-hidden").count("true")
    # Every drawing is described, or a mark in a legend; the rest of the page has its separator.
    assert page.tags["svg"] == drawn + hidden - 1
    for part in re.findall(r"<section id=.*?</section>", html, re.DOTALL):
        if 'role="img"' in part and 'id="memory"' not in part:
            assert "<table>" in part


def test_tables_have_captions_and_headings(html: str) -> None:
    for table in re.findall(r"<table>.*?</table>", html, re.DOTALL):
        assert "<caption" in table
        assert 'scope="col"' in table and 'scope="row"' in table


def test_the_same_records_give_the_same_bytes() -> None:
    assert report_html(report_of([ASSETS / "new"])) == report_html(report_of([ASSETS / "new"]))


def test_hostile_text_is_only_text(hostile_folder: tuple[Path, str]) -> None:
    folder, text = hostile_folder
    html = report_html(report_of([folder]))
    page = Page(html)
    assert page.open == []
    assert set(page.tags) <= TAGS
    calm = Page(report_html(report_of([ASSETS / "new"])))
    assert {name for _, name, _ in page.attributes} <= {name for _, name, _ in calm.attributes}
    assert [page.tags[tag] for tag in ("style", "head", "body", "h1", "main")] == [1] * 5
    assert all(c.isprintable() or c in "\n" for c in html), "no control, no change of direction, nothing unseen"
    assert len(html.encode()) < 3_000_000
    if text.isprintable() and len(text) <= 120:
        assert text in page.text


def test_long_names_are_cut() -> None:
    from pydantic import TypeAdapter

    name = TypeAdapter(Name).validate_python("x" * 5000)
    assert len(name) == 120
    assert name.endswith("…")


def test_values_that_are_numbers_stay_numbers_in_attributes(hostile_folder: tuple[Path, str]) -> None:
    folder, _ = hostile_folder
    page = Page(report_html(report_of([folder])))
    for name in ("x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "r", "width", "height"):
        assert all(
            re.fullmatch(r"-?[0-9.]+%?", value) for tag, n, value in page.attributes if n == name and tag != "meta"
        )


def _palettes() -> dict[str, dict[str, str]]:
    light, dark = re.findall(r":root \{(.*?)\n *\}", STYLE, re.DOTALL)[:2]
    found = {}
    for theme, text in (("light", light), ("dark", dark)):
        found[theme] = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", text))
    return found


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    """WCAG's contrast ratio."""
    high, low = sorted((_luminance(a), _luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_contrast(theme: str) -> None:
    colours: dict[str, Any] = _palettes()[theme]
    for text in ("ink", "muted", "accent", "good", "caution"):
        for ground in ("paper", "soft"):
            assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
    for number in range(1, 9):
        on = colours["on-pale" if number <= 5 else "on-deep"]
        assert contrast(on, colours[f"b{number}"]) >= 4.5, number
    for part in ("accent", "kv", "buffer", "copy"):
        assert contrast(colours[part], colours["paper"]) >= 3.0, part
    steps = [_luminance(colours[f"b{n}"]) for n in range(1, 9)]
    assert steps == sorted(steps, reverse=theme == "light"), "one direction: it reads without hue"


def test_shades_in_the_style_are_those_of_the_cells() -> None:
    for number in range(1, 9):
        assert re.search(rf"^\.b{number} \{{ background: var\(--b{number}\);", STYLE, re.MULTILINE)


def test_a_section_that_is_not_known_leaves_no_box(
    record: Callable[..., dict[str, Any]], folder: Callable[..., Path]
) -> None:
    data = record("new/build.json", evaluation=None, reference=None, continuation=None, candidates=[], best_preset=None)
    html = report_html(report_of([folder(build=data)]))
    for anchor in ("quality", "sample", "candidates", "feedback", "speed"):
        assert f'id="{anchor}"' not in html
    assert not re.search(r"<(dd|td|p|li|h2)[^>]*>\s*</\1>\s*</(section|dl|figure)>", html)
