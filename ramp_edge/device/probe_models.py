"""What a probe times, and what came of it: models in two parts, rounds in turns with a model of Q8_0, seconds."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass

from ramp_edge.codec.types import QuantType
from ramp_edge.device.bench_records import spread
from ramp_edge.device.speed_fit import Timing


@dataclass(frozen=True, kw_only=True, slots=True)
class TimedModel:
    """A model in two parts: `head` once, then `strip` `repeats` times."""

    name: str
    quant_type: QuantType
    head: bytes
    strip: bytes
    repeats: int
    n_layer: int
    n_output_rows: int
    """Of the output matrix: its vocabulary."""

    @property
    def matrix_bytes(self) -> int:
        """What a decoded token reads."""
        return self.repeats * len(self.strip)

    @property
    def file_bytes(self) -> int:
        return len(self.head) + self.matrix_bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeModels:
    """What is timed. The iterators make each other type's model when its turn comes."""

    wide: TimedModel
    """Of Q8_0, beyond every cache."""
    shapes: tuple[TimedModel, ...]
    """Further ones of Q8_0."""
    cached: TimedModel
    """Of Q8_0, one that a cache may hold."""
    types: Iterator[TimedModel]
    """As wide as `wide`."""
    types_tall: Iterator[TimedModel]
    """Of few layers and many words; the one of Q8_0 is among the shapes."""
    types_in_cache: Iterator[TimedModel]
    """Of the shape of `cached`."""
    n_types: int


@dataclass(frozen=True, kw_only=True, slots=True)
class TypeSpeed:
    """One model beside another of Q8_0: the wide one, or in the cache the cached one."""

    quant_type: QuantType
    decode: Timing
    """Seconds: the wide Q8_0 model's median over the whole probe times the median paired ratio."""
    decode_spread: float
    """Of the paired ratios: (max - min) / median."""
    prefill_ratio: float
    """Tokens per second of prefill over those of the Q8_0 model."""
    repacks: bool
    """llama.cpp keeps a second copy of the weights in another order."""


Placed = tuple[TimedModel, str]
"""A model and its file on the board."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Turns:
    """Rounds of a model and a base."""

    model: TimedModel
    base_seconds: tuple[float, ...]
    """Per decoded token."""
    decode_ratios: tuple[float, ...]
    """Seconds over the base's."""
    prefill_ratio: float
    repacks: bool

    @property
    def decode_ratio(self) -> float:
        return statistics.median(self.decode_ratios)

    def speed(self, base_s: float) -> TypeSpeed:
        """What it comes to where the base takes `base_s` a token."""
        timing = Timing(
            matrix_bytes=self.model.matrix_bytes,
            n_layer=self.model.n_layer,
            n_output_rows=self.model.n_output_rows,
            seconds=base_s * self.decode_ratio,
        )
        return TypeSpeed(
            quant_type=self.model.quant_type,
            decode=timing,
            decode_spread=spread(self.decode_ratios),
            prefill_ratio=self.prefill_ratio,
            repacks=self.repacks,
        )
