"""The knapsack distilled without any reinforcement: what foreseen KL lacks, by ridge regression on the features and the tensor's role."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ramp_edge.allocate.cases import ModelCase
from ramp_edge.allocate.prices import exact_plan, foreseen_kl
from ramp_edge.allocate.reference import reference_of
from ramp_edge.calibrate.feature_list import FEATURES
from ramp_edge.train.correction import CorrectionSettings, missing_kl, teach
from ramp_edge.train.run import evaluation_tasks

Float64 = npt.NDArray[np.float64]
RIDGES = (0.03, 0.3, 3.0)


def role(name: str) -> str:
    """What a tensor is, whatever its block."""
    return name.split(".")[2] if name.startswith("blk.") else name


def roles_of(cases: Sequence[ModelCase]) -> list[str]:
    """What tensors there are, whatever their block."""
    return sorted({role(n) for case in cases for n in case.names})


def centred_columns(case: ModelCase, roles: Sequence[str]) -> Float64:
    """[n_tensors, 11 + roles], centred by share of the weights."""
    own = np.array([[role(n) == one for one in roles] for n in case.names], np.float64)
    x = np.concatenate([case.features.astype(np.float64), own], axis=1)
    return np.asarray(x - case.share @ x, np.float64)


def ratios_with(case: ModelCase, correction: Float64) -> list[float]:
    """KL over the knapsack's, at the evaluated budgets, of the plan on foreseen KL times exp(correction [n_tensors])."""
    out = []
    for task in evaluation_tasks([case]):
        assert task.kl is not None
        plan = exact_plan(foreseen_kl(task) * np.exp(correction)[:, None], task)
        out.append(task.total(task.kl, plan) / reference_of(task).kl)
    return out


def distilled(cases: Sequence[ModelCase]) -> list[dict[str, Any]]:
    """Per strength of the ridge: ratios to the knapsack on the families learned from and on the one left out, over all families."""
    roles = roles_of(cases)
    out = []
    for ridge in RIDGES:
        learned: list[float] = []
        left_out: list[float] = []
        for family in sorted({c.family for c in cases}):
            taught = [c for c in cases if c.family != family]
            x = np.concatenate([centred_columns(c, roles) * np.sqrt(c.share)[:, None] for c in taught])
            y = np.concatenate([missing_kl(c) * np.sqrt(c.share) for c in taught])
            beta = np.linalg.solve(x.T @ x + ridge * np.eye(x.shape[1]), x.T @ y)
            for case in cases:
                (left_out if case.family == family else learned).extend(
                    ratios_with(case, centred_columns(case, roles) @ beta)
                )
        out.append({"ridge": ridge, "learned": learned, "left_out": left_out})
    return out


def feature_groups_out(cases: Sequence[ModelCase], seeds: int = 3) -> dict[str, list[float]]:
    """Ratios to the knapsack on the families left out, of the policy's first pass taught and asked without a group of features.

    What is foreseen stays as it is: it rests on the first feature, whatever the first pass sees.
    """
    out: dict[str, list[float]] = {}
    for without in (None, *dict.fromkeys(f.group for f in FEATURES)):
        kept = np.array([f.group != without for f in FEATURES], np.float32)
        found = out.setdefault(without or "nothing", [])
        for family in sorted({c.family for c in cases}):
            taught = [c for c in cases if c.family != family]
            for seed in range(seeds):
                network = teach(taught, CorrectionSettings(), seed, [c.features * kept for c in taught])
                for case in cases:
                    if case.family == family:
                        found += ratios_with(case, network.of(replace(case, features=case.features * kept)))
    return out
