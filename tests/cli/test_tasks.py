"""`ramp-edge eval --tasks` as users meet it: the table word for word, JSON alone on stdout, errors with a next step."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest

from ramp_edge.cli.tasks_report import suite_lines, suite_record
from ramp_edge.evaluate.tasks.definitions import TASKS
from ramp_edge.evaluate.tasks.records import ItemScore, SuiteRun, TaskData, TaskItem, TaskModel, TaskRun

GOLDEN = Path(__file__).parent / "golden"
MODEL = Path(str(files("ramp_edge"))) / "data" / "ramp-edge-default-f16.gguf"
OPTIONS = ("RAMP_EDGE_TASK_DATA", "RAMP_EDGE_PROGRESS", "RAMP_EDGE_DEBUG")


def cli(*args: str | Path, cache: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    script = "import sys; sys.argv[0] = 'ramp-edge'; from ramp_edge.cli.main import main; main()"
    base = {k: v for k, v in os.environ.items() if k not in OPTIONS}
    return subprocess.run(
        [sys.executable, "-c", script, "eval", *map(str, args)],
        capture_output=True, text=True, check=False, env={**base, "RAMP_EDGE_CACHE": str(cache), **environment},
    )  # fmt: skip


def _run(name: str, n: int, n_right: int, *, shift: int, cut: int = 0, n_evaluated: int = 0) -> TaskRun:
    """The first `n_right` items after `shift` are right."""
    items = tuple(
        TaskItem(index=i, line=i + 1, contexts=("c",) * 2, continuations=(" a", " b"), n_characters=(1, 1), gold=0)
        for i in range(n)
    )
    scores = []
    for i in range(n):
        values = (-1.0, -2.0) if shift <= i < shift + n_right else (-2.0, -1.0)
        scores.append(ItemScore(index=i, log_likelihoods=values, token_means=values, cut=i < cut))
    data = TaskData(
        definition=TASKS[name], path=Path(f"{name}.jsonl"), sha256="0" * 64, n_available=2 * n, items=items, limit=n
    )  # fmt: skip
    return TaskRun(data=data, scores=tuple(scores), n_ctx=512, n_evaluated=n_evaluated, seconds=8.0)


@pytest.fixture
def suite() -> SuiteRun:
    return SuiteRun(
        model=TaskModel(label="model.gguf", path=Path("out/model.gguf"), sha256="1" * 64, file_bytes=90_000_000),
        reference=TaskModel(label="f16.gguf", path=Path("f16.gguf"), sha256="2" * 64, file_bytes=270_000_000),
        limit=200,
        runs=(_run("hellaswag", 200, 80, shift=4, n_evaluated=200), _run("boolq", 200, 120, shift=0, cut=3)),
        reference_runs=(_run("hellaswag", 200, 84, shift=0), _run("boolq", 200, 118, shift=0)),
    )


def test_the_table_is_the_golden_text(suite: SuiteRun) -> None:
    """RAMP_EDGE_UPDATE_GOLDEN=1 writes it anew; read the difference before you commit it."""
    text = "\n".join(suite_lines(suite)) + "\n"
    golden = GOLDEN / "eval-tasks.txt"
    if os.environ.get("RAMP_EDGE_UPDATE_GOLDEN"):
        golden.write_text(text, encoding="utf-8")
    assert text == golden.read_text(encoding="utf-8")


def test_the_record_is_the_golden_json(suite: SuiteRun) -> None:
    record = suite_record(suite)
    record["engine"] = "pinned elsewhere"
    text = json.dumps(record, indent=2) + "\n"
    golden = GOLDEN / "eval-tasks.json"
    if os.environ.get("RAMP_EDGE_UPDATE_GOLDEN"):
        golden.write_text(text, encoding="utf-8")
    assert text == golden.read_text(encoding="utf-8")


def test_a_model_alone_has_no_empty_columns(suite: SuiteRun) -> None:
    alone = SuiteRun(model=suite.model, reference=None, limit=None, runs=suite.runs[:1], reference_runs=())
    lines = suite_lines(alone)
    assert lines[0] == "model.gguf (90.0 MB)"
    assert "reference" not in "\n".join(lines)
    record = suite_record(alone)
    assert record["reference"] is None
    assert record["tasks"][0]["comparison"] is None
    assert record["average"]["comparison"] is None


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("task-files")
    rows = [
        {"query": f"The captain walked to the {a}", "choices": [b, "the harbour"], "gold": i % 2}
        for i, (a, b) in enumerate([("river", "a stone"), ("window", "rain"), ("boat", "bread"), ("road", "silver")])
    ]
    (where / "openbook_qa.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return where


def test_json_is_alone_on_stdout_and_the_cache_is_used(folder: Path, tmp_path: Path) -> None:
    arguments = (MODEL, "--tasks", "openbookqa", "--reference", MODEL, "--limit", "3", "--json")
    first = cli(*arguments, cache=tmp_path, RAMP_EDGE_TASK_DATA=str(folder), RAMP_EDGE_PROGRESS="plain")
    assert first.returncode == 0, first.stderr
    record = json.loads(first.stdout)
    assert "openbookqa ramp-edge-default-f16.gguf ..." in first.stderr
    (task,) = record["tasks"]
    assert (task["n_items"], task["n_available"], record["limit"]) == (3, 4, 3)
    assert task["reference"]["n_evaluated"] == 3
    # The reference is the same file here, so the model's scores are already there.
    assert task["model"]["n_evaluated"] == 0
    assert task["model"]["n_ctx"] == 512
    found = task["comparison"]["acc_norm"]
    assert (found["difference"]["value"], found["changed"]) == (0.0, 0.0)
    again = cli(*arguments, "--task-data", folder, "--progress", "off", cache=tmp_path)
    assert again.stderr == ""
    assert json.loads(again.stdout)["tasks"][0]["reference"]["accuracy"] == task["reference"]["accuracy"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "eval needs either --text or --tasks"),
        (("--text", "x.txt", "--tasks", "piqa"), "--text or --tasks, not both"),
        (("--text", "x.txt", "--limit", "3"), "--limit counts items of --tasks"),
        (("--tasks", "piqa", "--windows", "3"), "--windows counts windows of a --text"),
        (("--tasks", "piqa"), "--tasks needs the folder of their files"),
        (("--tasks", "mmlu", "--task-data", "."), "unknown tasks: mmlu"),
        (("--tasks", "piqa", "--task-data", ".", "--ctx", "4096"), "--ctx 4096 is more than the model's 512"),
    ],
)
def test_options_that_do_not_go_together(arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    done = cli(MODEL, *arguments, cache=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert "  -> " in done.stderr
    assert done.stdout == ""


def test_a_missing_file_is_named_with_its_own_exit_code(folder: Path, tmp_path: Path) -> None:
    done = cli(MODEL, "--tasks", "openbookqa,boolq", "--task-data", folder, cache=tmp_path)
    assert done.returncode == 17
    assert "no file for boolq (boolq*.jsonl or boolq*.jsonl.bz2)" in done.stderr
    assert "  -> copy the files there" in done.stderr
