"""`ramp-edge eval --tasks`: accuracy on multiple-choice tasks, paired with a reference."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ramp_edge.errors import ModelFileError, UsageError

if TYPE_CHECKING:
    from ramp_edge.evaluate.tasks.records import TaskModel


def check_choice(*, text: Path | None, tasks: str | None, windows: int | None, limit: int | None) -> bool:
    """True for tasks, False for a text. Raises UsageError for options that do not go together."""
    if (text is None) == (tasks is None):
        raise UsageError(
            "eval needs either --text or --tasks" + ("" if text is None else ", not both"),
            hint="for example --text wiki.test.raw, or --tasks hellaswag,piqa --task-data DIR",
        )
    if tasks is not None and windows is not None:
        raise UsageError("--windows counts windows of a --text", hint="--limit counts the items of a task")
    if tasks is None and limit is not None:
        raise UsageError("--limit counts items of --tasks", hint="--windows counts the windows of a text")
    return tasks is not None


def evaluate_tasks(
    model: Path,
    *,
    tasks: str,
    folder: Path | None,
    reference: Path | None,
    limit: int | None,
    n_ctx: int | None,
    threads: int | None,
    progress: str,
    as_json: bool,
) -> None:
    """Run the tasks and print the result to stdout."""
    from ramp_edge.cli.progress import attached
    from ramp_edge.cli.run import runnable_file
    from ramp_edge.cli.tasks_report import suite_lines, suite_record
    from ramp_edge.evaluate.tasks.definitions import parse_task_names
    from ramp_edge.evaluate.tasks.suite import run_suite
    from ramp_edge.shipped import cache_dir

    definitions = parse_task_names(tasks)
    if folder is None:
        raise UsageError(
            "--tasks needs the folder of their files",
            hint="give --task-data DIR or set RAMP_EDGE_TASK_DATA; docs/commonsense.md says which files",
        )
    paths = [runnable_file(path) for path in (model, reference) if path is not None]
    # Model and reference read contexts of the same length.
    longest = min(_context_length(path) for path in paths)
    if n_ctx is not None and n_ctx > longest:
        raise UsageError(f"--ctx {n_ctx} is more than the model's {longest}", hint=f"give at most {longest}")
    with attached(progress) as events:
        models = [task_model(path) for path in paths]
        suite = run_suite(
            models[0],
            definitions,
            folder,
            n_ctx=n_ctx or longest,
            reference=models[1] if len(models) > 1 else None,
            limit=limit,
            cache_dir=cache_dir() / "tasks",
            threads=threads,
            events=events,
        )
    typer.echo(json.dumps(suite_record(suite), indent=2) if as_json else "\n".join(suite_lines(suite)))


def task_model(path: Path) -> TaskModel:
    """A file to evaluate, under its own name."""
    from ramp_edge.evaluate.tasks.records import TaskModel
    from ramp_edge.model.gguf_file import file_sha256

    return TaskModel(label=path.name, path=path, sha256=file_sha256(path), file_bytes=path.stat().st_size)


def _context_length(path: Path) -> int:
    from ramp_edge.model.gguf_file import GgufTensors

    metadata = GgufTensors(path).scalar_metadata()
    length = metadata.get(f"{metadata.get('general.architecture')}.context_length")
    if not isinstance(length, int) or isinstance(length, bool) or length < 1:
        raise ModelFileError(f"{path}: no context_length in its metadata", hint="this GGUF holds no language model")
    return length
