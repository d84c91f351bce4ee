"""The comparison as a record on disk: what `compare.py` saves, and the page and the plot are made of."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from comparison.llama_tools import ToolScore
from ramp_edge.records import Divergence, EvaluationResult, Perplexity

SCHEMA_VERSION = 2
REFERENCE, PRESET, EMBEDDING, KNAPSACK, AUTOROUND, OURS, ABLATION = (
    "reference", "preset", "preset+embedding", "imatrix knapsack", "AutoRound", "ramp-edge", "ablation",
)  # fmt: skip
RIVALS = (PRESET, EMBEDDING, KNAPSACK, AUTOROUND)


@dataclass(frozen=True, kw_only=True, slots=True)
class Speed:
    """`llama-bench` on this machine: medians over interleaved rounds."""

    decode_tok_s: float
    prefill_tok_s: float
    decode_spread: float
    """(largest - smallest) / median of the rounds."""
    rounds: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One file."""

    label: str
    kind: str
    """One of the kinds above."""
    at: str | None
    """For a file made to a preset's bytes, that preset's label."""
    file_bytes: int
    bits_per_weight: float
    result: EvaluationResult
    seconds: float | None = None
    """To make it once its importance matrix or calibration is there; the imatrix' and a whole build's are in `Comparison`."""
    speed: Speed | None = None
    check: ToolScore | None = None
    """What `llama-perplexity` says of the same file and text."""

    @property
    def kl(self) -> float:
        """Mean KL to the reference, nats per token."""
        return 0.0 if self.result.divergence is None else self.result.divergence.mean_kl


@dataclass(frozen=True, kw_only=True, slots=True)
class WholeBuild:
    """`ramp-edge build` from nothing, as a user runs it."""

    at: str
    seconds: float
    calibration_s: float
    """Moments, Fisher samples and error table; later builds of the same model find them in the cache."""
    peak_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """One run of `compare.py` on one model."""

    title: str
    command: str
    machine: str
    versions: dict[str, str]
    calibration: str
    evaluation: str
    imatrix_s: float
    whole_build: WholeBuild
    notes: tuple[str, ...]
    """What did not run, and why."""
    rows: tuple[Row, ...]


def save(path: Path, comparison: Comparison) -> None:
    """Write the record, beside and renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps({"schema_version": SCHEMA_VERSION, **asdict(comparison)}, indent=1) + "\n")
    partial.replace(path)


def load(path: Path) -> Comparison:
    """Read a record back. Raises ValueError for another schema version."""
    data = json.loads(path.read_text())
    if data.pop("schema_version", None) != SCHEMA_VERSION:
        raise ValueError(f"{path}: not a comparison of schema version {SCHEMA_VERSION}")
    return Comparison(
        **{
            **data,
            "notes": tuple(data["notes"]),
            "whole_build": WholeBuild(**data["whole_build"]),
            "rows": tuple(row_from(entry) for entry in data["rows"]),
        }
    )


def row_from(data: dict[str, Any]) -> Row:
    """A row saved by `asdict`."""
    speed, check = data["speed"], data["check"]
    return Row(
        **{
            **data,
            "result": result_from(data["result"]),
            "speed": None if speed is None else Speed(**speed),
            "check": None if check is None else ToolScore(**check),
        }
    )


def result_from(data: dict[str, Any]) -> EvaluationResult:
    """An evaluation saved by `asdict`."""
    divergence = data["divergence"]
    return EvaluationResult(
        **{
            **data,
            "perplexity": Perplexity(**data["perplexity"]),
            "divergence": None if divergence is None else Divergence(**divergence),
        }
    )
