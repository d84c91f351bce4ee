"""A model and its context in libllama, closed deterministically; every failure is an EvaluationError with libllama's own words.

libllama aborts the whole process on some misuse (too many tokens, more outputs than announced, unknown token
ids), so this wrapper checks its arguments before each call.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from ramp_edge.codec.libllama import captured_log, last_log_lines, libllama, telling_lines
from ramp_edge.errors import EvaluationError
from ramp_edge.threads import MAX_THREADS, default_threads

Tokens = npt.NDArray[np.int32]
Float32 = npt.NDArray[np.float32]

OUTPUT_BUFFER_BYTES = 128 * 2**20
"""Logits that one decode call may produce; bounds memory for a vocabulary of 262,144 tokens."""


class LlamaVocabulary:
    """Tokenizer of a GGUF, loaded without its weights."""

    def __init__(self, path: Path) -> None:
        self._lib = libllama()
        params = self._lib.llama_model_default_params()
        params.vocab_only = True
        self.path = path
        self._model: Any = _load_model(self._lib, path, params)
        self._vocab = self._lib.llama_model_get_vocab(self._model)
        self.n_vocab = int(self._lib.llama_vocab_n_tokens(self._vocab))
        self.add_bos = bool(self._lib.llama_vocab_get_add_bos(self._vocab))
        self.bos = int(self._lib.llama_vocab_bos(self._vocab))

    def tokenize(self, text: str | bytes, *, add_special: bool = True) -> Tokens:
        """Token ids, int32 [n]; text that spells a special token stays text, as in llama-perplexity."""
        return _tokenize(self._lib, self._vocab, text, add_special=add_special)

    def close(self) -> None:
        """Free the model; safe to call twice."""
        if self._model is not None:
            self._lib.llama_model_free(self._model)
            self._model = None

    def __enter__(self) -> LlamaVocabulary:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class LlamaSession:
    """One model with one context of `n_ctx` tokens and a single sequence.

    `with_hidden` also yields the final hidden state (after the last norm) of every scored position;
    `cut_to_model` takes the model's own context where it is shorter than `n_ctx`.
    Raises EvaluationError where the file does not load or the context cannot be made.
    """

    def __init__(
        self,
        path: Path,
        *,
        n_ctx: int,
        threads: int | None = None,
        with_hidden: bool = False,
        max_outputs: int | None = None,
        cut_to_model: bool = False,
    ) -> None:
        if threads is not None and not 1 <= threads <= MAX_THREADS:
            raise ValueError(f"{threads} threads: libllama takes 1 to {MAX_THREADS}")
        self._lib = libllama()
        self._context: Any = None
        self._batch: Any = None
        self.path = path
        self.n_ctx = n_ctx
        self.with_hidden = with_hidden
        self.threads_fixed = threads is not None
        self._model: Any = _load_model(self._lib, path, self._lib.llama_model_default_params())
        try:
            self._vocab = self._lib.llama_model_get_vocab(self._model)
            self.n_vocab = int(self._lib.llama_vocab_n_tokens(self._vocab))
            self.n_embd = int(self._lib.llama_model_n_embd(self._model))
            self.n_ctx_train = int(self._lib.llama_model_n_ctx_train(self._model))
            self.add_bos = bool(self._lib.llama_vocab_get_add_bos(self._vocab))
            self.bos = int(self._lib.llama_vocab_bos(self._vocab))
            if cut_to_model:
                self.n_ctx = min(n_ctx, self.n_ctx_train)
            affordable = OUTPUT_BUFFER_BYTES // (4 * self.n_vocab)
            self.max_outputs = max(1, min(self.n_ctx, affordable, max_outputs or affordable))
            self._context = self._make_context(threads or default_threads())
            self._batch = self._lib.llama_batch_init(self.n_ctx, 0, 1)
        except BaseException:
            self.close()
            raise

    def _make_context(self, threads: int) -> Any:
        if not 0 < self.n_ctx <= self.n_ctx_train:
            raise EvaluationError(
                f"{self.path.name}: a context of {self.n_ctx} tokens was asked for, the model has {self.n_ctx_train}",
                hint=f"ask for at most {self.n_ctx_train}",
            )
        params = self._context_params(threads)
        params.n_batch = self.n_ctx
        params.n_ubatch = min(512, self.n_ctx)
        params.n_outputs_max = self.max_outputs
        return self._new_context(params, f"{self.n_ctx} tokens")

    def _context_params(self, threads: int) -> Any:
        """What every context of ours has in common."""
        params = self._lib.llama_context_default_params()
        params.n_ctx = self.n_ctx
        params.n_threads = params.n_threads_batch = threads
        params.pooling_type = self._lib.LLAMA_POOLING_TYPE_NONE
        params.no_perf = True
        return params

    def _new_context(self, params: Any, size: str) -> Any:
        with captured_log() as log:
            context = self._lib.llama_init_from_model(self._model, params)
        if not context:
            raise EvaluationError(f"{self.path.name}: no context of {size} could be made: {telling_lines(log)}")
        return context

    def tokenize(self, text: str | bytes, *, add_special: bool = True) -> Tokens:
        """Token ids, int32 [n]."""
        return _tokenize(self._lib, self._vocab, text, add_special=add_special)

    def piece(self, token: int, *, special: bool = False) -> bytes:
        """The bytes that a token stands for; a part of a character is possible."""
        import ctypes

        size = 64
        while True:
            buffer = ctypes.create_string_buffer(size)
            written = self._lib.llama_token_to_piece(self._vocab, token, buffer, size, 0, special)
            if written >= 0:
                return buffer.raw[:written]
            size = -written

    def is_end(self, token: int) -> bool:
        """True for tokens that end a text."""
        return bool(self._lib.llama_vocab_is_eog(self._vocab, token))

    def set_threads(self, threads: int) -> None:
        """Change the number of threads of the calls to come."""
        self._lib.llama_set_n_threads(self._context, threads, threads)

    def clear(self) -> None:
        """Forget the sequence."""
        self._lib.llama_memory_clear(self._lib.llama_get_memory(self._context), True)

    def feed(self, tokens: Tokens, start_position: int) -> None:
        """Append tokens at `start_position`, without outputs."""
        self._decode(tokens, start_position, outputs=0)

    def logits(self, tokens: Tokens, start_position: int) -> Float32:
        """Append at most `max_outputs` tokens; logits after each, float32 [n, n_vocab], a view until the next call."""
        self._decode(tokens, start_position, outputs=len(tokens))
        return self._rows(self._lib.llama_get_logits(self._context), len(tokens), self.n_vocab, "logits")

    def last_logits(self, tokens: Tokens, start_position: int) -> Float32:
        """Append tokens; logits after the last one, float32 [n_vocab], a view until the next call."""
        self._decode(tokens, start_position, outputs=1)
        row: Float32 = self._rows(self._lib.llama_get_logits(self._context), 1, self.n_vocab, "logits")[0]
        return row

    def hidden(self, n_tokens: int) -> Float32:
        """Final hidden states of the last `logits` call, float32 [n_tokens, n_embd], a view until the next call."""
        return self._rows(self._lib.llama_get_embeddings(self._context), n_tokens, self.n_embd, "hidden states")

    def _rows(self, pointer: Any, n_rows: int, n_cols: int, what: str) -> Float32:
        if not pointer:
            raise EvaluationError(f"{self.path.name}: libllama gave no {what}: {last_log_lines()}")
        rows: Float32 = np.ctypeslib.as_array(pointer, shape=(n_rows * n_cols,)).reshape(n_rows, n_cols)
        return rows

    def _decode(self, tokens: Tokens, start_position: int, *, outputs: int) -> None:
        n = len(tokens)
        if outputs > self.max_outputs or not 0 < n <= self.n_ctx - start_position:
            raise ValueError(f"{n} tokens at {start_position} with {outputs} outputs exceed the context or the buffer")
        if tokens.min() < 0 or tokens.max() >= self.n_vocab:
            raise EvaluationError(
                f"{self.path.name}: token ids reach {int(tokens.max())}, its vocabulary has {self.n_vocab}",
                hint="evaluate a model only with tokens of its own tokenizer",
            )
        batch = self._batch
        batch.n_tokens = n
        np.ctypeslib.as_array(batch.token, shape=(n,))[:] = tokens
        np.ctypeslib.as_array(batch.pos, shape=(n,))[:] = np.arange(start_position, start_position + n, dtype=np.int32)
        np.ctypeslib.as_array(batch.n_seq_id, shape=(n,))[:] = 1
        wanted = np.ctypeslib.as_array(batch.logits, shape=(n,))
        wanted[:] = 0
        wanted[n - outputs :] = 1
        for i in range(n):
            batch.seq_id[i][0] = 0
        # With embeddings on, libllama outputs every token of the call, so it is on only where all are wanted.
        self._lib.llama_set_embeddings(self._context, self.with_hidden and outputs == n)
        status = self._lib.llama_decode(self._context, batch)
        if status != 0:
            raise EvaluationError(f"{self.path.name}: libllama failed to decode (status {status}): {last_log_lines()}")

    def close(self) -> None:
        """Free batch, context and model; safe to call twice."""
        if self._batch is not None:
            self._lib.llama_batch_free(self._batch)
            self._batch = None
        if self._context is not None:
            self._lib.llama_free(self._context)
            self._context = None
        if self._model is not None:
            self._lib.llama_model_free(self._model)
            self._model = None

    def __enter__(self) -> LlamaSession:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()


def _load_model(lib: Any, path: Path, params: Any) -> Any:
    if not path.is_file():
        raise EvaluationError(f"{path} is not a file", hint="give the path of a GGUF file")
    with captured_log() as log:
        model = lib.llama_model_load_from_file(os.fsencode(path), params)
    if not model:
        raise EvaluationError(
            f"libllama cannot load {path}: {telling_lines(log)}", hint="it may be damaged, or newer than this libllama"
        )
    return model


def _tokenize(lib: Any, vocab: Any, text: str | bytes, *, add_special: bool) -> Tokens:
    data = text.encode("utf-8") if isinstance(text, str) else text
    size = len(data) + 8
    ids = np.empty(size, dtype=np.int32)
    pointer = ids.ctypes.data_as(_pointer_to(lib.llama_token))
    count = lib.llama_tokenize(vocab, data, len(data), pointer, size, add_special, False)
    if count < 0:
        raise EvaluationError(f"libllama could not tokenize {len(data)} bytes of text: {last_log_lines()}")
    tokens: Tokens = ids[:count].copy()
    return tokens


def _pointer_to(ctype: Any) -> Any:
    import ctypes

    return ctypes.POINTER(ctype)


def as_tokens(ids: Sequence[int] | npt.NDArray[Any]) -> Tokens:
    """Any integers as int32 token ids."""
    return np.asarray(ids, dtype=np.int32)
