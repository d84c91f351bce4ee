"""The policy as an allocator of a build: features and limits in, a plan out; no table, no gradients, no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from ramp_edge.allocate.cases import Task, reserve_plan
from ramp_edge.allocate.policy import Policy, allocate
from ramp_edge.codec.types import QuantType
from ramp_edge.pipeline.candidates import Allocator, Problem, within_limits
from ramp_edge.profile.speed import tensor_seconds
from ramp_edge.records import Allocation, ErrorTable, ModelFeatures, ModelInventory

ORIGIN = "ramp"


def ramp_allocator(features: ModelFeatures, policy: Policy | None = None) -> Allocator:
    """The allocator of a model's features; without a policy the outline decides."""
    return partial(_propose, features, policy)


def foreseen_table(features: ModelFeatures, inventory: ModelInventory, policy: Policy | None) -> ErrorTable:
    """Predicted KL from forward passes alone, as the policy has it."""
    if policy is not None:
        n_weights = np.array([inventory.tensor(name).n_elements for name in features.names], np.int64)
        features = replace(features, relative_kl=policy.corrected(features.values, n_weights, features.relative_kl))
    return features.foreseen()


def _propose(features: ModelFeatures, policy: Policy | None, problem: Problem) -> Sequence[Allocation]:
    def types_within(max_bytes: int, max_seconds: float) -> dict[str, QuantType] | None:
        task = task_for(features, problem, max_bytes, max_seconds)
        return None if task is None else allocate(policy, task)

    types = within_limits(problem, types_within)
    if types is None:
        return ()
    return (Allocation(origin=ORIGIN, types=types, predicted_kl=problem.predicted_kl(types)),)


def task_for(features: ModelFeatures, problem: Problem, max_bytes: int, max_seconds: float) -> Task | None:
    """A build's question to the policy; None where no plan keeps both limits."""
    infos = [problem.legal[name].tensor for name in features.names]
    types = features.types
    legal = np.array([[t in problem.legal[i.name].types for t in types] for i in infos])
    size, seconds = np.zeros(legal.shape, np.int64), np.zeros(legal.shape)
    tied, target = problem.inventory.tied_embedding, problem.running
    for row, info in enumerate(infos):
        for column in np.flatnonzero(legal[row]):
            size[row, column] = problem.legal[info.name].size_bytes(types[column])
            seconds[row, column] = tensor_seconds(info, types[column], target, tied=tied)
    # F16 is no step of the policy's: it has nothing to gain over Q8_0 that a budget would notice.
    floats = np.array([t.is_float for t in types])
    coded = legal & ~floats[None, :]
    legal = np.where(coded.any(axis=1)[:, None], coded, legal)
    reserve = reserve_plan(size, seconds, legal, max_bytes, max_seconds)
    if reserve is None:
        return None
    return Task(
        name=problem.inventory.display_name,
        names=features.names,
        features=features.values,
        n_weights=np.array([i.n_elements for i in infos], np.int64),
        types=types,
        legal=legal,
        size_bytes=size,
        seconds=seconds,
        relative_kl=features.relative_kl,
        kl=None,
        max_bytes=max_bytes,
        max_seconds=max_seconds,
        reserve=reserve,
    )
