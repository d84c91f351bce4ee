"""AutoRound's own GGUF export (PyPI `auto-round`), in its own environment: it pins other versions than ramp-edge's."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

from comparison.records import AUTOROUND
from comparison.workshop import Made, Workshop, say

FORMATS = ("q4_k_m",)
_JOB = Path(__file__).with_name("autoround_job.py")


def export(python: Path, reference: Path, text: Path, iterations: int, workshop: Workshop) -> tuple[list[Made], str]:
    """AutoRound's files, and a sentence on what it took or why it did not run."""
    files: list[Made] = []
    said: list[str] = []
    for scheme in FORMATS:
        label = f"AutoRound {scheme.upper()}"
        path = workshop.path(f"{label}.gguf")

        def run(scheme: str = scheme, path: Path = path) -> dict[str, object]:
            return _run(python, reference, text, scheme, iterations, workshop.path(f"autoround-{scheme}"), path)

        outcome = workshop.figure(f"{label} {iterations} iterations", run)
        if "error" in outcome:
            said.append(f"{label} did not run: {outcome['error']}")
            continue
        said.append(
            f"{label}: auto-round {outcome['version']} on {outcome.get('device', 'this CPU')}, {iterations} iterations a block on {outcome['windows']} windows "
            f"of the same calibration text, {outcome['seconds']:.0f} s"
        )
        files.append(Made(label=label, kind=AUTOROUND, path=path, seconds=float(outcome["seconds"])))
    return files, "; ".join(said) + "."


def _run(
    python: Path, reference: Path, text: Path, scheme: str, iterations: int, work: Path, output: Path
) -> dict[str, object]:
    say(f"AutoRound {scheme}, {iterations} iterations a block ...")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [python, _JOB, reference, text, work, scheme, str(iterations)],
        capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip
    made = sorted(work.glob(f"{scheme}/**/*.gguf"))
    if done.returncode or not made:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        return {"error": lines[-1] if lines else f"exit status {done.returncode}"}
    made[0].replace(output)
    return dict(json.loads(next(line for line in reversed(done.stdout.splitlines()) if line.startswith("{"))))
