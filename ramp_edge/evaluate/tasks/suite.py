"""Several tasks on a model, and on a reference first."""

from __future__ import annotations

from pathlib import Path

from ramp_edge.evaluate.tasks.definitions import TaskDefinition
from ramp_edge.evaluate.tasks.files import find_task_files
from ramp_edge.evaluate.tasks.parse import load_task
from ramp_edge.evaluate.tasks.records import SuiteRun, TaskModel, TaskRun
from ramp_edge.evaluate.tasks.score import score_task
from ramp_edge.events import EventBus


def run_suite(
    model: TaskModel,
    tasks: tuple[TaskDefinition, ...],
    folder: Path,
    *,
    n_ctx: int,
    reference: TaskModel | None = None,
    limit: int | None = None,
    cache_dir: Path | None = None,
    threads: int | None = None,
    events: EventBus | None = None,
) -> SuiteRun:
    """Score all tasks. Every file is read and checked before the first model is loaded."""
    files = find_task_files(folder, tasks)
    data = [load_task(task, files[task.name], limit=limit) for task in tasks]

    def score(one: TaskModel) -> tuple[TaskRun, ...]:
        return tuple(
            score_task(
                one.path,
                part,
                model_sha256=one.sha256,
                n_ctx=n_ctx,
                cache_dir=cache_dir,
                label=one.label,
                threads=threads,
                events=events,
            )
            for part in data
        )

    return SuiteRun(
        model=model,
        reference=reference,
        limit=limit,
        reference_runs=() if reference is None else score(reference),
        runs=score(model),
    )
