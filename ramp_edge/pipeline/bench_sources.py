"""The files that a bench measures: what they are, what their build promised, and their perplexity on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from ramp_edge.device.bench_model import BenchModel, BenchText
from ramp_edge.errors import CalibrationError, ModelFileError, ResumeError
from ramp_edge.evaluate.evaluator import evaluate_model, read_text, tokenize_text
from ramp_edge.events import EventBus
from ramp_edge.model.gguf_file import file_sha256
from ramp_edge.model.runnable import check_runnable
from ramp_edge.pipeline.output_folder import MODEL_FILE, RECORD_FILE
from ramp_edge.pipeline.record import read_record

SHIPPED_TEXT = "bench-text.txt"
TEXT_WINDOW = 256
TEXT_WINDOWS = 4
MIN_TEXT_WINDOWS = 2
"""llama-perplexity wants two."""
TEXT_LIMIT_BYTES = 65536
"""More is never scored; the board need not tokenize it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Promise:
    """What a build foretold of its file."""

    planned_context: int
    kv_type: str
    decode_tok_s: float
    memory_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchSource:
    """A model file on this machine."""

    label: str
    file: Path
    file_bytes: int
    sha256: str
    context: int
    promise: Promise | None
    """Of the build.json beside it, where that describes this very file."""

    def on_board(self, board_path: str, text: BenchText | None) -> BenchModel:
        """The same model where it lies on the board."""
        promise = self.promise
        return BenchModel(
            label=self.label,
            board_path=board_path,
            file_bytes=self.file_bytes,
            sha256=self.sha256,
            context=self.context,
            planned_context=None if promise is None else promise.planned_context,
            kv_type="f16" if promise is None else promise.kv_type,
            predicted_decode_tok_s=None if promise is None else promise.decode_tok_s,
            predicted_memory_bytes=None if promise is None else promise.memory_bytes,
            text=text,
        )


def read_sources(paths: Sequence[Path], events: EventBus) -> tuple[BenchSource, ...]:
    """Open and hash each file. Raises ModelFileError or UnsupportedModelError for one that libllama should not see."""
    labels = _labels(paths)
    return tuple(_read(path, label, events) for path, label in zip(paths, labels, strict=True))


def _read(path: Path, label: str, events: EventBus) -> BenchSource:
    tensors = check_runnable(path)
    metadata = tensors.scalar_metadata()
    context = metadata.get(f"{metadata.get('general.architecture')}.context_length")
    if not isinstance(context, int) or context < 2 * MIN_TEXT_WINDOWS:
        raise ModelFileError(f"{path}: context_length is {context!r}")
    file_bytes = path.stat().st_size
    with events.stage(f"hash {label}"):
        digest = file_sha256(path)
    return BenchSource(
        label=label,
        file=path,
        file_bytes=file_bytes,
        sha256=digest,
        context=context,
        promise=_promise(path, digest, events),
    )


def _promise(path: Path, digest: str, events: EventBus) -> Promise | None:
    beside = path.parent / RECORD_FILE
    if path.name != MODEL_FILE or not beside.is_file():
        return None
    try:
        record = read_record(beside)
        if record.get("file_sha256") != digest:
            events.warn(
                f"measured without a prediction: {beside} describes another file than the {MODEL_FILE} beside it"
            )
            return None
        return Promise(
            planned_context=int(record["model"]["ctx"]),
            kv_type=str(record["model"]["kv_type"]).lower(),
            decode_tok_s=float(record["predicted_decode_tok_s"]),
            memory_bytes=int(record["memory"]["total_bytes"]),
        )
    except ResumeError as error:
        events.warn(f"measured without a prediction: {error.message}")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        events.warn(f"measured without a prediction: {beside} is damaged: {error!r}")
    return None


def _labels(paths: Sequence[Path]) -> list[str]:
    """Short names, each once: the folder of a build, else the file's own."""
    names = [p.resolve().parent.name if p.name == MODEL_FILE else p.stem for p in paths]
    return [name if names.count(name) == 1 else f"{name} ({i + 1})" for i, name in enumerate(names)]


def bench_text(source: BenchSource, path: Path | None, events: EventBus) -> BenchText:
    """The text (None: the shipped one) with its perplexity on this machine. Raises CalibrationError where it is too short."""
    path = path or Path(str(files("ramp_edge"))) / "data" / SHIPPED_TEXT
    data = read_text(path).encode("utf-8")[:TEXT_LIMIT_BYTES]
    # The cut may have gone through a character.
    text = data.decode("utf-8", errors="ignore")
    n_ctx = min(TEXT_WINDOW, source.context)
    tokens = tokenize_text(source.file, text)
    n_windows = min(TEXT_WINDOWS, len(tokens) // n_ctx)
    if n_windows < MIN_TEXT_WINDOWS:
        raise CalibrationError(
            f"the text {path} has {len(tokens)} tokens of {source.label}, perplexity on the board needs "
            f"{MIN_TEXT_WINDOWS * n_ctx}",
            hint="give a longer text with --text, or --no-perplexity",
        )
    label = f"{source.label} on this machine"
    result = evaluate_model(source.file, tokens, n_ctx=n_ctx, n_windows=n_windows, label=label, events=events)
    return BenchText(
        name=path.name,
        data=text.encode("utf-8"),
        n_ctx=n_ctx,
        n_windows=n_windows,
        host=result.perplexity.value,
    )
