"""Leave one family out: train without it, allocate its models, and put rivals beside the policy. Predicted KL, over the Fisher knapsack's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ramp_edge.allocate.cases import ModelCase
from ramp_edge.allocate.reward import RewardWeights
from ramp_edge.events import EventBus
from ramp_edge.train.rollout import Arena
from ramp_edge.train.run import Training, TrainSettings, evaluation_tasks, outline_act

Float32, Float64 = npt.NDArray[np.float32], npt.NDArray[np.float64]
RANDOM_PLANS = 20
EVOLVED_PLANS = 200
"""Table look-ups of an evolutionary search, one parent, one child at a time."""
_MUTATED_SHARE, _MUTATION = 0.1, 0.15


def ratios(arena: Arena, act: Callable[[Float32], Float64] | None) -> list[float]:
    """KL over the knapsack's of every task."""
    outcome, _ = arena.play(np.arange(len(arena.tasks)), act)
    return [float(v) for v in np.exp(outcome.log_ratio)]


def uniform_act(states: Float32) -> Float64:
    """The bits that are left, for whatever tensor: uniform as far as types allow."""
    from ramp_edge.allocate.episode import N_FEATURES, STATE_NAMES

    left = states[:, N_FEATURES + STATE_NAMES.index("left")].astype(np.float64)
    return np.asarray((0.5 * (left + 1.0)).clip(0.0, 1.0), np.float64)


class _Fixed:
    """Actions [n_tasks, n_tensors], one column a step."""

    def __init__(self, actions: Float64) -> None:
        self._actions, self._at = actions, 0

    def __call__(self, states: Float32) -> Float64:
        self._at += 1
        return self._actions[:, self._at - 1]


def random_ratios(arena: Arena, seed: int) -> list[float]:
    """Geometric mean over RANDOM_PLANS plans of random bits."""
    rng = np.random.default_rng(seed)
    shape = arena.table.legal.shape[:2]
    logs = [np.log(ratios(arena, _Fixed(rng.random(shape)))) for _ in range(RANDOM_PLANS)]
    return [float(v) for v in np.exp(np.mean(logs, axis=0))]


def evolved_ratios(arena: Arena, seed: int) -> list[float]:
    """Best of a (1 + 1) search from uniform bits: it sees the true table, but only whole plans of it."""
    rng = np.random.default_rng(seed)
    n, most = arena.table.legal.shape[:2]
    budget = 8 * arena.table.max_bytes / arena.table.rest_weights[:, 0]
    best = np.repeat(((budget - 1.5) / 7.0)[:, None], most, axis=1)
    score = np.array(ratios(arena, _Fixed(best)))
    for _ in range(EVOLVED_PLANS):
        child = best + _MUTATION * rng.standard_normal((n, most)) * (rng.random((n, most)) < _MUTATED_SHARE)
        found = np.array(ratios(arena, _Fixed(child)))
        better = found < score
        best[better], score[better] = child[better], found[better]
    return [float(v) for v in score]


def rivals(cases: Sequence[ModelCase]) -> dict[str, Any]:
    """What needs no training, for every case: ratios at the evaluated budgets."""
    arena = Arena(evaluation_tasks(cases), RewardWeights())
    bits = 8 * arena.table.max_bytes / arena.table.rest_weights[:, 0]
    return {
        "cases": [task.name for task in arena.tasks],
        "bits": [float(b) for b in bits],
        "random": random_ratios(arena, 0),
        "uniform": ratios(arena, uniform_act),
        "evolutionary": evolved_ratios(arena, 0),
        "outline": ratios(arena, outline_act),
        "teacher": ratios(arena, None),
    }


def transfer(cases: Sequence[ModelCase], family: str, settings: TrainSettings) -> dict[str, Any]:
    """Train without `family`, then allocate its models: with the last actor and with the one that its training cases like best."""
    curve: dict[str, list[list[float]]] = {}
    training = Training([c for c in cases if c.family != family], settings, EventBus())

    def log(name: str, value: float, at: int) -> None:
        if name.startswith(("evaluation/", "episode/")):
            curve.setdefault(name, []).append([at, value])

    training.run(log)
    arena = Arena(evaluation_tasks([c for c in cases if c.family == family]), RewardWeights())
    last = ratios(arena, training.act)
    training.sac.actor.load_state_dict(dict(training.best_actor()))
    return {
        "family": family,
        "seed": settings.seed,
        "rounds": settings.rounds,
        "cases": [task.name for task in arena.tasks],
        "last": last,
        "kept": ratios(arena, training.act),
        "curve": curve,
    }
