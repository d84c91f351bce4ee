"""docs/gates.md says what the code does: every metric, every verdict, every field, and its example is a valid budget."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

from ramp_edge.errors import BudgetFileError, BudgetViolatedError, GateUndecidedError
from ramp_edge.gate.as_json import gate_json
from ramp_edge.gate.budget_file import read_budget
from ramp_edge.gate.metrics import LOAD_MODES, MEMORY_LINES, METRICS, TASKS
from ramp_edge.gate.run import gate_files
from ramp_edge.gate.verdict import Verdict

ASSETS = Path(__file__).parent / "assets"
TEXT = (Path(__file__).parents[2] / "docs" / "gates.md").read_text(encoding="utf-8")
CODE = set(re.findall(r"`([^`\n]+)`", TEXT))


def test_every_metric_is_listed() -> None:
    for name in METRICS:
        head, _, rest = name.partition(".")
        if head in ("accuracy", "retention", "accuracy_change"):
            listed = {f"{head}.average"} if rest == "average" else {f"{head}.TASK"}
            assert rest == "average" or rest.split(".")[0] in TASKS
        elif rest in MEMORY_LINES:
            listed = {"resident_bytes.LINE", rest}
        else:
            listed = {head, *([f".{rest}"] if rest else [])}
        assert listed <= CODE, name
    assert {f".{mode}" for mode in LOAD_MODES} <= CODE


def test_the_columns_are_true() -> None:
    rows = re.findall(r"^\| (`[a-z0-9_`, .A-Z]+) \| (\w+) \| (\w+) \| ([\w ]+) \|", TEXT, re.MULTILINE)
    seen = set()
    for names, source, better, regression in rows:
        for name in re.findall(r"`([^`]+)`", names):
            for found in (
                [name],
                [f"{name}.median"],
                [f"{name}.mmap"],
                [name.replace("TASK", "piqa")],
                [name.replace("LINE", "weights")],
            ):
                if (metric := METRICS.get(found[0])) is not None:
                    assert (metric.source.value, metric.better.value) == (source, better), name
                    assert (regression == "no") == bool(metric.no_regression), name
                    seen.add(metric.name.split(".")[0])
    assert seen == {name.split(".")[0] for name in METRICS}


def test_the_example_is_a_budget(tmp_path: Path) -> None:
    path = tmp_path / "budgets.yaml"
    path.write_text(TEXT.split("```yaml\n")[1].split("```")[0])
    budget = read_budget(path)
    assert (len(budget.defaults), set(budget.devices)) == (3, {"raspberry-pi-5-8gb", "kitchen-pi"})


def test_the_commands_run(ramp_edge_cli: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path) -> None:
    """With a record of each kind in the place that the text gives it."""
    (tmp_path / "out").symlink_to(ASSETS / "new")
    (tmp_path / "baseline").symlink_to(ASSETS / "old")
    (tmp_path / "eval.json").symlink_to(ASSETS / "new" / "eval.json")
    commands = [
        line.split("#")[0].split(" > ")[0] for line in TEXT.split("```console\n")[1].split("```")[0].splitlines()
    ]
    assert len(commands) == 4
    for command in commands:
        prompt, program, *args = shlex.split(command)
        assert (prompt, program) == ("$", "ramp-edge")
        done = ramp_edge_cli(*args, cwd=tmp_path)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    assert {"budgets.yaml", "gate.xml", "gate.md"} <= {path.name for path in tmp_path.iterdir()}


def test_verdicts_codes_and_fields(tmp_path: Path) -> None:
    assert {verdict.value for verdict in Verdict} <= CODE
    for error in (BudgetViolatedError, GateUndecidedError, BudgetFileError):
        assert re.search(rf"^\| {error.exit_code} \| ", TEXT, re.MULTILINE)
    path = tmp_path / "budgets.yaml"
    path.write_text("defaults: [size_bytes <= 1 GB]")
    data = json.loads(gate_json(gate_files([ASSETS / "new"], path)))
    fields = {*data, *data["devices"][0]} - {"devices"} | {"devices[]"}
    assert fields <= CODE
    assert {
        field for field in data["devices"][0]["rules"][0] if f".{field}" not in CODE and f"rules[].{field}" not in CODE
    } == set()
