"""The result of `ramp-edge eval --tasks` as a table and as JSON.

JSON history. Version 1: first.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ramp_edge.evaluate.evaluator import engine_version
from ramp_edge.evaluate.tasks.accuracy import accuracy
from ramp_edge.evaluate.tasks.definitions import Metric
from ramp_edge.evaluate.tasks.paired import average_accuracy, compare, compare_averages
from ramp_edge.evaluate.tasks.records import Accuracy, AverageAccuracy, Interval, SuiteRun, TaskModel, TaskRun
from ramp_edge.units import human_bytes, human_seconds

SCHEMA_VERSION = 1
_SAMPLE_RULE = "item floor(i * n_available / limit) for i = 0 ... limit - 1"


def suite_record(suite: SuiteRun) -> dict[str, Any]:
    """Everything that was measured, ready for JSON."""
    tasks = []
    for i, run in enumerate(suite.runs):
        data = run.data
        other = suite.reference_runs[i] if suite.reference_runs else None
        tasks.append(
            {
                "task": data.definition.name,
                "headline": data.definition.headline.value,
                "file": str(data.path),
                "file_sha256": data.sha256,
                "n_items": len(data.items),
                "n_available": data.n_available,
                "model": _run_record(run),
                "reference": None if other is None else _run_record(other),
                "comparison": None
                if other is None
                else {metric.value: asdict(compare(run, other, metric)) for metric in data.definition.metrics},
            }
        )
    references = suite.reference_runs
    return {
        "schema_version": SCHEMA_VERSION,
        "engine": engine_version(),
        "limit": suite.limit,
        "sample": "all items" if suite.limit is None else _SAMPLE_RULE,
        "interval": "95 %",
        "model": _model_record(suite.model),
        "reference": None if suite.reference is None else _model_record(suite.reference),
        "tasks": tasks,
        "average": {
            "model": asdict(average_accuracy(suite.runs)),
            "reference": asdict(average_accuracy(references)) if references else None,
            "comparison": asdict(compare_averages(suite.runs, references)) if references else None,
        },
    }


def _model_record(model: TaskModel) -> dict[str, Any]:
    return {**asdict(model), "path": str(model.path)}


def _run_record(run: TaskRun) -> dict[str, Any]:
    return {
        "n_ctx": run.n_ctx,
        "n_cut": sum(score.cut for score in run.scores),
        "n_evaluated": run.n_evaluated,
        "seconds": run.seconds,
        "accuracy": {metric.value: asdict(accuracy(run, metric)) for metric in run.data.definition.metrics},
    }


def suite_lines(suite: SuiteRun) -> list[str]:
    """The table, one line a task and metric, headline first."""
    title = f"{suite.model.label} ({human_bytes(suite.model.file_bytes)})"
    if suite.reference is not None:
        title += f" against {suite.reference.label} ({human_bytes(suite.reference.file_bytes)})"
    headings = ["accuracy"]
    if suite.reference is not None:
        headings += ["reference", "difference", "retention", "changed"]
    lines = [title, "", _row("task", "items", "metric", *headings)]
    for i, run in enumerate(suite.runs):
        other = suite.reference_runs[i] if suite.reference_runs else None
        lines.extend(_task_line(run, other, metric) for metric in run.data.definition.metrics)
    if len(suite.runs) > 1:
        lines.append(_average_line(suite))
    lines.append("")
    lines.append("  percent +- binomial standard error; first line of a task: its headline (docs/commonsense.md)")
    if suite.reference is not None:
        lines.append("  [95 % intervals] over paired items; changed: items that the two answer differently")
    if suite.limit is not None:
        lines.append(f"  at most {suite.limit} items of a task, evenly spread over its file")
    lines.extend(_notes(suite))
    return lines


def _task_line(run: TaskRun, other: TaskRun | None, metric: Metric) -> str:
    data = run.data
    first = metric is data.definition.headline
    n, available = len(data.items), data.n_available
    items = "" if not first else str(n) if n == available else f"{n} of {available}"
    columns = [data.definition.name if first else "", items, metric.value, _percent(accuracy(run, metric))]
    if other is not None:
        found = compare(run, other, metric)
        columns += [
            _percent(accuracy(other, metric)),
            _difference(found.difference),
            _retention(found.retention),
            f"{100 * found.changed:.1f}",
        ]
    return _row(*columns)


def _average_line(suite: SuiteRun) -> str:
    columns = ["average", f"{len(suite.runs)} tasks", "headline", _percent(average_accuracy(suite.runs))]
    if suite.reference_runs:
        found = compare_averages(suite.runs, suite.reference_runs)
        columns += [
            _percent(average_accuracy(suite.reference_runs)),
            _difference(found.difference),
            _retention(found.retention),
        ]
    return _row(*columns)


def _notes(suite: SuiteRun) -> list[str]:
    notes = []
    for run in suite.runs:
        n_cut = sum(score.cut for score in run.scores)
        if n_cut:
            notes.append(
                f"  {run.data.definition.name}: {n_cut} items are longer than {run.n_ctx} tokens and lost their beginning"
            )
    runs = (*suite.reference_runs, *suite.runs)
    n_evaluated, n_all = sum(run.n_evaluated for run in runs), sum(len(run.scores) for run in runs)
    seconds = sum(run.seconds for run in runs if run.n_evaluated)
    speed = f", {n_evaluated / seconds:.1f} a second" if n_evaluated else ""
    notes.append(
        f"  {n_evaluated} items evaluated in {human_seconds(seconds)}{speed}; {n_all - n_evaluated} from the cache"
    )
    return notes


def _row(task: str, items: str, metric: str, *columns: str) -> str:
    widths = (16, 16, 24, 24, 7)
    cells = "".join(f"{column:<{width}}" for column, width in zip(columns, widths, strict=False))
    return f"  {task:<15}{items:<15}{metric:<11}{cells}".rstrip()


def _percent(result: Accuracy | AverageAccuracy) -> str:
    return f"{100 * result.value:.2f} +- {100 * result.std_error:.2f}"


def _difference(interval: Interval) -> str:
    return f"{100 * interval.value:+.2f} [{100 * interval.low:+.2f}, {100 * interval.high:+.2f}]"


def _retention(interval: Interval | None) -> str:
    if interval is None:
        return "-"
    return f"{100 * interval.value:.1f} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"
