"""tools/ci: the example workflow's and the GitLab job's own shell lines run here, on real builds of the tiny model."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

CI = Path(__file__).parents[2] / "tools" / "ci"
ROOT = Path(__file__).parents[2]
_EXPRESSION = re.compile(r"\$\{\{\s*(.+?)\s*\}\}")


@dataclass(kw_only=True)
class Runner:
    """Runs the `run:` steps of a job as GitHub's runner does: bash -e, environment from all levels, composite actions inline.

    `uses:` of others' actions are noted, not run; an expression that the test does not know is an error.
    """

    folder: Path
    environment: dict[str, str]
    contexts: dict[str, str]
    ran: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    outputs: dict[str, str] = field(default_factory=dict)
    code: int = 0
    text: str = ""

    def job(self, job: dict[str, Any]) -> None:
        environment = {name: self.resolve(value) for name, value in job.get("env", {}).items()}
        for step in job["steps"]:
            self.step(step, environment, self.contexts)

    def step(self, step: dict[str, Any], environment: dict[str, str], contexts: dict[str, str]) -> None:
        name = step.get("name") or step["uses"]
        if not self.wanted(step.get("if"), environment):
            self.skipped.append(name)
            return
        own = {key: self.resolve(value, contexts) for key, value in step.get("env", {}).items()}
        if "run" in step:
            assert "${{" not in step["run"], f"{name}: an expression inside a script could become a command"
            self.shell(name, step["run"], {**environment, **own}, keeps=bool(step.get("continue-on-error")))
        elif step["uses"].startswith("./"):
            self.action(step, environment, contexts)
        else:
            self.foreign.append(step["uses"])

    def action(self, step: dict[str, Any], environment: dict[str, str], contexts: dict[str, str]) -> None:
        definition = yaml.safe_load((self.folder / step["uses"] / "action.yml").read_text())
        given = {name: self.resolve(value, contexts) for name, value in step.get("with", {}).items()}
        declared = definition["inputs"]
        assert given.keys() <= declared.keys()
        assert all(name in given or "default" in spec or not spec.get("required") for name, spec in declared.items())
        inputs = {f"inputs.{name}": given.get(name, spec.get("default", "")) for name, spec in declared.items()}
        for inner in definition["runs"]["steps"]:
            assert inner["shell"] == "bash"
            self.step(inner, environment, {**contexts, **inputs})

    def wanted(self, condition: str | None, environment: dict[str, str]) -> bool:
        known = {
            None: self.code == 0,
            "always()": True,
            "env.TARGET != ''": self.code == 0 and environment.get("TARGET", "") != "",
        }
        return known[condition]

    def resolve(self, value: object, contexts: dict[str, str] | None = None) -> str:
        return _EXPRESSION.sub(lambda match: (contexts or self.contexts)[match[1]], str(value))

    def shell(self, name: str, script: str, environment: dict[str, str], *, keeps: bool = False) -> None:
        output = self.folder / "github-output"
        output.write_text("")
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script],
            cwd=self.folder, capture_output=True, text=True, check=False,
            env={**self.environment, **environment, "GITHUB_OUTPUT": str(output)},
        )  # fmt: skip
        self.ran.append(name)
        self.text += done.stdout + done.stderr
        self.outputs |= dict(line.split("=", 1) for line in output.read_text().splitlines())
        if done.returncode and not keeps:
            self.code = self.code or done.returncode


@pytest.fixture
def checkout(tmp_path: Path, tiny_gguf: Path, tiny_build: Path) -> Path:
    """A user's repository as the example's first lines describe it."""
    folder = tmp_path / "my models"
    action = folder / ".github" / "actions" / "ramp-edge-gate"
    action.mkdir(parents=True)
    shutil.copy(CI / "action.yml", action)
    shutil.copy(tiny_gguf, folder / "model-f16.gguf")
    (folder / "baseline").mkdir()
    shutil.copy(tiny_build / "build.json", folder / "baseline")
    (folder / "budgets.yaml").write_text("defaults:\n  - size_bytes <= 1 GB\n  - size_bytes: +0%\n  - kl_mean <= 9\n")
    return folder


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A PATH with this checkout's ramp-edge and a gh that only notes what it was asked."""
    binaries = tmp_path / "bin"
    binaries.mkdir()
    script = "from ramp_edge.cli.main import main; main()"
    (binaries / "ramp-edge").write_text(
        f"#!/bin/sh\nPYTHONPATH={shlex.quote(str(ROOT))} exec {shlex.quote(sys.executable)} -c '{script}' \"$@\"\n"
    )
    (binaries / "gh").write_text(
        f'#!/bin/sh\necho "$@" >>{shlex.quote(str(tmp_path / "gh.log"))}\ncat gate.md >/dev/null\n'
    )
    for file in binaries.iterdir():
        file.chmod(0o755)
    foreign = ("RAMP_EDGE_", "GITHUB_")
    base = {k: v for k, v in os.environ.items() if not k.startswith(foreign) or k == "RAMP_EDGE_CACHE"}
    path = f"{binaries}{os.pathsep}{os.environ['PATH']}"
    return {**base, "PATH": path, "RAMP_EDGE_PROGRESS": "off"}


def _example(checkout: Path, environment: dict[str, str]) -> Runner:
    workflow = yaml.safe_load((CI / "example-workflow.yml").read_text())
    # A plain `on:` is YAML's true.
    assert workflow[True] == {"pull_request": None}
    github = {
        "GITHUB_ACTIONS": "true",
        "GITHUB_WORKSPACE": str(checkout),
        "GITHUB_STEP_SUMMARY": str(checkout / "summary.md"),
    }
    contexts = {"github.token": "t", "github.event.pull_request.number": "12"}
    runner = Runner(folder=checkout, environment={**environment, **github}, contexts=contexts)
    job = workflow["jobs"]["gate"]
    # The tiny model's calibration at full effort is what takes long, not what is tested.
    build = next(step for step in job["steps"] if step.get("name") == "Build")
    build["run"] += " --effort fast"
    runner.job(job)
    return runner


def test_the_example_workflow_passes(checkout: Path, environment: dict[str, str], tmp_path: Path) -> None:
    runner = _example(checkout, environment)
    assert runner.code == 0, runner.text
    assert runner.ran == ["Install ramp-edge", "Build", "Gate", "Comment"]
    assert runner.skipped == ["Measure on the board"]
    assert runner.foreign == ["actions/checkout@v4", "actions/setup-python@v5", "actions/upload-artifact@v4"]
    assert runner.outputs["verdict"] == "pass"
    assert (checkout / "summary.md").read_text(encoding="utf-8") == (checkout / "gate.md").read_text(encoding="utf-8")
    suites = ET.parse(checkout / "gate.xml").getroot()
    assert (suites.get("tests"), suites.get("failures"), suites.get("errors")) == ("3", "0", "0")
    assert (tmp_path / "gh.log").read_text() == "pr comment 12 --body-file gate.md --edit-last --create-if-none\n"


def test_the_example_workflow_turns_red_and_still_comments(
    checkout: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    (checkout / "budgets.yaml").write_text("defaults:\n  - size_bytes <= 1 kB\n")
    runner = _example(checkout, environment)
    assert runner.code == 4
    assert runner.outputs["verdict"] == "violated"
    assert "::error file=budgets.yaml,line=2,title=ramp-edge gate%3A size_bytes violated" in runner.text
    assert "❌" in (checkout / "summary.md").read_text(encoding="utf-8")
    assert "Comment" in runner.ran and (tmp_path / "gh.log").exists()


@pytest.mark.parametrize(
    ("given", "code", "verdict"),
    [
        ({"records": "out"}, 0, "pass"),
        ({"records": "out\nnowhere.json\n"}, 2, "error"),
        ({"records": "out", "budget": "with baseline.yaml"}, 5, "undecided"),
        ({"records": "out", "budget": "with baseline.yaml", "baseline": "out\n"}, 0, "pass"),
        ({"records": "out", "budget": "with baseline.yaml", "limits-only": "true"}, 0, "pass"),
        ({"records": "out", "budget": "two devices.yaml"}, 5, "undecided"),
        ({"records": "out", "budget": "two devices.yaml", "devices": "raspberry-pi-5-8gb"}, 0, "pass"),
        ({"records": "$(touch owned)\n; touch owned"}, 2, "error"),
        ({"records": "--help"}, 2, "error"),
    ],
)
def test_the_action_s_inputs(
    given: dict[str, str], code: int, verdict: str, checkout: Path, tiny_build: Path, environment: dict[str, str]
) -> None:
    (checkout / "out").symlink_to(tiny_build)
    (checkout / "budgets.yaml").write_text("defaults: [size_bytes <= 1 GB]\n")
    (checkout / "with baseline.yaml").write_text("defaults: [size_bytes <= 1 GB, 'size_bytes: +0%']\n")
    two = "devices: {raspberry-pi-5-8gb: [size_bytes <= 1 GB], other: [size_bytes <= 1 GB]}"
    (checkout / "two devices.yaml").write_text(two)
    runner = Runner(folder=checkout, environment=environment, contexts={})
    runner.step({"name": "Gate", "uses": "./.github/actions/ramp-edge-gate", "with": given}, {}, {})
    assert (runner.code, runner.outputs.get("verdict")) == (code, verdict), runner.text
    assert not (checkout / "owned").exists()


def test_the_gitlab_job(checkout: Path, environment: dict[str, str]) -> None:
    job = yaml.safe_load((CI / "gitlab.yml").read_text())["model-gate"]
    for line in job["script"]:
        fast = " --effort fast" if " build " in line else ""
        done = subprocess.run(
            ["sh", "-ec", line + fast], cwd=checkout, capture_output=True, text=True, check=False,
            env={**environment, **job["variables"]},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    assert (checkout / job["artifacts"]["reports"]["junit"]).is_file()
    assert all((checkout / path).is_file() for path in job["artifacts"]["paths"])
