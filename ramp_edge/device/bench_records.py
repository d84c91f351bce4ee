"""What a bench measured: `bench.json`, one JSON document with a schema version.

Spread is (largest - smallest) / median of all repeats: with 5 repeats it also shows the single run that something disturbed,
which a standard deviation hides. None stands for what the board does not tell; nothing is filled in.

History of the format:
1: first version.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from ramp_edge.device.facts import BoardFacts
from ramp_edge.errors import UsageError

SCHEMA_VERSION = 1
_STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


def spread(samples: Sequence[float]) -> float:
    """(max - min) / median; 0 for a single sample, which tells nothing about spread."""
    return (max(samples) - min(samples)) / statistics.median(samples)


@dataclass(frozen=True, kw_only=True, slots=True)
class Speed:
    """Tokens per second of one kind, at one depth, over all repeats."""

    kind: Literal["decode", "prefill"]
    depth_tokens: int
    """Tokens in the cache before the measured ones."""
    n_tokens: int
    """Tokens of one repeat."""
    threads: int
    samples_tok_s: tuple[float, ...]
    """Every repeat in the order in which it ran."""
    median_tok_s: float
    spread: float
    energy_j_per_token: float | None
    """Of everything that the sensor sees, idle consumption included."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepPoint:
    """A thread count of the coarse sweep; the better of its few repeats."""

    threads: int
    decode_tok_s: float
    prefill_tok_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryUse:
    """llama-bench's whole process while it prefills a context of `n_ctx` tokens."""

    load_mode: Literal["mmap", "none"]
    """`none`: weights are read into memory of their own."""
    n_ctx: int
    peak_resident_bytes: int | None
    peak_anonymous_bytes: int | None
    """Without what is mapped from files, as sampled."""
    load_s: float | None
    """Until weights and context are ready; the file is usually in the system's cache already."""
    predicted_bytes: int | None
    """The build's memory budget, where it is for this very context."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PerplexityCheck:
    """The same file and text on board and host: more than 1 % apart means a wrong kernel or a damaged file."""

    text: str
    text_sha256: str
    n_ctx: int
    n_windows: int
    board: float
    board_std_error: float | None
    """None where the tool's last line was lost."""
    host: float
    """By libllama in process, as llama-perplexity defines it."""

    @property
    def relative_difference(self) -> float:
        return self.board / self.host - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """What the build promised beside what the board does."""

    decode_tok_s: float
    depth_tokens: int
    """Half of the build's context: that is where speed is predicted."""
    measured_tok_s: float | None
    """None where that depth was not measured."""

    @property
    def measured_over_predicted(self) -> float | None:
        return None if self.measured_tok_s is None else self.measured_tok_s / self.decode_tok_s


@dataclass(frozen=True, kw_only=True, slots=True)
class Unstable:
    """A reason not to trust a figure."""

    kind: Literal["spread", "throttled", "swapping", "other_load"]
    detail: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelBench:
    """One model on the board."""

    label: str
    board_path: str
    file_bytes: int
    sha256: str
    kv_type: str
    sweep: tuple[SweepPoint, ...]
    """Empty where the thread count was given."""
    decode: tuple[Speed, ...]
    """By depth."""
    prefill: tuple[Speed, ...]
    memory: tuple[MemoryUse, ...]
    perplexity: PerplexityCheck | None
    """None where it was not asked for."""
    prediction: Prediction | None
    """None without a build.json that describes the file."""
    unstable: tuple[Unstable, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class PairedRatio:
    """Speed of one model over that of another, round by round: what slows the board for a while cancels."""

    first: str
    second: str
    kind: Literal["decode", "prefill"]
    depth_tokens: int
    samples: tuple[float, ...]
    """first / second of each round's medians."""
    median: float


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchRecord:
    """A whole bench."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    target: str
    """Its name in targets.yaml, or what was typed."""
    address: str
    exec_prefix: tuple[str, ...]
    agent: Literal["python", "shell"]
    measured_at: str
    """UTC by the host's clock, ISO 8601."""
    wall_s: float
    ramp_edge_version: str
    runtime_commit: str | None
    """llama.cpp's commit as its tools tell it, or as the manifest that they were built from does."""
    backends: str | None
    repeats: int
    """Of each figure, over all rounds."""
    rounds: int
    models: tuple[ModelBench, ...]
    ratios: tuple[PairedRatio, ...]
    """The first model over each other one."""
    energy_source: str | None
    facts_before: BoardFacts
    facts_after: BoardFacts
    unstable: tuple[Unstable, ...]
    """What concerns every model."""
    notes: tuple[str, ...]
    """What was left out, and why."""
    schema_version: int = SCHEMA_VERSION

    @property
    def is_stable(self) -> bool:
        return not self.unstable and not any(model.unstable for model in self.models)


def bench_json(record: BenchRecord) -> str:
    """The document."""
    return json.dumps(dataclasses.asdict(record), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def read_bench(path: Path) -> BenchRecord:
    """A bench.json. Raises UsageError for another file, or one of another version."""
    hint = "give a file that `ramp-edge bench` wrote"
    try:
        data = path.read_bytes()
        version = json.loads(data).get("schema_version")
    except (OSError, ValueError, AttributeError) as error:
        raise UsageError(f"{path} is no bench record: {error}", hint=hint) from error
    if version != SCHEMA_VERSION:
        raise UsageError(
            f"{path} has schema version {version!r}, this ramp-edge reads {SCHEMA_VERSION}",
            hint="measure again with this version",
        )
    try:
        return TypeAdapter(BenchRecord).validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise UsageError(f"{path} is no bench record: {place}: {first['msg']}", hint=hint) from error
