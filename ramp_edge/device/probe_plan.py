"""What a probe times beside what, how often, and with what in the KV cache."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from ramp_edge.device.probe_models import EMPTY, Filling, ProbeModels, TimedModel

FILLED_DEPTH = 512
"""Positions in a filled KV cache: enough to be a good part of a token's time in models of many layers, few enough to be soon there."""
SHAPE_ROUNDS = 2
"""Rounds of the models of Q8_0, in rounds of a type: an error in one of these few enters every prediction."""

Group = Literal["beyond", "within", "kv", "types", "tall", "in_cache"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One model in turns with its base, once for each filling of its KV cache."""

    group: Group
    base: TimedModel
    model: TimedModel
    fillings: tuple[Filling, ...] = (EMPTY,)
    rounds: int
    prefill: bool = False
    """Whether prefill is timed as well."""


def jobs(models: ProbeModels, cache_bytes: int, rounds: int) -> Iterator[Job]:
    """Everything, in order; each model is made when its turn comes.

    What the last cache holds is timed beside the cached model, all else, and without such a cache everything, beside the wide one.
    """
    inside = models.cached.matrix_bytes <= cache_bytes
    wide, often = models.wide, SHAPE_ROUNDS * rounds
    small_base = models.cached if inside else wide
    filled = Filling(depth=FILLED_DEPTH)
    kv = tuple(Filling(depth=FILLED_DEPTH, kv_type=kind) for kind in models.kv_types)
    for model, fillings in ((wide, (EMPTY,)), (models.tall, (EMPTY,)), (models.deep, (EMPTY, filled))):
        yield Job(group="beyond", base=wide, model=model, fillings=fillings, rounds=often)
    yield Job(group="kv", base=wide, model=models.deep, fillings=kv, rounds=rounds)
    for model, fillings in ((models.cached, (EMPTY,)), (models.small, (EMPTY,)), (models.small_deep, (EMPTY, filled))):
        yield Job(group="within", base=small_base, model=model, fillings=fillings, rounds=often)
    for model in models.types:
        yield Job(group="types", base=wide, model=model, rounds=rounds, prefill=True)
    for model in models.types_tall:
        yield Job(group="tall", base=wide, model=model, rounds=rounds)
    for model in models.types_in_cache if inside else ():
        if model.matrix_bytes <= cache_bytes:
            yield Job(group="in_cache", base=models.cached, model=model, rounds=rounds)


def most_turns(models: ProbeModels, cache_bytes: int) -> int:
    """Fillings of all jobs, for a progress bar; fewer where the cache does not hold every type."""
    return 8 + len(models.kv_types) + models.n_types * (3 if models.cached.matrix_bytes <= cache_bytes else 2)
