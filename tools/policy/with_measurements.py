"""Training that measures a share of its episodes, one family left out; and what plans of that family measure: outline, kept and last actor."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ramp_edge.allocate.cases import ModelCase
from ramp_edge.allocate.scoring import MeasuredTruth
from ramp_edge.events import EventBus
from ramp_edge.train.correction import corrected
from ramp_edge.train.rollout import Arena
from ramp_edge.train.run import Training, TrainSettings, evaluation_tasks, outline_act

Act = Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float64]]


def measured_ratios(arena: Arena, act: Act, truth: MeasuredTruth) -> dict[str, list[float]]:
    """KL over the Fisher knapsack's of every task: by the table, and by real codecs and text."""
    rows = np.arange(len(arena.tasks))
    predicted, measured = arena.play(rows, act)[0], arena.play(rows, act, truth=replace(truth, share=1.0))[0]
    return {
        name: [float(v) for v in np.exp(of.log_ratio)]
        for name, of in (("predicted", predicted), ("measured", measured))
    }


def transfer_measured(
    cases: Sequence[ModelCase], family: str, settings: TrainSettings, truth: MeasuredTruth
) -> dict[str, Any]:
    """Train without `family`, then allocate its models."""
    curve: dict[str, list[list[float]]] = {}
    counted = 0

    def log(name: str, value: float, at: int) -> None:
        nonlocal counted
        if "evaluation/" in name or name.startswith("measured/"):
            curve.setdefault(name, []).append([at, value])
        if name == "measured/episodes":
            counted += int(value)

    taught = [c for c in cases if c.family != family]
    training = Training(taught, settings, EventBus(), _only(truth, taught))
    training.run(log)
    left_out = [c for c in cases if c.family == family and c.name in truth.models]
    plain = Arena(evaluation_tasks(left_out), settings.reward)
    arena = Arena(evaluation_tasks([corrected(c, training.correction) for c in left_out]), settings.reward)
    acts: Mapping[str, tuple[Arena, Act]] = {
        "outline": (plain, outline_act),
        "first_pass": (arena, outline_act),
        "kept": (arena, training.best_act),
        "last": (arena, training.act),
    }
    return {
        "family": family,
        "seed": settings.seed,
        "rounds": settings.rounds,
        "share": truth.share,
        "measured_episodes": counted,
        "cases": [task.name for task in arena.tasks],
        "curve": curve,
        **{name: measured_ratios(of, act, truth) for name, (of, act) in acts.items()},
    }


def _only(truth: MeasuredTruth, cases: Sequence[ModelCase]) -> MeasuredTruth:
    return replace(truth, models=truth.models & {c.name for c in cases})
