"""`ramp-edge report`: which file it writes, what it prints, and how quick it is."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ASSETS = Path(__file__).parents[1] / "gate" / "assets"
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    shutil.copytree(ASSETS / "new", tmp_path / "out")
    return tmp_path / "out"


def test_of_a_folder(ramp_edge_cli: Run, out: Path, tmp_path: Path) -> None:
    done = ramp_edge_cli("report", "out", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0] == "ramp-edge-books-6m, built for x86-64 with AVX-512, 32 GB"
    assert "75 % less divergence" in done.stdout
    assert done.stdout.splitlines()[-1] == "  written     out/report.html"
    assert (out / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_of_several(ramp_edge_cli: Run, out: Path, tmp_path: Path) -> None:
    done = ramp_edge_cli("report", out, ASSETS / "old", cwd=tmp_path)
    assert done.returncode == 0
    assert "old diverges 66 % less from the original than out." in done.stdout
    assert (tmp_path / "comparison.html").is_file()
    done = ramp_edge_cli("report", out / "bench.json", ASSETS / "unstable.json", "-o", "boards.html", cwd=tmp_path)
    assert done.returncode == 0
    assert "  note        " in done.stdout
    assert (tmp_path / "boards.html").is_file()


def test_other_formats_go_to_stdout_or_a_file(ramp_edge_cli: Run, out: Path, tmp_path: Path) -> None:
    markdown = ramp_edge_cli("report", out, "--format", "markdown", cwd=tmp_path)
    assert markdown.stdout.startswith("# ramp-edge-books-6m\n")
    as_json = ramp_edge_cli("report", out, "--format", "json", cwd=tmp_path)
    assert json.loads(as_json.stdout)["kind"] == "build"
    assert not (out / "report.html").exists()
    both = ramp_edge_cli("report", out, "--json", cwd=tmp_path)
    assert both.stdout == as_json.stdout
    assert (out / "report.html").is_file()
    ramp_edge_cli("report", out, "--format", "markdown", "-o", "report.md", cwd=tmp_path)
    assert (tmp_path / "report.md").read_text(encoding="utf-8") == markdown.stdout


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (["nowhere.json"], 2, "nowhere.json cannot be read"),
        (["out", "--format", "pdf"], 2, "--format 'pdf' is unknown"),
        (["out/eval.json"], 2, "eval.json is a task evaluation"),
        (["out", "-o", "mine.html"], 2, "mine.html was not written by ramp-edge report"),
        (["out", "-o", "out"], 2, "out is a folder"),
        (
            ["out", "--format", "json", "-o", "out/build.json"],
            2,
            "out/build.json is a record that the report is drawn from",
        ),
        (["out", "-o", "no/such/folder.html"], 13, "cannot write no/such/folder.html"),
        ([], 2, ""),
    ],
)
def test_errors(ramp_edge_cli: Run, out: Path, tmp_path: Path, args: list[str], code: int, said: str) -> None:
    (tmp_path / "mine.html").write_text("<p>mine</p>")
    done = ramp_edge_cli("report", *args, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert (tmp_path / "mine.html").read_text() == "<p>mine</p>"
    assert not (out / "report.html").exists()


def _cpu_seconds(*args: str, cwd: Path) -> float:
    """The least of three runs: what else the machine does is no part of it."""
    script = "import sys; sys.argv[0] = 'ramp-edge'; from ramp_edge.cli.main import main; main()"
    best = float("inf")
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", script, *args], check=True, capture_output=True, cwd=cwd,
                       env={**os.environ, "PYTHONPATH": str(ASSETS.parents[2])})  # fmt: skip
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        best = min(best, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    return best


def test_it_is_quick(out: Path, tmp_path: Path) -> None:
    assert _cpu_seconds("report", "out", cwd=tmp_path) < 2.0  # 0.6 measured
    assert _cpu_seconds("report", "--help", cwd=tmp_path) < 1.0  # 0.35 measured on a busy machine, as every verb's
