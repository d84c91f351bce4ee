"""build.json: the whole build explained, one JSON document with a schema version.

History of the format:
1: first version.
"""

from __future__ import annotations

import dataclasses
import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, IntEnum
from importlib import metadata
from pathlib import Path
from typing import Any

from ramp_edge import __version__
from ramp_edge.errors import ResumeError
from ramp_edge.fold.plan import GroupOutcome
from ramp_edge.records import Divergence, EvaluationResult, MemoryBudget, Perplexity

SCHEMA_VERSION = 1
_PACKAGES = ("gguf", "llama-cpp-python", "numpy", "torch")


@dataclass(frozen=True, kw_only=True, slots=True)
class CandidateRecord:
    """One allocation that was considered."""

    origin: str
    codec: str
    """`feedback` (ours) or `stock` (llama.cpp's own quantizer with an importance matrix)."""
    file_bytes: int
    predicted_kl: float | None
    evaluation: EvaluationResult | None
    chosen: bool
    folded: bool = False
    predicted_decode_tok_s: float | None = None
    """By the device profile, at half of the context."""

    @property
    def measured_kl(self) -> float | None:
        """Mean KL; None where it was not measured."""
        return None if self.evaluation is None else self.evaluation.mean_kl


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorRecord:
    """One tensor of the emitted model."""

    name: str
    role: str
    shape: tuple[int, ...]
    type: str
    size_bytes: int
    predicted_kl: float | None
    kept_reason: str | None
    illegal_types: dict[str, str]
    """Type -> why it was not a choice."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Continuation:
    """What reference and emitted model say after the same prompt."""

    prompt: str
    reference: str
    emitted: str


@dataclass(frozen=True, kw_only=True, slots=True)
class FoldingRecord:
    """What folding tried, kept and gained."""

    mode: str
    """auto or always"""
    rounds: int
    """Allocations until the types settled."""
    groups_tried: int
    groups_kept: int
    reordered: bool
    """Whether the residual stream has another order."""
    predicted_kl_unfolded: float | None
    predicted_kl_folded: float | None
    measured_kl_unfolded: float | None
    """Of the best allocation for the model as it was, where it was measured."""
    measured_kl_folded: float | None
    groups: tuple[GroupOutcome, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class TuningRecord:
    """What `--tune` measured on calibration text, and what it changed."""

    measured_changes: int
    n_tokens: int
    """Scored in each measurement."""
    common_factor: float
    """Measured over predicted KL of the changes, all together."""
    tensors_changed: int
    kl_before: float
    """Of the untuned plan on the text of the tuning."""
    kl_after: float
    difference_std_error: float
    """Paired, of kl_after - kl_before."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildRecord:
    """Everything worth knowing about a build."""

    settings: dict[str, Any]
    dry_run: bool
    versions: dict[str, str]
    model: dict[str, Any]
    device: dict[str, Any]
    calibration: dict[str, Any]
    origin: str
    """Who proposed the allocation that won."""
    limit: str
    """The limit that the file comes nearest to."""
    file_name: str | None
    file_bytes: int
    file_sha256: str | None
    bits_per_weight: float
    memory: MemoryBudget
    predicted_decode_tok_s: float
    predicted_kl: float | None
    reference: EvaluationResult | None
    evaluation: EvaluationResult | None
    best_preset: CandidateRecord | None
    """The best stock preset of no more bytes, as measured (or predicted where nothing was measured)."""
    candidates: tuple[CandidateRecord, ...]
    tensors: tuple[TensorRecord, ...]
    continuation: Continuation | None
    warnings: tuple[str, ...]
    stage_seconds: dict[str, float]
    folding: FoldingRecord | None = None
    """None where the channels were left as they are."""
    tuning: TuningRecord | None = None
    """None without --tune."""
    schema_version: int = SCHEMA_VERSION


def versions() -> dict[str, str]:
    """The versions that can change a result."""
    found = {"ramp-edge": __version__, "python": platform.python_version(), "machine": platform.machine()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def to_plain(value: object) -> Any:
    """Dataclasses, enums and paths as JSON-ready values."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, IntEnum):
        return value.name
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {(k.name if isinstance(k, Enum) else str(k)): to_plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [to_plain(v) for v in value]
    return value


def record_json(record: BuildRecord) -> str:
    """The document, with totals that a reader should not have to add up."""
    data = to_plain(record)
    data["memory"]["total_bytes"] = record.memory.total_bytes
    data["memory"]["free_bytes"] = record.memory.free_bytes
    return json.dumps(data, indent=1, ensure_ascii=False)


def evaluation_from(data: dict[str, Any] | None) -> EvaluationResult | None:
    """An evaluation saved by `to_plain`."""
    if data is None:
        return None
    divergence = data["divergence"]
    return EvaluationResult(
        label=data["label"],
        file_bytes=data["file_bytes"],
        perplexity=Perplexity(**data["perplexity"]),
        divergence=None if divergence is None else Divergence(**divergence),
        seconds=data["seconds"],
    )


def read_record(path: Path) -> dict[str, Any]:
    """A build.json as plain data. Raises ResumeError for an unreadable or newer one."""
    try:
        data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ResumeError(
            f"{path} is not a build record: {error}", hint="give a folder that `ramp-edge build` wrote"
        ) from error
    if data.get("schema_version") != SCHEMA_VERSION:
        raise ResumeError(
            f"{path} has schema version {data.get('schema_version')!r}, this ramp-edge reads {SCHEMA_VERSION}",
            hint="build again with this version",
        )
    return data
