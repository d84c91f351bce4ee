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
    kv_values: int
    """Keys and values of one position in all layers. Every query head has its own, so these are multiply-adds as well."""

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
    deep: TimedModel
    tall: TimedModel
    """Further ones of Q8_0 beyond every cache: of many layers, and of many words."""
    cached: TimedModel
    """Of Q8_0, one that a cache may hold."""
    small: TimedModel
    small_deep: TimedModel
    """Further ones that a cache may hold."""
    types: Iterator[TimedModel]
    """As wide as `wide`."""
    types_tall: Iterator[TimedModel]
    """Of few layers and many words; the one of Q8_0 is among the shapes."""
    types_in_cache: Iterator[TimedModel]
    """Of the shape of `cached`."""
    n_types: int
    kv_types: tuple[QuantType, ...]
    """Of a filled KV cache, beside F16."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Filling:
    """What the KV cache holds while tokens are decoded."""

    kv_type: QuantType = QuantType.F16
    depth: int = 0
    """Positions before the first token."""


EMPTY = Filling()


@dataclass(frozen=True, kw_only=True, slots=True)
class TypeSpeed:
    """One model beside another of Q8_0: the wide one, or in the cache the cached one."""

    quant_type: QuantType
    filling: Filling
    decode: Timing
    """Seconds: the other model's median over the whole probe times the median paired ratio."""
    decode_spread: float
    """Of the paired ratios: (max - min) / median."""
    prefill_ratio: float | None
    """Tokens per second of prefill over those of the Q8_0 model; None where that was not asked."""
    repacks: bool
    """llama.cpp keeps a second copy of the weights in another order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Turns:
    """Rounds of a model and a base."""

    model: TimedModel
    filling: Filling
    n_gen: int
    """Tokens of a repeat."""
    base_seconds: tuple[float, ...]
    """Per decoded token."""
    decode_ratios: tuple[float, ...]
    """Seconds over the base's."""
    prefill_ratio: float | None
    repacks: bool

    @property
    def decode_ratio(self) -> float:
        return statistics.median(self.decode_ratios)

    def speed(self, base_s: float) -> TypeSpeed:
        """What it comes to where the base takes `base_s` a token."""
        # A token sees those before it and itself.
        kv_values = self.model.kv_values * (self.filling.depth + (self.n_gen + 1) / 2)
        timing = Timing(
            matrix_bytes=self.model.matrix_bytes,
            n_layer=self.model.n_layer,
            n_output_rows=self.model.n_output_rows,
            seconds=base_s * self.decode_ratio,
            attention_macs=kv_values,
            kv_bytes=kv_values * self.filling.kv_type.bits_per_weight / 8,
        )
        return TypeSpeed(
            quant_type=self.model.quant_type,
            filling=self.filling,
            decode=timing,
            decode_spread=spread(self.decode_ratios),
            prefill_ratio=self.prefill_ratio,
            repacks=self.repacks,
        )
