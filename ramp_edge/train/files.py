"""A training run's folder: cases in, checkpoint, TensorBoard logs and the policy out."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from ramp_edge import __version__
from ramp_edge.allocate.cases import ModelCase, load_case
from ramp_edge.allocate.scoring import MeasuredTruth
from ramp_edge.errors import PolicyFileError, UsageError
from ramp_edge.events import EventBus
from ramp_edge.train.onnx_file import write_policy
from ramp_edge.train.run import Training, TrainSettings, outline_act

CHECKPOINT_FILE = "checkpoint.pt"


def read_cases(paths: Sequence[Path]) -> list[ModelCase]:
    """Cases of files and of folders of .npz files. Raises PolicyFileError for what is none, UsageError where there are none."""
    files = [f for p in paths for f in (sorted(p.glob("*.npz")) if p.is_dir() else [p])]
    if not files:
        raise UsageError(
            f"{', '.join(map(str, paths)) or 'no path'}: no cases (.npz) to learn from",
            hint="tools/build_zoo.py calibrate writes them",
        )
    cases = []
    for file in files:
        try:
            cases.append(load_case(file))
        except FileNotFoundError:
            raise PolicyFileError(f"{file}: no such file", hint="tools/build_zoo.py calibrate writes cases") from None
        except Exception as error:  # numpy lets errors of zip and header parsers through
            raise PolicyFileError(
                f"{file} is no case: {error}", hint="tools/build_zoo.py calibrate writes cases"
            ) from error
    if len({case.types for case in cases}) > 1:
        raise UsageError("the cases list different types", hint="calibrate all of them for the same device")
    return cases


def train(
    cases: Sequence[ModelCase],
    settings: TrainSettings,
    folder: Path,
    output: Path,
    events: EventBus,
    *,
    resume: bool,
    truth: MeasuredTruth | None = None,
) -> dict[str, object]:
    """Train to the end, or go on from the folder's checkpoint; writes the policy and returns its record.

    With `truth` its share of the episodes after the demonstrations is measured, and measurements decide which actor is kept.
    """
    from torch.utils.tensorboard.writer import SummaryWriter

    folder.mkdir(parents=True, exist_ok=True)
    training = Training(cases, settings, events, truth)
    checkpoint = folder / CHECKPOINT_FILE
    if resume:
        if not checkpoint.exists():
            raise UsageError(f"{folder} holds no checkpoint", hint="leave --resume out to start afresh")
        training.resume(checkpoint)
    writer = SummaryWriter(str(folder), purge_step=training.round)
    try:
        training.run(writer.add_scalar, checkpoint)
    finally:
        writer.close()
    scores = {
        "policy": training.scores(training.best_act),
        "first pass": training.scores(outline_act),
        "outline": training.scores(outline_act, plain=True),
        "teacher": training.scores(None),
    }
    record: dict[str, object] = {
        "ramp_edge": __version__,
        "commit": _commit(),
        "cases": [{"name": c.name, "family": c.family, "tensors": len(c.names)} for c in cases],
        "settings": asdict(settings),
        "kl_over_knapsack": {name: asdict(predicted) for name, (predicted, _) in scores.items()},
    }
    if truth is not None:
        record["measured"] = {"models": sorted(truth.models), "share_of_episodes": truth.share}
        record["measured_kl_over_knapsack"] = {n: asdict(m) for n, (_, m) in scores.items() if m is not None}
    write_policy(output, training.weights(), record)
    return record


def _commit() -> str | None:
    """Of the checkout that this is, if it is one."""
    words = ["git", "-C", str(Path(__file__).resolve().parent), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
