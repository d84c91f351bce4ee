"""Perplexity of a model and its KL divergence to a reference, in process, as `llama-perplexity` defines them.

The reference runs once and is kept compactly (`reference.py`); every other model then runs once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ramp_edge.errors import CalibrationError, EvaluationError
from ramp_edge.evaluate.divergence import summarize_divergence
from ramp_edge.evaluate.llama import LlamaSession, LlamaVocabulary, Tokens
from ramp_edge.evaluate.perplexity import (
    Float64,
    ScoredPiece,
    WindowPlan,
    log_normalizers,
    negative_log_likelihoods,
    plan_windows,
    scored_pieces,
    summarize_perplexity,
)
from ramp_edge.evaluate.reference import (
    Float32,
    HiddenReference,
    Int32,
    ReferenceStore,
    SparseReference,
    sparse_entries,
)
from ramp_edge.evaluate.reference_cache import load_arrays, reference_key, save_arrays
from ramp_edge.events import EventBus
from ramp_edge.records import EvaluationResult, OutputHead

RECOMPUTE_LIMIT = 1e-6
"""Largest mean KL between real and recomputed reference logits on the first window, nats per token."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReferenceLogits:
    """A reference run: enough to compare any other model with it on the same windows."""

    plan: WindowPlan
    nll: Float64
    """[n_scored] -log p of each real token, nats."""
    store: ReferenceStore

    @property
    def stored_bytes(self) -> int:
        """Bytes in memory, and about as many on disk."""
        return self.store.stored_bytes + int(self.nll.nbytes)


def read_text(path: Path) -> str:
    """A text as llama.cpp's `-f` reads it, one final newline dropped, but only whole UTF-8. Raises CalibrationError.

    llama.cpp tokenizes bytes that are no text as well; their statistics would be those of another language.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CalibrationError(f"the text {path} cannot be read: {error.strerror or error}") from error
    if (at := data.find(b"\0")) >= 0:
        raise CalibrationError(
            f"the text {path} is a binary file, or UTF-16: byte {at} is NUL",
            hint="give plain UTF-8 text; `iconv -f UTF-16 -t UTF-8` converts it",
        )
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CalibrationError(
            f"the text {path} is not UTF-8: byte {error.start} is 0x{data[error.start]:02X} ({error.reason})",
            hint="`iconv -f LATIN1 -t UTF-8` converts a text, `iconv -c -f UTF-8 -t UTF-8` drops what is broken",
        ) from error
    if not text.strip():
        raise CalibrationError(f"the text {path} is empty", hint="give a UTF-8 text file")
    return text.removesuffix("\n")


def tokenize_text(model_path: Path, text: str) -> Tokens:
    """Token ids of a text by the model's own tokenizer, int32 [n]."""
    with LlamaVocabulary(model_path) as vocabulary:
        return vocabulary.tokenize(text)


def evaluate_model(
    path: Path,
    tokens: Tokens | None = None,
    *,
    n_ctx: int = 512,
    n_windows: int | None = None,
    reference: ReferenceLogits | None = None,
    label: str | None = None,
    threads: int | None = None,
    events: EventBus | None = None,
) -> EvaluationResult:
    """Perplexity over windows of `tokens`, and the divergence to `reference` where one is given.

    With a reference, its windows are used and `tokens`, `n_ctx` and `n_windows` are ignored.
    Raises EvaluationError where the model does not load, run, or give finite numbers.
    """
    if reference is not None:
        plan = reference.plan
    elif tokens is not None:
        plan = plan_windows(tokens, n_ctx=n_ctx, n_windows=n_windows)
    else:
        raise ValueError("either tokens or a reference is needed")
    name = label or path.name
    start_s = time.perf_counter()
    with (events or EventBus()).stage(f"evaluate {name}", total=plan.n_windows, unit="windows") as stage:
        nll, kl, same = _score(path, plan, reference, threads, stage.advance)
    return EvaluationResult(
        label=name,
        file_bytes=path.stat().st_size,
        perplexity=summarize_perplexity(nll, n_windows=plan.n_windows),
        divergence=None if reference is None else summarize_divergence(kl, same),
        seconds=time.perf_counter() - start_s,
    )


def divergence_by_token(path: Path, reference: ReferenceLogits, *, threads: int | None = None) -> Float64:
    """KL divergence to the reference at every scored position, nats [n_scored], to be paired with another model's.

    Raises EvaluationError as `evaluate_model` does.
    """
    return _score(path, reference.plan, reference, threads, lambda: None)[1]


def _score(
    path: Path, plan: WindowPlan, reference: ReferenceLogits | None, threads: int | None, advance: Callable[[], None]
) -> tuple[Float64, Float64, npt.NDArray[np.bool_]]:
    """(-log p, KL, whether the top tokens agree) at every scored position; without a reference the latter two mean nothing."""
    nll = np.empty(plan.n_scored)
    kl = np.empty(plan.n_scored)
    same = np.empty(plan.n_scored, dtype=np.bool_)
    with LlamaSession(path, n_ctx=plan.n_ctx, threads=threads) as session:
        _check_vocabulary(session, plan, reference)
        for piece in scored_pieces(session, plan):
            where = slice(piece.start, piece.start + len(piece.targets))
            logits, totals = _piece_logits(piece)
            nll[where] = negative_log_likelihoods(logits, totals, piece.targets)
            if reference is not None:
                kl[where], same[where] = reference.store.divergence(piece.start, logits, totals)
            if piece.ends_window:
                advance()
    _check_finite(path, nll)
    if reference is not None:
        _check_finite(path, kl)
    return nll, kl, same


def reference_logits(
    path: Path,
    tokens: Tokens,
    *,
    n_ctx: int = 512,
    n_windows: int | None = None,
    head: OutputHead | None = None,
    cache_dir: Path | None = None,
    model_sha256: str | None = None,
    label: str = "reference",
    threads: int | None = None,
    events: EventBus | None = None,
) -> tuple[EvaluationResult, ReferenceLogits]:
    """Run the reference over windows of `tokens`, or take the run from the cache.

    `head` (its output matrix) allows the compact form; without it, or where the logits recomputed from it differ,
    the probable tokens are stored. Cached only where both `cache_dir` and `model_sha256` are given.
    """
    plan = plan_windows(tokens, n_ctx=n_ctx, n_windows=n_windows)
    start_s = time.perf_counter()
    cache_path: Path | None = None
    if cache_dir is not None and model_sha256 is not None:
        key = reference_key(model_sha256=model_sha256, plan=plan, engine_version=engine_version())
        cache_path = cache_dir / f"reference-{key}.npz"
        stored = load_arrays(cache_path)
        reference = None if stored is None else _from_arrays(stored, plan, head)
        if reference is not None:
            return _reference_result(path, label, reference, start_s), reference
    bus = events or EventBus()
    with bus.stage(f"evaluate {label}", total=plan.n_windows, unit="windows") as stage:
        reference = None if head is None else _run_hidden(path, plan, head, threads, stage.advance)
        if reference is None:
            reference = _run_sparse(path, plan, threads, stage.advance)
    _check_finite(path, reference.nll)
    if cache_path is not None:
        save_arrays(cache_path, _to_arrays(reference))
    return _reference_result(path, label, reference, start_s), reference


def _reference_result(path: Path, label: str, reference: ReferenceLogits, start_s: float) -> EvaluationResult:
    return EvaluationResult(
        label=label,
        file_bytes=path.stat().st_size,
        perplexity=summarize_perplexity(reference.nll, n_windows=reference.plan.n_windows),
        divergence=None,
        seconds=time.perf_counter() - start_s,
    )


def _run_hidden(
    path: Path, plan: WindowPlan, head: OutputHead, threads: int | None, advance: Any
) -> ReferenceLogits | None:
    """The reference run by hidden states; None where they do not reproduce the logits of the first window."""
    nll = np.empty(plan.n_scored)
    totals_all = np.empty(plan.n_scored)
    top = np.empty(plan.n_scored, dtype=np.int32)
    with LlamaSession(path, n_ctx=plan.n_ctx, threads=threads, with_hidden=True) as session:
        if head.rows.shape[0] != session.n_vocab:
            return None
        hidden: Float32 = np.empty((plan.n_scored, session.n_embd), dtype=np.float32)
        store = HiddenReference(hidden=hidden, normalizers=totals_all, top_tokens=top, head=head)
        gaps: list[Float64] = []
        trusted = False
        for piece in scored_pieces(session, plan):
            where = slice(piece.start, piece.start + len(piece.targets))
            logits, totals = _piece_logits(piece)
            if piece.hidden is None or piece.hidden.shape[1] * head.quant_type.block_bytes != head.rows.shape[1]:
                return None
            hidden[where] = piece.hidden
            totals_all[where] = totals.numpy()
            top[where] = logits.argmax(dim=1).numpy()
            nll[where] = negative_log_likelihoods(logits, totals, piece.targets)
            if not trusted:
                gaps.append(store.divergence(piece.start, logits, totals)[0])
            if piece.ends_window:
                if not trusted and not abs(float(np.concatenate(gaps).mean())) < RECOMPUTE_LIMIT:
                    return None
                trusted = True
                advance()
    return ReferenceLogits(plan=plan, nll=nll, store=store)


def _run_sparse(path: Path, plan: WindowPlan, threads: int | None, advance: Any) -> ReferenceLogits:
    nll = np.empty(plan.n_scored)
    ids: list[Int32] = []
    values: list[Float32] = []
    with LlamaSession(path, n_ctx=plan.n_ctx, threads=threads) as session:
        _check_vocabulary(session, plan, None)
        for piece in scored_pieces(session, plan):
            logits, totals = _piece_logits(piece)
            nll[piece.start : piece.start + len(piece.targets)] = negative_log_likelihoods(
                logits, totals, piece.targets
            )
            _check_finite(path, totals.numpy())
            piece_ids, piece_values = sparse_entries(logits, totals)
            ids += piece_ids
            values += piece_values
            if piece.ends_window:
                advance()
        n_vocab = session.n_vocab
    store = SparseReference(
        offsets=np.cumsum([0, *(len(entry) for entry in ids)], dtype=np.int64),
        tokens=np.concatenate(ids),
        log_probabilities=np.concatenate(values),
        n_vocab=n_vocab,
    )
    return ReferenceLogits(plan=plan, nll=nll, store=store)


def _piece_logits(piece: ScoredPiece) -> tuple[Any, Any]:
    import torch

    logits = torch.from_numpy(piece.logits)
    return logits, log_normalizers(logits)


def _to_arrays(reference: ReferenceLogits) -> dict[str, npt.NDArray[Any]]:
    store = reference.store
    if isinstance(store, HiddenReference):
        return {
            "nll": reference.nll,
            "hidden": store.hidden,
            "normalizers": store.normalizers,
            "top_tokens": store.top_tokens,
        }
    return {
        "nll": reference.nll,
        "offsets": store.offsets,
        "tokens": store.tokens,
        "log_probabilities": store.log_probabilities,
        "n_vocab": np.array(store.n_vocab, dtype=np.int64),
    }


def _from_arrays(
    arrays: dict[str, npt.NDArray[Any]], plan: WindowPlan, head: OutputHead | None
) -> ReferenceLogits | None:
    nll = arrays.get("nll")
    if nll is None or nll.shape != (plan.n_scored,):
        return None
    store: ReferenceStore
    if "hidden" in arrays:
        if head is None or arrays["hidden"].shape[0] != plan.n_scored:
            return None
        store = HiddenReference(
            hidden=arrays["hidden"],
            normalizers=arrays["normalizers"],
            top_tokens=arrays["top_tokens"],
            head=head,
        )
    else:
        if arrays["offsets"].shape != (plan.n_scored + 1,):
            return None
        store = SparseReference(
            offsets=arrays["offsets"],
            tokens=arrays["tokens"],
            log_probabilities=arrays["log_probabilities"],
            n_vocab=int(arrays["n_vocab"]),
        )
    return ReferenceLogits(plan=plan, nll=nll, store=store)


def same_windows(reference: ReferenceLogits, n_windows: int) -> ReferenceLogits:
    """The reference cut to its first `n_windows` windows, for a quicker look at many candidates."""
    plan = replace(reference.plan, tokens=reference.plan.tokens[:n_windows])
    # The stores index by scored position, so a shorter plan reads a prefix of them.
    return replace(reference, plan=plan, nll=reference.nll[: plan.n_scored])


def _check_vocabulary(session: LlamaSession, plan: WindowPlan, reference: ReferenceLogits | None) -> None:
    if reference is not None and session.n_vocab != reference.store.n_vocab:
        raise EvaluationError(
            f"{session.path.name} has a vocabulary of {session.n_vocab}, the reference of {reference.store.n_vocab}",
            hint="compare models that share a tokenizer",
        )
    if int(plan.tokens.max()) >= session.n_vocab:
        raise EvaluationError(
            f"{session.path.name}: the text was tokenized for a larger vocabulary ({int(plan.tokens.max())} is too high)"
        )


def _check_finite(path: Path, values: Float64) -> None:
    bad = int((~np.isfinite(values)).sum())
    if bad:
        raise EvaluationError(
            f"{path.name}: {bad} of {len(values)} scored positions are not finite",
            hint="the file holds damaged or overflowing weights",
        )


def engine_version() -> str:
    """What evaluates here, for the keys of stored results."""
    from importlib.metadata import version

    return f"llama-cpp-python {version('llama-cpp-python')}"
