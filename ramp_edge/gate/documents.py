"""The records that a gate reads: build.json, bench.json and what `ramp-edge eval --tasks --json` prints, by schema version.

Only the parts that a rule can speak of are read, and those strictly: a number that is text, missing or not finite is an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationError

from ramp_edge.errors import UsageError
from ramp_edge.plain import one_line
from ramp_edge.record_files import RecordFile, RecordKind, open_record, record_paths
from ramp_edge.record_parts import Count, NotNegative, PerplexityPart, Positive, PredictionPart, RecordPart

Text = Annotated[str, AfterValidator(one_line)]


class DivergencePart(RecordPart):
    """KL to the reference, nats per token."""

    mean_kl: float
    std_error: NotNegative
    median_kl: float
    p99_kl: float
    top_token_agreement: NotNegative


class EvaluationPart(RecordPart):
    """A model on a text."""

    perplexity: PerplexityPart
    divergence: DivergencePart | None


class MemoryLinePart(RecordPart):
    """A line of the memory budget."""

    name: Text
    size_bytes: Count


class MemoryPart(RecordPart):
    """The memory budget."""

    lines: list[MemoryLinePart]
    total_bytes: Count
    free_bytes: int


class BuildModelPart(RecordPart):
    """The source model."""

    name: Text
    sha256: Text
    ctx: Count
    kv_type: Text


class BuildDevicePart(RecordPart):
    """The profile."""

    name: Text


class BuildDocument(RecordPart):
    """build.json."""

    dry_run: bool
    versions: dict[Text, Text]
    model: BuildModelPart
    device: BuildDevicePart
    file_bytes: Count
    file_sha256: Text | None
    bits_per_weight: Positive
    memory: MemoryPart
    predicted_decode_tok_s: Positive
    predicted_kl: float | None
    reference: EvaluationPart | None
    evaluation: EvaluationPart | None


class SpeedPart(RecordPart):
    """All repeats of one figure."""

    depth_tokens: Count
    threads: Count
    samples_tok_s: Annotated[list[Positive], Field(min_length=1)]
    median_tok_s: Positive
    spread: NotNegative
    energy_j_per_token: NotNegative | None


class MemoryUsePart(RecordPart):
    """A run that prefills a context."""

    load_mode: Literal["mmap", "none"]
    n_ctx: Count
    peak_resident_bytes: Count | None
    peak_anonymous_bytes: Count | None
    load_s: NotNegative | None


class BoardPerplexityPart(RecordPart):
    """The same text on board and host."""

    board: Positive
    host: Positive


class UnstablePart(RecordPart):
    """A reason for doubt."""

    kind: Text
    detail: Text


class BenchModelPart(RecordPart):
    """One model of a bench."""

    label: Text
    file_bytes: Count
    sha256: Text
    kv_type: Text
    decode: list[SpeedPart]
    prefill: list[SpeedPart]
    memory: list[MemoryUsePart]
    perplexity: BoardPerplexityPart | None
    prediction: PredictionPart | None
    unstable: list[UnstablePart]


class FactsPart(RecordPart):
    """What decides the speed of a board."""

    machine: Text | None
    board_model: Text | None
    cpu_model: Text | None
    gpu_model: Text | None
    usable_cores: Count | None
    governors: list[Text]
    power_mode: Text | None


class BenchDocument(RecordPart):
    """bench.json."""

    target: Text
    exec_prefix: list[Text]
    runtime_commit: Text | None
    backends: Text | None
    models: Annotated[list[BenchModelPart], Field(min_length=1)]
    facts_before: FactsPart
    unstable: list[UnstablePart]


class AccuracyPart(RecordPart):
    """Share of right answers."""

    value: NotNegative
    std_error: NotNegative


class IntervalPart(RecordPart):
    """An estimate and its 95 % interval."""

    value: float
    low: float
    high: float


class ComparisonPart(RecordPart):
    """Against the reference, on the same items."""

    difference: IntervalPart
    retention: IntervalPart | None


class ItemsPart(AccuracyPart):
    """The same with the number of items."""

    n_items: Annotated[int, Field(ge=1)]


class TaskRunPart(RecordPart):
    """A model on a task."""

    n_ctx: Count
    accuracy: dict[Text, ItemsPart]


class TaskPart(RecordPart):
    """A task."""

    task: Text
    headline: Text
    file_sha256: Text
    n_items: Count
    model: TaskRunPart
    comparison: dict[Text, ComparisonPart] | None


class TasksModelPart(RecordPart):
    """The evaluated file."""

    label: Text
    sha256: Text
    file_bytes: Count


class AveragePart(RecordPart):
    """Mean over the tasks."""

    model: AccuracyPart
    comparison: ComparisonPart | None


class TasksDocument(RecordPart):
    """The result of `ramp-edge eval --tasks --json`."""

    engine: Text
    model: TasksModelPart
    reference: TasksModelPart | None
    tasks: Annotated[list[TaskPart], Field(min_length=1)]
    average: AveragePart


Document = BuildDocument | BenchDocument | TasksDocument
_KINDS: dict[RecordKind, type[Document]] = {
    RecordKind.BUILD: BuildDocument,
    RecordKind.BENCH: BenchDocument,
    RecordKind.TASKS: TasksDocument,
}
_HINT = (
    "give a build folder, its build.json, a bench.json, or the JSON of `ramp-edge eval --tasks --json`, "
    "each of this version of ramp-edge"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """A document and its file."""

    path: Path
    document: Document


def read_records(paths: Sequence[Path]) -> tuple[Record, ...]:
    """Read files, and of folders their build.json and every bench.json. Raises UsageError that names every unreadable one."""
    files: list[Path] = []
    records: list[Record] = []
    problems: list[str] = []
    for path in paths:
        try:
            files.extend(record_paths(path))
        except ValueError as error:
            problems.append(str(error))
    for file in dict.fromkeys(files):
        try:
            records.append(Record(path=file, document=_document(open_record(file))))
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise UsageError("\n".join(problems), hint=_HINT)
    return tuple(records)


def _document(record: RecordFile) -> Document:
    """Raises ValueError that names the file and the field."""
    try:
        return _KINDS[record.kind].model_validate(record.data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = one_line(".".join(map(str, first["loc"])))
        raise ValueError(f"{record.path} is no whole record: {place}: {first['msg'].lower()}") from None
