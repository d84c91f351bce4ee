"""Reports in a real Chromium: nothing on its console, nothing wider than the window, plots drawn, text whole and readable, in both
themes and on paper."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ramp_edge.report.compose import report_of
from ramp_edge.report.html import report_html

from .conftest import ASSETS, HOSTILE, hostile, loaded

pytestmark = pytest.mark.browser
WIDTHS = (390, 1280, 1920)
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync")  # fmt: skip
LEAST_LETTER_PX = 10.5
"""Height of a line of the smallest text of a plot (a letter of it is about 0.7 of that)."""

_MEASURE = """() => {
  const box = (e) => { const r = e.getBoundingClientRect(); return {l: r.left, t: r.top, r: r.right, b: r.bottom, text: e.textContent}; };
  const shown = (e) => { const r = e.getBoundingClientRect(); return r.width > 0 && r.height > 0; };
  const plots = [...document.querySelectorAll('svg[role=img]')].filter(shown);
  const drawn = 'circle, rect, path, line';
  return {
    window: document.documentElement.clientWidth,
    page: document.documentElement.scrollWidth,
    scripts: document.scripts.length,
    title: document.title,
    plots: plots.map((svg) => ({
      ...box(svg), text: '',
      texts: [...svg.querySelectorAll('text')].map(box),
      marks: [...svg.querySelectorAll(drawn)].filter(shown).length,
    })),
    cells: [...document.querySelectorAll('td.cell')].map((e) => ({
      text: e.textContent, inner: e.scrollWidth, outer: e.clientWidth + 1, height: e.getBoundingClientRect().height,
    })),
    lines: [...document.querySelectorAll('h1, h2, p, dt, dd, li, figcaption, summary')].filter(shown).map((e) => ({
      ...box(e), inner: e.scrollWidth, outer: e.clientWidth + 1, inline: getComputedStyle(e).display.startsWith('inline'),
    })),
    figures: [...document.querySelectorAll('.figures > div')].map(box),
    background: getComputedStyle(document.body).backgroundColor,
  };
}"""


@pytest.fixture(scope="module")
def chromium() -> str:
    """The system's Chromium; playwright's own is not downloaded."""
    found = os.environ.get("RAMP_EDGE_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no Chromium here: apt-get install chromium, or name one in RAMP_EDGE_CHROMIUM")
    return found


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=chromium, args=list(FLAGS))
        yield running
        running.close()


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., tuple[Any, list[str]]]]:
    """(file, width, theme) -> the page, and what its console said."""
    contexts = []

    def go(file: Path, width: int = 1280, theme: str = "light") -> tuple[Any, list[str]]:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=theme)
        contexts.append(context)
        page, said = context.new_page(), []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on(
            "request",
            lambda request: said.append(request.url) if not request.url.startswith(("file:", "data:")) else None,
        )
        page.goto(file.as_uri())
        return page, said

    yield go
    for context in contexts:
        context.close()


@pytest.fixture(scope="module")
def reports(
    chromium: str, tiny_build: Path, llama_bin: Path, ramp_edge_cli: Callable[..., subprocess.CompletedProcess[str]],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Path]:  # fmt: skip
    """A build and its bench made here, the embedded model's records, a comparison, boards, and a page of hostile names."""
    place = tmp_path_factory.mktemp("reports")
    out = place / "out"
    shutil.copytree(tiny_build, out)
    found = {"a fresh build": place / "fresh build.html"}
    shutil.copy(out / "report.html", found["a fresh build"])

    def run(*args: str | Path) -> None:
        done = ramp_edge_cli(*args, cwd=place)
        assert done.returncode == 0, done.stderr

    run("bench", out, "--target", "local", "--runtime", llama_bin, "--threads", "1", "--depths", "0,64")
    found["a fresh build and bench"] = out / "report.html"
    run("report", out / "bench.json", "-o", "bench.html")
    run("report", ASSETS / "new", "-o", "embedded.html")
    run("report", ASSETS / "new", ASSETS / "old", "-o", "builds.html")
    run("report", ASSETS / "unstable.json", ASSETS / "new" / "bench.json", "-o", "boards.html")
    found |= {name: place / f"{name}.html" for name in ("bench", "embedded", "builds", "boards")}
    for number, text in enumerate(HOSTILE):
        folder = place / f"hostile-{number}"
        folder.mkdir()
        for name in ("build", "bench"):
            (folder / f"{name}.json").write_text(loaded_hostile(name, text), encoding="utf-8")
        (folder / "report.html").write_text(report_html(report_of([folder])), encoding="utf-8")
        found[f"hostile {number}"] = folder / "report.html"
    return found


def loaded_hostile(name: str, text: str) -> str:
    """A real record with hostile text, as JSON."""
    return json.dumps(hostile(loaded(f"new/{name}.json"), text))


def _names() -> list[str]:
    calm = ["a fresh build", "a fresh build and bench", "bench", "embedded", "builds", "boards"]
    return [*calm, *(f"hostile {number}" for number in range(len(HOSTILE)))]


def _overlap(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return bool(a["l"] + 1 < b["r"] and b["l"] + 1 < a["r"] and a["t"] + 3 < b["b"] and b["t"] + 3 < a["b"])


def _check(found: dict[str, Any], width: int) -> None:
    assert found["page"] <= found["window"] <= width, "the page is wider than the window"
    assert found["scripts"] == 0
    assert found["plots"], "no plot is there"
    for plot in found["plots"]:
        assert plot["r"] - plot["l"] >= 250
        assert plot["b"] - plot["t"] >= 30
        assert plot["marks"] >= 2
        for text in plot["texts"]:
            assert text["l"] >= plot["l"] - 1 and text["r"] <= width, f"{text['text']!r} is cut off"
            assert text["b"] - text["t"] >= LEAST_LETTER_PX, f"{text['text']!r} is too small"
        for number, text in enumerate(plot["texts"]):
            for other in plot["texts"][number + 1 :]:
                assert not _overlap(text, other), f"{text['text']!r} lies on {other['text']!r}"
    for cell in found["cells"]:
        assert cell["inner"] <= cell["outer"], f"{cell['text']!r} does not fit its cell"
        assert cell["height"] >= 15
    for line in found["lines"]:
        assert line["r"] <= width + 1, f"{line['text']!r} leaves the window"
        assert line["inline"] or line["inner"] <= line["outer"], f"{line['text'][:60]!r} is cut"
    for number, figure in enumerate(found["figures"]):
        assert not any(_overlap(figure, other) for other in found["figures"][number + 1 :])


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", [n for n in _names() if not n.startswith("hostile")])
def test_it_opens(
    name: str, width: int, theme: str, reports: dict[str, Path], visit: Callable[..., tuple[Any, list[str]]]
) -> None:
    page, said = visit(reports[name], width, theme)
    found = page.evaluate(_MEASURE)
    _check(found, width)
    red, green, blue = map(int, re.findall(r"\d+", found["background"])[:3])
    assert (red + green + blue > 600) == (theme == "light")
    page.evaluate("() => document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width, "an opened table widens the page"
    assert said == []


@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_hostile_names_stay_text(
    number: int, reports: dict[str, Path], visit: Callable[..., tuple[Any, list[str]]]
) -> None:
    page, said = visit(reports[f"hostile {number}"], 390)
    found = page.evaluate(_MEASURE)
    assert found["scripts"] == 0
    assert found["page"] <= 390
    assert found["title"].endswith("ramp-edge")
    assert page.locator("h1").count() == 1
    assert page.locator("img, iframe, object, embed, form, input").count() == 0
    assert page.locator("main").is_visible()
    assert said == []


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("name", [n for n in _names() if not n.startswith("hostile")])
def test_axe_finds_nothing(
    name: str, theme: str, reports: dict[str, Path], visit: Callable[..., tuple[Any, list[str]]]
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page, _ = visit(reports[name], 390, theme)
    page.evaluate("() => document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    results = axe.Axe().run(page)
    assert results.violations_count == 0, results.generate_report()


def test_links_lead_to_their_sections(reports: dict[str, Path], visit: Callable[..., tuple[Any, list[str]]]) -> None:
    page, _ = visit(reports["embedded"])
    for link in page.locator("nav a").all():
        anchor = link.get_attribute("href")
        link.click()
        top = page.evaluate("(a) => document.querySelector(a).getBoundingClientRect().top", anchor)
        end = page.evaluate("() => window.scrollY + innerHeight >= document.documentElement.scrollHeight - 2")
        assert end or abs(top) < 2


def test_tables_that_are_too_wide_scroll_by_keyboard(
    reports: dict[str, Path], visit: Callable[..., tuple[Any, list[str]]]
) -> None:
    page, _ = visit(reports["embedded"], 390)
    wide = page.locator("#quality .scroll")
    assert wide.evaluate("(e) => e.scrollWidth > e.clientWidth")
    wide.focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function("() => document.querySelector('#quality .scroll').scrollLeft > 0")


def test_paper_has_everything_but_what_is_folded(
    reports: dict[str, Path], visit: Callable[..., tuple[Any, list[str]]]
) -> None:
    page, _ = visit(reports["embedded"], theme="dark")
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("() => getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not page.locator("nav").is_visible()
    assert page.locator("details:visible").count() == 0
    assert page.locator("svg[role=img]:visible").count() == page.locator("svg[role=img]").count() > 2


def test_it_prints(chromium: str, reports: dict[str, Path], tmp_path: Path) -> None:
    """By Chromium itself, as `chromium --print-to-pdf` does."""
    pdf = tmp_path / "report.pdf"
    done = subprocess.run(
        [chromium, "--headless", *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", "--no-pdf-header-footer",
         f"--print-to-pdf={pdf}", reports["embedded"].as_uri()],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert pdf.is_file(), done.stderr
    data = pdf.read_bytes()
    assert data.startswith(b"%PDF-") and data.rstrip().endswith(b"%%EOF")
    pages = len(re.findall(rb"/Type\s*/Page\b", data))
    assert 2 <= pages <= 8
