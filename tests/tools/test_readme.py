"""The tables of README and docs say what profiles and records say, and their pictures and links are there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from ramp_edge.units import human_bytes

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_the_tables_are_what_the_data_says() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "readme_tables.py"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_figure_that_was_changed_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import readme_tables

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    names = readme_tables.PAGES["README.md"]
    assert readme_tables.filled(text, names) == text
    line = next(line for line in text.splitlines() if line.startswith("| SmolLM2-135M |"))
    assert readme_tables.filled(text.replace(line, line.replace("0.", "0.0", 1)), names) == text
    with pytest.raises(ValueError, match="no place for the table"):
        readme_tables.filled("# empty", names)


def test_every_profile_and_type_is_listed() -> None:
    from ramp_edge.profile.load import load_profile_file

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    devices = (ROOT / "docs" / "devices.md").read_text(encoding="utf-8")
    for file in sorted((ROOT / "device_profiles").glob("[!_]*.yaml")):
        target = load_profile_file(file)
        for page in (readme, devices):
            assert f"| `{target.name}` | {target.title} | {human_bytes(target.memory_usable_bytes)} of " in page
        assert all(f"| {quant_type.name} |" in devices for quant_type in target.types)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), target


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "README.md" or f"({page.name})" in index, page.name


def test_the_picture_is_small() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)|srcset=\"([^\"]+)\"|src=\"([^\"]+)\"", readme)
    files = {ROOT / name for names in pictures for name in names if name}
    assert files
    assert sum(file.stat().st_size for file in files) < 300_000
