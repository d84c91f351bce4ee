"""The policy as an allocator of a build: features and limits in, a plan out; no table, no gradients, no torch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from ramp_edge.allocate.cases import Task, reserve_plan
from ramp_edge.allocate.policy import Policy, allocate, load_policy
from ramp_edge.codec.types import QuantType
from ramp_edge.pipeline.budget import SPEED_GUARD, fixed_seconds, memory_for
from ramp_edge.pipeline.candidates import Allocator, Problem
from ramp_edge.profile.speed import tensor_seconds
from ramp_edge.records import Allocation, ModelFeatures

ORIGIN = "ramp"
_ATTEMPTS = 12


def ramp_allocator(features: ModelFeatures, policy: Path | None = None) -> Allocator:
    """The allocator of a model's features; `policy` names a trained file, without it the outline decides. Raises PolicyFileError."""
    return partial(_propose, features, None if policy is None else load_policy(policy))


def _propose(features: ModelFeatures, policy: Policy | None, problem: Problem) -> Sequence[Allocation]:
    limits, inventory = problem.limits, problem.inventory
    kept = sum(t.source_bytes for t in inventory.tensors if not t.quantizable)
    room = limits.max_weight_bytes - kept
    seconds = [limits.max_decode_seconds - fixed_seconds(inventory, problem.target, limits)]
    if limits.speed_guard:
        seconds.insert(0, room / (problem.target.bandwidth_effective_bytes_s * SPEED_GUARD))
    for limit in seconds:
        types = _fill(features, policy, problem, room, limit)
        if types is not None:
            known = problem.table.kl.keys() >= types.keys()
            return (
                Allocation(origin=ORIGIN, types=types, predicted_kl=problem.predicted_kl(types) if known else None),
            )
    return ()


def _fill(
    features: ModelFeatures, policy: Policy | None, problem: Problem, room: int, seconds: float
) -> dict[str, QuantType] | None:
    """Decide, then tighten the bytes until file size and resident memory hold as well."""
    limits = problem.limits
    for _ in range(_ATTEMPTS):
        task = task_for(features, problem, room, seconds)
        if task is None:
            return None
        types = allocate(policy, task)
        over = -memory_for(problem.inventory, types, problem.target, limits).free_bytes
        if limits.max_file_bytes is not None:
            over = max(over, problem.file_bytes(types) - limits.max_file_bytes)
        if over <= 0:
            return types
        room = min(room, int(sum(problem.legal[n].size_bytes(t) for n, t in types.items()))) - over
    return None


def task_for(features: ModelFeatures, problem: Problem, max_bytes: int, max_seconds: float) -> Task | None:
    """A build's question to the policy; None where no plan keeps both limits."""
    infos = [problem.legal[name].tensor for name in features.names]
    types = tuple(
        sorted({t for entry in problem.legal.values() for t in entry.types}, key=lambda t: (t.bits_per_weight, int(t)))
    )
    legal = np.array([[t in problem.legal[i.name].types for t in types] for i in infos])
    size, seconds = np.zeros(legal.shape, np.int64), np.zeros(legal.shape)
    tied = problem.inventory.tied_embedding
    for row, info in enumerate(infos):
        for column in np.flatnonzero(legal[row]):
            size[row, column] = problem.legal[info.name].size_bytes(types[column])
            seconds[row, column] = tensor_seconds(info, types[column], problem.target, tied=tied)
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
        kl=None,
        max_bytes=max_bytes,
        max_seconds=max_seconds,
        reserve=reserve,
    )
