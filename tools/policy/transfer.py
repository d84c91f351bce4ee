"""Leave one family out: train without it, allocate its models, and put rivals beside the policy. Predicted KL, over the Fisher knapsack's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from zoo.rivals import Rivals

from ramp_edge.allocate.cases import ModelCase, task_of
from ramp_edge.allocate.prices import exact_plan, foreseen_kl
from ramp_edge.allocate.reference import reference_of
from ramp_edge.allocate.reward import RewardWeights
from ramp_edge.events import EventBus
from ramp_edge.records import NOISE_SCALE
from ramp_edge.train.correction import corrected
from ramp_edge.train.rollout import Arena
from ramp_edge.train.run import EVALUATED_SHARES, Training, TrainSettings, evaluation_tasks, outline_act
from ramp_edge.train.tasks import budget_task

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


def knapsack_ratios(arena: Arena, tables: Mapping[str, Float64]) -> list[float]:
    """The knapsack on some other table of every model [n_tensors, n_types]: what its plan costs by the true table."""
    out = []
    for task, reference in zip(arena.tasks, arena.references, strict=True):
        assert task.kl is not None
        plan = exact_plan(np.where(task.legal, tables[task.name], np.nan), task)
        out.append(task.total(task.kl, plan) / reference.kl)
    return out


def ablation_tables(cases: Sequence[ModelCase]) -> dict[str, dict[str, Float64]]:
    """What the outline foresees, with parts of it left out."""
    usual = usual_errors(cases)

    def table(case: ModelCase, *, noise: bool, own_errors: bool) -> Float64:
        per_weight = np.exp(case.features[:, 0].astype(np.float64) / NOISE_SCALE) if noise else np.ones(len(case.names))
        errors = case.relative_kl if own_errors else np.where(np.isfinite(case.relative_kl), usual[case.family], np.nan)
        return np.asarray((per_weight * case.n_weights)[:, None] * errors, np.float64)

    return {
        "outline without each tensor's own type errors": {
            c.name: table(c, noise=True, own_errors=False) for c in cases
        },
        "outline without noise": {c.name: table(c, noise=False, own_errors=True) for c in cases},
    }


def usual_errors(cases: Sequence[ModelCase]) -> dict[str, Float64]:
    """Family -> geometric mean error of each type [n_types] over the tensors of all other families, or of its own where it is alone."""
    out = {}
    for family in {c.family for c in cases}:
        others = [c for c in cases if c.family != family] or cases
        logs = np.concatenate([np.log(c.relative_kl) for c in others])
        out[family] = np.exp(np.nanmean(logs, axis=0))
    return out


def preset_plans(case: ModelCase, seen: Rivals) -> dict[str, tuple[int, float]]:
    """Stock preset -> (bytes, predicted KL) of its types, all of them coded with error feedback; those whose types the table does not hold are left out."""
    sizes, rows = case.size_bytes(), np.arange(len(case.names))
    out = {}
    for name, columns in zip(seen.preset_names, seen.presets, strict=True):
        if (columns >= 0).all() and np.isfinite(case.kl[rows, columns]).all():
            out[name] = int(sizes[rows, columns].sum()), float(case.kl[rows, columns].sum())
    return out


def best_preset_ratios(cases: Sequence[ModelCase], seen: Mapping[str, Rivals], arena: Arena) -> list[float | None]:
    """The preset of least KL within each task's bytes, over the knapsack; None where none is small enough."""
    plans = {case.name: preset_plans(case, seen[case.name]).values() for case in cases}
    out: list[float | None] = []
    for task, reference in zip(arena.tasks, arena.references, strict=True):
        small_enough = [kl for size, kl in plans[task.name] if size <= task.max_bytes]
        out.append(min(small_enough) / reference.kl if small_enough else None)
    return out


def preset_comparison(cases: Sequence[ModelCase], seen: Mapping[str, Rivals]) -> list[dict[str, Any]]:
    """KL of knapsack and outline at every stock preset's bytes, over the preset's."""
    out = []
    for case in cases:
        for name, (size, kl) in preset_plans(case, seen[case.name]).items():
            task = task_of(case, size)
            assert task is not None and task.kl is not None
            outline = task.total(task.kl, exact_plan(foreseen_kl(task), task))
            out.append(
                {"case": case.name, "preset": name, "outline": outline / kl, "knapsack": reference_of(task).kl / kl}
            )
    return out


def allocation(case: ModelCase, share: float = EVALUATED_SHARES[1]) -> dict[str, Any]:
    """Bits of every tensor by knapsack and outline at one budget."""
    task = budget_task(case, share)
    assert task is not None
    bits = [t.bits_per_weight for t in case.types]
    plans = {"knapsack": reference_of(task).columns, "outline": exact_plan(foreseen_kl(task), task)}
    return {
        "case": case.name,
        "max_bytes": task.max_bytes,
        "names": list(case.names),
        **{who: [bits[c] for c in columns] for who, columns in plans.items()},
    }


def rivals(cases: Sequence[ModelCase], seen: Mapping[str, Rivals]) -> dict[str, Any]:
    """What needs no training, for every case: ratios at the evaluated budgets."""
    arena = Arena(evaluation_tasks(cases), RewardWeights())
    bits = 8 * arena.table.max_bytes / arena.table.rest_weights[:, 0]
    return {
        "best_preset": best_preset_ratios(cases, seen, arena),
        "imatrix": knapsack_ratios(arena, {name: of.imatrix for name, of in seen.items()}),
        "data_free": knapsack_ratios(arena, {name: of.data_free for name, of in seen.items()}),
        "ablations": {name: knapsack_ratios(arena, tables) for name, tables in ablation_tables(cases).items()},
        "presets": preset_comparison(cases, seen),
        "cases": [task.name for task in arena.tasks],
        "bits": [float(b) for b in bits],
        "random": random_ratios(arena, 0),
        "uniform": ratios(arena, uniform_act),
        "evolutionary": evolved_ratios(arena, 0),
        "outline": ratios(arena, outline_act),
        "teacher": ratios(arena, None),
    }


def transfer(cases: Sequence[ModelCase], family: str, settings: TrainSettings, label: str = "") -> dict[str, Any]:
    """Train without `family`, then allocate its models: with the last actor and with the one that its training cases like best."""
    curve: dict[str, list[list[float]]] = {}
    training = Training([c for c in cases if c.family != family], settings, EventBus())

    def log(name: str, value: float, at: int) -> None:
        if name.startswith(("evaluation/", "episode/")):
            curve.setdefault(name, []).append([at, value])

    training.run(log)
    left_out = [corrected(c, training.correction) for c in cases if c.family == family]
    arena = Arena(evaluation_tasks(left_out), RewardWeights())
    return {
        "label": label,
        "family": family,
        "seed": settings.seed,
        "rounds": settings.rounds,
        "cases": [task.name for task in arena.tasks],
        "first_pass": ratios(arena, outline_act),
        "last": ratios(arena, training.act),
        "kept": ratios(arena, training.best_act),
        "curve": curve,
    }
