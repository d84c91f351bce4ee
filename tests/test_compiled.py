"""Machine code of loops is kept between processes, but never beyond what it was made from."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

CALLEE = """\
from ramp_edge.compiled import compiled
@compiled
def part(x):
    return x * {factor}
"""
CALLER = """\
import sys
import ramp_edge.compiled as c
if sys.argv[1:] == ["strict"]:
    c.OPTIONS["fastmath"] = False
from callee import part
from constants import OFFSET
@c.compiled
def whole(x):
    return part(x) + OFFSET
print(whole(3.0), sum(whole.stats.cache_hits.values()), sum(whole.stats.cache_misses.values()))
"""


def _run(folder: Path, *words: str) -> str:
    environment = {k: v for k, v in os.environ.items() if k != "NUMBA_CACHE_DIR"} | {"PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "caller.py", *words], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


def test_code_is_kept_as_long_as_nothing_that_it_came_from_has_changed(tmp_path: Path) -> None:
    (tmp_path / "callee.py").write_text(CALLEE.format(factor="2.0"))
    (tmp_path / "constants.py").write_text("OFFSET = 1.0\n")
    (tmp_path / "caller.py").write_text(CALLER)
    assert _run(tmp_path) == "7.0 0 1"
    assert _run(tmp_path) == "7.0 1 0", "the second process finds it"
    assert _run(tmp_path, "strict") == "7.0 0 1", "other options"
    (tmp_path / "callee.py").write_text(CALLEE.format(factor="5.0"))
    assert _run(tmp_path) == "16.0 0 1", "a loop of another file"
    (tmp_path / "constants.py").write_text("OFFSET = 4.0\n")
    assert _run(tmp_path) == "19.0 0 1", "a constant of another file"
    assert _run(tmp_path) == "19.0 1 0"


def test_a_folder_of_the_user_s_is_used(tmp_path: Path) -> None:
    (tmp_path / "callee.py").write_text(CALLEE.format(factor="2.0"))
    (tmp_path / "constants.py").write_text("OFFSET = 1.0\n")
    (tmp_path / "caller.py").write_text(CALLER)
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "kept"), "PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run([sys.executable, "caller.py"], cwd=tmp_path, env=environment, check=True, capture_output=True)
    assert list((tmp_path / "kept").rglob("*.nbc")) and not list(tmp_path.glob("__pycache__/**/*.nbc"))
