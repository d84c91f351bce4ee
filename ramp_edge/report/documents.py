"""What a report draws of build.json and bench.json. A field that a record does not have is None, and is then not drawn.

Text becomes harmless here, where it comes in: one line, nothing that turns its direction, not longer than a page can show.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, Field

from ramp_edge.plain import one_line
from ramp_edge.record_parts import Count, NotNegative, PerplexityPart, Positive, PredictionPart, RecordPart

_LONGEST_NAME = 120
_LONGEST_TEXT = 600


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _name(text: str) -> str:
    return _cut(one_line(text), _LONGEST_NAME)


def _prose(text: str) -> str:
    return _cut(one_line(" ".join(text.split())), _LONGEST_TEXT)


Name = Annotated[str, AfterValidator(_name)]
"""A name: one line, 120 characters."""
Prose = Annotated[str, AfterValidator(_prose)]
"""Sentences: line breaks become spaces, 600 characters."""


class DivergencePart(RecordPart):
    """KL to the reference, nats per token."""

    mean_kl: float
    std_error: NotNegative
    median_kl: float
    p99_kl: float
    top_token_agreement: NotNegative
    n_tokens: Count


class EvaluationPart(RecordPart):
    """A model on a text."""

    file_bytes: Count
    perplexity: PerplexityPart
    divergence: DivergencePart | None


class MemoryLinePart(RecordPart):
    """A line of the memory budget."""

    name: Name
    size_bytes: Count
    detail: Prose


class MemoryPart(RecordPart):
    """The memory budget."""

    lines: list[MemoryLinePart]
    usable_bytes: Count
    total_bytes: Count
    free_bytes: int


class ModelPart(RecordPart):
    """The source model."""

    name: Name
    path: Prose | None = None
    architecture: Name | None = None
    sha256: Name | None = None
    file_bytes: Count
    parameters: Count | None = None
    tied_embedding: bool | None = None
    ctx: Count
    kv_type: Name | None = None


class TypeSupportPart(RecordPart):
    """How the device runs a type."""

    decode_efficiency: Positive
    decode_efficiency_in_cache: Positive | None = None
    output_row_s: float | None = Field(default=None, ge=0)
    prefill_efficiency: Positive
    repacks: bool
    source: Prose
    measured: bool


class DevicePart(RecordPart):
    """The profile."""

    name: Name
    title: Name
    measured: bool
    memory_total_bytes: Count | None = None
    memory_usable_bytes: Count | None = None
    bandwidth_peak_bytes_s: NotNegative | None = None
    bandwidth_effective_bytes_s: NotNegative | None = None
    bandwidth_in_cache_bytes_s: NotNegative | None = None
    cores: Count | None = None
    decode_threads: Count | None = None
    isa: list[Name] = Field(default_factory=list)
    backend: Name | None = None
    types: dict[Name, TypeSupportPart] = Field(default_factory=dict)


class CalibrationPart(RecordPart):
    """Which texts."""

    source: Prose | None = None
    windows: list[Count] | None = None
    evaluation: Prose | None = None


class CandidatePart(RecordPart):
    """An allocation that was considered."""

    origin: Name
    codec: Name
    file_bytes: Count
    predicted_kl: float | None
    predicted_decode_tok_s: Positive | None = None
    evaluation: EvaluationPart | None
    chosen: bool
    folded: bool = False

    @property
    def divergence(self) -> DivergencePart | None:
        """None where nothing was measured."""
        return None if self.evaluation is None else self.evaluation.divergence


class FoldGroupPart(RecordPart):
    """What folding did with one group of channels."""

    group: Name
    kept: bool
    reason: Prose
    kl_before: float | None = None
    kl_after: float | None = None
    kl_noise: NotNegative | None = None


class FoldingPart(RecordPart):
    """What folding tried, kept and gained."""

    groups_tried: Count
    groups_kept: Count
    reordered: bool
    groups: list[FoldGroupPart]


class TuningPart(RecordPart):
    """What --tune measured and changed."""

    measured_changes: Count
    n_tokens: Count
    common_factor: Positive
    tensors_changed: Count
    kl_before: float
    kl_after: float
    difference_std_error: NotNegative


class TensorPart(RecordPart):
    """A tensor of the file."""

    name: Name
    role: Name
    shape: list[Count]
    type: Name
    size_bytes: Count
    predicted_kl: float | None
    kept_reason: Prose | None
    illegal_types: dict[Name, Prose] = Field(default_factory=dict)

    @property
    def n_weights(self) -> int:
        """Product of the shape."""
        product = 1
        for size in self.shape:
            product *= size
        return product

    @property
    def bits_per_weight(self) -> float:
        """As stored, scales included."""
        return 8 * self.size_bytes / max(1, self.n_weights)


class ContinuationPart(RecordPart):
    """What both models say after a prompt."""

    prompt: Prose
    reference: Prose
    emitted: Prose


class BuildDocument(RecordPart):
    """build.json."""

    settings: dict[str, Any]
    dry_run: bool
    versions: dict[Name, Name]
    model: ModelPart
    device: DevicePart
    calibration: CalibrationPart
    origin: Name
    limit: Prose
    file_bytes: Count
    file_sha256: Name | None
    bits_per_weight: Positive
    memory: MemoryPart
    predicted_decode_tok_s: Positive
    predicted_kl: float | None
    reference: EvaluationPart | None
    evaluation: EvaluationPart | None
    best_preset: CandidatePart | None
    candidates: list[CandidatePart]
    tensors: list[TensorPart]
    continuation: ContinuationPart | None
    warnings: list[Prose]
    stage_seconds: dict[Name, NotNegative] = Field(default_factory=dict)
    folding: FoldingPart | None = None
    tuning: TuningPart | None = None

    @property
    def divergence(self) -> DivergencePart | None:
        """Of the file; None where nothing was measured."""
        return None if self.evaluation is None else self.evaluation.divergence


class SpeedPart(RecordPart):
    """All repeats of one figure."""

    depth_tokens: Count
    n_tokens: Count
    threads: Count
    samples_tok_s: Annotated[list[Positive], Field(min_length=1)]
    median_tok_s: Positive
    spread: NotNegative
    energy_j_per_token: NotNegative | None


class SweepPart(RecordPart):
    """A thread count of the coarse sweep."""

    threads: Count
    decode_tok_s: NotNegative
    prefill_tok_s: NotNegative


class MemoryUsePart(RecordPart):
    """A run that prefills a context."""

    load_mode: Name
    n_ctx: Count
    peak_resident_bytes: Count | None
    peak_anonymous_bytes: Count | None
    load_s: NotNegative | None
    predicted_bytes: Count | None


class BoardPerplexityPart(RecordPart):
    """The same text on board and host."""

    text: Name
    n_ctx: Count
    n_windows: Count
    board: Positive
    board_std_error: NotNegative | None
    host: Positive


class UnstablePart(RecordPart):
    """A reason for doubt."""

    kind: Name
    detail: Prose


class BenchModelPart(RecordPart):
    """One model of a bench."""

    label: Name
    file_bytes: Count
    sha256: Name
    kv_type: Name
    sweep: list[SweepPart]
    decode: list[SpeedPart]
    prefill: list[SpeedPart]
    memory: list[MemoryUsePart]
    perplexity: BoardPerplexityPart | None
    prediction: PredictionPart | None
    unstable: list[UnstablePart]


class FactsPart(RecordPart):
    """The board at one moment."""

    system: Name | None
    machine: Name | None
    kernel: Name | None
    distribution: Name | None
    board_model: Name | None
    cpu_model: Name | None
    gpu_model: Name | None
    isa: list[Name]
    cores: Count | None
    usable_cores: Count | None
    memory_total_bytes: Count | None
    memory_available_bytes: Count | None
    swap_total_bytes: Count | None
    swap_used_bytes: Count | None
    governors: list[Name]
    cpu_hz: list[Count]
    cpu_max_hz: list[Count]
    temperatures_c: dict[Name, float]
    thermal_caps: list[Name]
    power_mode: Name | None
    busy_cores: NotNegative | None


class RatioPart(RecordPart):
    """Speed of one model over another's, round by round."""

    first: Name
    second: Name
    kind: Name
    depth_tokens: Count
    samples: Annotated[list[Positive], Field(min_length=1)]
    median: Positive


class BenchDocument(RecordPart):
    """bench.json."""

    target: Name
    exec_prefix: list[Name]
    agent: Name
    measured_at: Name
    wall_s: NotNegative
    ramp_edge_version: Name
    runtime_commit: Name | None
    backends: Name | None
    repeats: Count
    rounds: Count
    models: Annotated[list[BenchModelPart], Field(min_length=1)]
    ratios: list[RatioPart]
    energy_source: Name | None
    facts_before: FactsPart
    facts_after: FactsPart
    unstable: list[UnstablePart]
    notes: list[Prose]

    @property
    def doubts(self) -> tuple[UnstablePart, ...]:
        """Every reason, of the board and of its models."""
        return (*self.unstable, *(doubt for model in self.models for doubt in model.unstable))
