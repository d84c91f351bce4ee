"""A build killed at any step leaves nothing half-written, and --resume ends in the identical file."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import os, signal, sys
from pathlib import Path
from ramp_edge.build import build
from ramp_edge.events import EventBus, StageAdvanced
from ramp_edge.pipeline.request import BuildRequest, Effort

model, output, stage, after, resume = sys.argv[1:]

def listener(event):
    if isinstance(event, StageAdvanced) and event.name == stage and event.done >= int(after):
        os.kill(os.getpid(), signal.SIGKILL)

request = BuildRequest(
    model=model, device="raspberry-pi-5", output=Path(output), effort=Effort.BALANCED, threads=2, resume=resume == "1"
)
print(build(request, EventBus(listeners=[listener])).file_sha256)
"""


def _run(tiny: Path, out: Path, cache: Path, stage: str, after: int, resume: bool) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tiny), str(out), stage, str(after), "1" if resume else "0"],
        capture_output=True,
        text=True,
        env={**os.environ, "RAMP_EDGE_CACHE": str(cache)},
        check=False,
        timeout=300,
    )


@pytest.fixture(scope="module")
def whole_sha256(tiny_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Hash of the file that a build writes when nothing stops it."""
    folder = tmp_path_factory.mktemp("whole")
    whole = _run(tiny_gguf, folder / "out", folder / "cache", "never", 0, resume=False)
    assert whole.returncode == 0, whole.stderr
    return whole.stdout.strip()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "after"), [("moments", 1), ("fisher", 1), ("fold 1", 2), ("write", 9), ("evaluate knapsack", 2)]
)
def test_killed_and_resumed(tiny_gguf: Path, whole_sha256: str, tmp_path: Path, stage: str, after: int) -> None:
    out, cache = tmp_path / "out", tmp_path / "cache"
    killed = _run(tiny_gguf, out, cache, stage, after, resume=False)
    assert killed.returncode == -signal.SIGKILL, (killed.returncode, killed.stderr)
    assert not (out / "model.gguf").exists()
    assert not (out / "build.json").exists()
    resumed = _run(tiny_gguf, out, cache, "never", 0, resume=True)
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout.strip() == whole_sha256
    assert sorted(p.name for p in out.iterdir()) == ["build.json", "model.gguf", "report.html"]
    record = json.loads((out / "build.json").read_text())
    assert record["file_sha256"] == whole_sha256
    # Folds that were found are not searched again, and are told all the same.
    assert ("fold 1" in record["stage_seconds"]) == (stage in ("moments", "fisher", "fold 1"))
    assert record["folding"]["groups_tried"] > 0
