"""A model that is measured: what is known of it before, what its runs gave so far, and what they add up to."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from ramp_edge.device.bench_plan import Lengths
from ramp_edge.device.bench_records import (
    MemoryUse,
    ModelBench,
    PairedRatio,
    PerplexityCheck,
    Prediction,
    Speed,
    SweepPoint,
    spread,
)
from ramp_edge.device.llama_tools import SpeedResult, SpeedTest, decode_energy_j
from ramp_edge.device.stability import OtherLoad, spread_reasons
from ramp_edge.device.tool_run import ToolRun

Kind = Literal["decode", "prefill"]
KINDS: tuple[Kind, ...] = ("decode", "prefill")


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchText:
    """A text whose perplexity is known on the host."""

    name: str
    data: bytes
    n_ctx: int
    n_windows: int
    host: float


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchModel:
    """A model that lies on the board."""

    label: str
    """Unique among the models of a bench."""
    board_path: str
    file_bytes: int
    sha256: str
    context: int
    """The longest that it was made for, in tokens."""
    planned_context: int | None = None
    """The build's, for the memory figures."""
    kv_type: str = "f16"
    predicted_decode_tok_s: float | None = None
    predicted_memory_bytes: int | None = None
    text: BenchText | None = None
    """None: perplexity is not compared."""

    @property
    def predicted_depth(self) -> int | None:
        if self.predicted_decode_tok_s is None or self.planned_context is None:
            return None
        return self.planned_context // 2


@dataclass(slots=True)
class Measured:
    """What is known of a model so far."""

    model: BenchModel
    perplexity: PerplexityCheck | None = None
    sweep: tuple[SweepPoint, ...] = ()
    threads: dict[Kind, int] = field(default_factory=dict)
    rough_tok_s: dict[Kind, float] = field(default_factory=dict)
    samples: dict[tuple[Kind, int], list[tuple[float, ...]]] = field(default_factory=dict)
    """(kind, depth) -> the repeats of each round."""
    energy_j: dict[int, list[float]] = field(default_factory=dict)
    """Depth -> joules of each decode repeat."""
    memory: list[MemoryUse] = field(default_factory=list)
    other_load: OtherLoad = field(default_factory=OtherLoad)

    def keep(self, run: ToolRun, results: Sequence[SpeedResult]) -> None:
        """Note what a run of llama-bench gave."""
        energy = decode_energy_j(run.lines)
        for position, result in enumerate(results, start=1):
            kind: Kind = "decode" if result.n_gen else "prefill"
            self.samples.setdefault((kind, result.n_depth), []).append(result.samples_ts)
            if len(energy.get(position, ())) == len(result.samples_ts):
                self.energy_j.setdefault(result.n_depth, []).extend(energy[position])

    def tests(self, lengths: Lengths, depths: tuple[int, ...], repeats: int) -> tuple[SpeedTest, ...]:
        """One call where decode and prefill want the same threads, else two."""

        def test(threads: int, n_prompt: int, n_gen: int) -> SpeedTest:
            return SpeedTest(
                model_path=self.model.board_path,
                threads=(threads,),
                n_prompt=n_prompt,
                n_gen=n_gen,
                depths=depths,
                repeats=repeats,
                kv_type=self.model.kv_type,
            )

        for_decode, for_prefill = self.threads["decode"], self.threads["prefill"]
        if for_decode == for_prefill:
            return (test(for_decode, lengths.n_prompt, lengths.n_gen),)
        return test(for_prefill, lengths.n_prompt, 0), test(for_decode, 0, lengths.n_gen)

    def summary(self, lengths: Lengths, depths: Sequence[int]) -> ModelBench:
        """Everything about this model."""
        model = self.model
        decode = tuple(self._speed("decode", depth, lengths.n_gen) for depth in depths)
        prefill = tuple(self._speed("prefill", depth, lengths.n_prompt) for depth in depths)
        return ModelBench(
            label=model.label,
            board_path=model.board_path,
            file_bytes=model.file_bytes,
            sha256=model.sha256,
            kv_type=model.kv_type,
            sweep=self.sweep,
            decode=decode,
            prefill=prefill,
            memory=tuple(self.memory),
            perplexity=self.perplexity,
            prediction=_prediction(model, decode),
            unstable=(*spread_reasons((*decode, *prefill)), *self.other_load.reasons()),
        )

    def _speed(self, kind: Kind, depth: int, n_tokens: int) -> Speed:
        samples = tuple(value for repeats in self.samples[(kind, depth)] for value in repeats)
        joules = self.energy_j.get(depth, []) if kind == "decode" else []
        return Speed(
            kind=kind,
            depth_tokens=depth,
            n_tokens=n_tokens,
            threads=self.threads[kind],
            samples_tok_s=samples,
            median_tok_s=statistics.median(samples),
            spread=spread(samples),
            energy_j_per_token=statistics.median(joules) / n_tokens if joules else None,
        )


def _prediction(model: BenchModel, decode: Sequence[Speed]) -> Prediction | None:
    if model.predicted_decode_tok_s is None or model.predicted_depth is None:
        return None
    at_depth = next((s.median_tok_s for s in decode if s.depth_tokens == model.predicted_depth), None)
    return Prediction(
        decode_tok_s=model.predicted_decode_tok_s, depth_tokens=model.predicted_depth, measured_tok_s=at_depth
    )


def paired_ratios(measured: Sequence[Measured], depths: Sequence[int]) -> Iterator[PairedRatio]:
    """The first model over each other one, round by round."""
    first = measured[0]
    for other in measured[1:]:
        for kind in KINDS:
            for depth in depths:
                rounds = zip(first.samples[(kind, depth)], other.samples[(kind, depth)], strict=True)
                samples = tuple(statistics.median(a) / statistics.median(b) for a, b in rounds)
                yield PairedRatio(
                    first=first.model.label,
                    second=other.model.label,
                    kind=kind,
                    depth_tokens=depth,
                    samples=samples,
                    median=statistics.median(samples),
                )
