"""Measurements of each kind of record, by metric name."""

from __future__ import annotations

import math
from pathlib import Path

from ramp_edge.gate.documents import (
    BenchDocument,
    BenchModelPart,
    BuildDocument,
    EvaluationPart,
    ItemsPart,
    SpeedPart,
    TaskPart,
    TasksDocument,
)
from ramp_edge.gate.metrics import at_depth
from ramp_edge.gate.subject import Condition, Measurement

Found = dict[str, Measurement]
_ENGINE = "llama-cpp-python"


def build_measurements(document: BuildDocument, path: Path) -> Found:
    """What a build knows of its file: sizes are exact, predictions are computed, quality was measured on held-out text."""
    plan: dict[str, Condition] = {"context": document.model.ctx, "KV type": document.model.kv_type}

    def exact(value: float, conditions: dict[str, Condition] | None = None) -> Measurement:
        return Measurement(value=value, noise=0.0, path=path, conditions=conditions or {})

    found = {
        "size_bytes": exact(document.file_bytes),
        "bits_per_weight": exact(document.bits_per_weight),
        "resident_bytes": exact(document.memory.total_bytes, plan),
        "free_bytes": exact(document.memory.free_bytes, plan),
        "predicted_decode_tok_s": exact(document.predicted_decode_tok_s, plan),
    }
    for line in document.memory.lines:
        found[f"resident_bytes.{line.name}"] = exact(line.size_bytes, plan)
    if document.predicted_kl is not None:
        found["predicted_kl"] = exact(document.predicted_kl)
    if document.evaluation is not None:
        engine = document.versions.get(_ENGINE)
        found |= _quality(document.evaluation, document.reference, engine, path)
    return found


def _quality(result: EvaluationPart, reference: EvaluationPart | None, engine: str | None, path: Path) -> Found:
    p = result.perplexity
    conditions: dict[str, Condition] = {
        "evaluated tokens": p.n_tokens,
        "evaluated windows": p.n_windows,
        "reference's perplexity": None if reference is None else reference.perplexity.value,
        _ENGINE: engine,
    }

    def measured(value: float, noise: float | None = None) -> Measurement:
        return Measurement(value=value, noise=noise, path=path, conditions=conditions)

    found = {"ppl": measured(p.value, p.std_error)}
    if reference is not None:
        found["ppl_ratio"] = measured(p.value / reference.perplexity.value)
    if (d := result.divergence) is not None:
        found["kl_mean"] = measured(d.mean_kl, d.std_error)
        found["kl_median"] = measured(d.median_kl)
        found["kl_p99"] = measured(d.p99_kl)
        found["top_token_agreement"] = measured(d.top_token_agreement)
    return found


def bench_measurements(document: BenchDocument, model: BenchModelPart, path: Path) -> Found:
    """What was measured of one model on a board."""
    facts = document.facts_before
    board: dict[str, Condition] = {
        "runtime commit": document.runtime_commit,
        "backends": document.backends,
        "machine": facts.machine,
        "board": facts.board_model,
        "CPU": facts.cpu_model,
        "GPU": facts.gpu_model,
        "usable cores": facts.usable_cores,
        "power mode": facts.power_mode,
        "governors": ", ".join(sorted(facts.governors)),
        "exec_prefix": " ".join(document.exec_prefix),
        "KV type": model.kv_type,
    }

    def measured(value: float, noise: float | None, **more: Condition) -> Measurement:
        return Measurement(value=value, noise=noise, path=path, conditions={**board, **more})

    found: Found = {}
    for kind, speeds in (("decode", model.decode), ("prefill", model.prefill)):
        for speed in speeds:
            for name, (value, noise) in _speed(speed).items():
                metric = at_depth(f"{kind}_tok_s.{name}", speed.depth_tokens)
                found[metric] = measured(value, noise, threads=speed.threads)
            if speed.energy_j_per_token is not None:
                energy = at_depth("energy_j_per_token", speed.depth_tokens)
                found[energy] = measured(speed.energy_j_per_token, None, threads=speed.threads)
    for use in model.memory:
        # Memory is counted, not timed: it does not scatter as time does.
        for name, amount, noise in (
            ("peak_resident_bytes", use.peak_resident_bytes, 0.0),
            ("peak_anonymous_bytes", use.peak_anonymous_bytes, 0.0),
            ("load_s", use.load_s, None),
        ):
            if amount is not None:
                found[f"{name}.{use.load_mode}"] = measured(amount, noise, context=use.n_ctx)
    if model.perplexity is not None:
        found["board_ppl_error"] = measured(abs(model.perplexity.board / model.perplexity.host - 1), None)
    if model.prediction is not None and model.prediction.measured_tok_s is not None:
        ratio = model.prediction.measured_tok_s / model.prediction.decode_tok_s
        found["measured_over_predicted"] = measured(ratio, None, depth=model.prediction.depth_tokens)
    return found


def _speed(speed: SpeedPart) -> dict[str, tuple[float, float | None]]:
    samples = speed.samples_tok_s
    # One sample says nothing of its noise.
    noise = (max(samples) - min(samples)) / 2 if len(samples) > 1 else None
    return {
        "median": (speed.median_tok_s, noise),
        "min": (min(samples), None),
        "max": (max(samples), None),
        "spread": (speed.spread, None),
    }


def tasks_measurements(document: TasksDocument, path: Path) -> Found:
    """Accuracies, and where there was a reference what became of its accuracy."""
    found: Found = {}
    everything: dict[str, Condition] = {"engine": document.engine}
    for task in document.tasks:
        conditions = _task_conditions(document, task)
        everything[task.task] = " ".join(str(value) for value in conditions.values())

        def measured(result: ItemsPart, conditions: dict[str, Condition] = conditions) -> Measurement:
            return Measurement(value=result.value, noise=_binomial_noise(result), path=path, conditions=conditions)

        for name, result in task.model.accuracy.items():
            found[f"accuracy.{task.task}.{name}"] = measured(result)
            if name == task.headline:
                found[f"accuracy.{task.task}"] = measured(result)
        comparison = (task.comparison or {}).get(task.headline)
        if comparison is not None:
            retained = None if comparison.retention is None else comparison.retention.value
            found |= _relative(task.task, comparison.difference.value, retained, path, conditions)
    average = document.average
    found["accuracy.average"] = Measurement(
        value=average.model.value, noise=average.model.std_error, path=path, conditions=everything
    )
    if average.comparison is not None:
        retained = None if average.comparison.retention is None else average.comparison.retention.value
        found |= _relative("average", average.comparison.difference.value, retained, path, everything)
    return found


def _binomial_noise(result: ItemsPart) -> float:
    """The standard error; where all or no answers are right it would be 0, so one more of each kind is assumed."""
    n = result.n_items + 2
    share = (result.value * result.n_items + 1) / n
    return max(result.std_error, math.sqrt(share * (1 - share) / n)) if share < 1 else result.std_error


def _task_conditions(document: TasksDocument, task: TaskPart) -> dict[str, Condition]:
    return {
        "engine": document.engine,
        "task file": task.file_sha256[:12],
        "items": task.n_items,
        "context": task.model.n_ctx,
        "headline": task.headline,
    }


def _relative(name: str, change: float, retained: float | None, path: Path, conditions: dict[str, Condition]) -> Found:
    found = {f"accuracy_change.{name}": Measurement(value=change, noise=None, path=path, conditions=conditions)}
    if retained is not None:
        found[f"retention.{name}"] = Measurement(value=retained, noise=None, path=path, conditions=conditions)
    return found
