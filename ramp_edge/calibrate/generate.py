"""Calibration text by the model itself: many sequences decoded in parallel through libllama, temperature 1.

Each sequence begins with the beginning-of-sequence token (or a seeded random token) and samples the whole softmax,
so that the text covers what the model finds likely. One seed gives one text on one machine.

The number of threads is chosen by timing, which must not show in the text. It does not while several sequences are decoded
side by side; for a single one ggml splits the attention among its threads, and their number decides the last digits.
"""

from __future__ import annotations

import ctypes
import os
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ramp_edge.codec.libllama import last_log_lines, libllama
from ramp_edge.errors import EvaluationError
from ramp_edge.events import EventBus
from ramp_edge.threads import ThreadChoice, default_threads

Tokens = npt.NDArray[np.int32]
KV_LIMIT_BYTES = 400_000_000
_TIMED_STEPS = 3
"""Decode steps timed with each number of threads."""


def _parallel(kv_bytes_per_token: int, size: int, count: int) -> int:
    return max(1, min(count, 32, KV_LIMIT_BYTES // max(1, kv_bytes_per_token * size)))


def sample_rows(logits: npt.NDArray[np.float32], rng: np.random.Generator) -> Tokens:
    """One token per row of [n, vocab] by inverting the softmax's cumulative sum."""
    p = np.exp(logits - logits.max(1, keepdims=True))
    cumulative = np.cumsum(p, axis=1, dtype=np.float64)
    draws = rng.random(len(p)) * cumulative[:, -1]
    picks = [int(np.searchsorted(row, draw, side="right")) for row, draw in zip(cumulative, draws, strict=True)]
    tokens: Tokens = np.minimum(np.array(picks, dtype=np.int32), np.int32(logits.shape[1] - 1))
    return tokens


def generate_windows(
    path: Path,
    *,
    count: int,
    size: int,
    seed: int,
    bos: int | None,
    vocab_size: int,
    kv_bytes_per_token: int,
    threads: int | None,
    events: EventBus,
) -> Tokens:
    """int32 [count, size] sampled from the model; `threads` None chooses by timing.

    Raises EvaluationError where libllama cannot run the model.
    """
    lib = libllama()
    params = lib.llama_model_default_params()
    model = lib.llama_model_load_from_file(os.fsencode(path), params)
    if not model:
        raise EvaluationError(f"libllama cannot load {path}: {last_log_lines()}")
    width = _parallel(kv_bytes_per_token, size, count)
    settings = lib.llama_context_default_params()
    settings.n_ctx = width * size
    settings.n_batch = settings.n_ubatch = max(32, width)
    settings.n_seq_max = width
    all_threads = threads or default_threads()
    settings.n_threads = settings.n_threads_batch = all_threads
    context = lib.llama_init_from_model(model, settings)
    if not context:
        lib.llama_model_free(model)
        raise EvaluationError(f"libllama cannot make a context for {path}: {last_log_lines()}")
    batch = lib.llama_batch_init(width, 0, 1)
    choice = ThreadChoice(all_threads, _TIMED_STEPS)
    rng = np.random.default_rng(seed)
    out = np.empty((count, size), dtype=np.int32)
    try:
        with events.stage("write calibration text", total=count * (size - 1), unit="tokens") as stage:
            for first in range(0, count, width):
                group = min(width, count - first)
                timed = threads is None and group > 1
                tokens = rng.integers(0, vocab_size, group).astype(np.int32)
                if bos is not None:
                    tokens[:] = bos
                lib.llama_memory_clear(lib.llama_get_memory(context), True)
                for position in range(size):
                    out[first : first + group, position] = tokens
                    if position + 1 == size:
                        break
                    _fill(batch, tokens, position)
                    n_threads = choice.threads if timed else all_threads
                    lib.llama_set_n_threads(context, n_threads, n_threads)
                    start_s = time.perf_counter()
                    if lib.llama_decode(context, batch):
                        raise EvaluationError(f"libllama cannot decode with {path}: {last_log_lines()}")
                    pointer = lib.llama_get_logits(context)
                    # A group's first step also builds the graph.
                    if timed and position > 0:
                        choice.report(time.perf_counter() - start_s)
                    logits = np.ctypeslib.as_array(pointer, shape=(group, vocab_size))
                    tokens = sample_rows(logits, rng)
                    stage.advance(group)
    finally:
        lib.llama_batch_free(batch)
        lib.llama_free(context)
        lib.llama_model_free(model)
    return out


def _fill(batch: ctypes.Structure, tokens: Tokens, position: int) -> None:
    batch.n_tokens = len(tokens)
    for index, token in enumerate(tokens):
        batch.token[index] = int(token)
        batch.pos[index] = position
        batch.n_seq_id[index] = 1
        batch.seq_id[index][0] = index
        batch.logits[index] = 1
