"""A llama.cpp context whose cache is shared by many sequences: one decode call carries tokens of all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ramp_edge.codec.libllama import last_log_lines
from ramp_edge.errors import EvaluationError
from ramp_edge.evaluate.llama import Float32, LlamaSession, Tokens

BATCH_TOKENS = 512
"""Tokens of one decode call."""
_MAX_SEQUENCES = 256
"""LLAMA_MAX_SEQ (src/llama-cparams.h)."""


class PackedSession(LlamaSession):
    """A session of up to `n_sequences` sequences with `n_cells` tokens in all, shared ones counted once.

    Needs the unified cache (`kv_unified`): in the split one a token can belong to one sequence only.
    `max_outputs` bounds the logits of one call, as in LlamaSession.
    """

    def __init__(
        self,
        path: Path,
        *,
        n_cells: int,
        n_sequences: int,
        threads: int | None = None,
        max_outputs: int | None = None,
    ) -> None:
        if not 0 < n_sequences <= _MAX_SEQUENCES:
            raise ValueError(f"{n_sequences} sequences, libllama has at most {_MAX_SEQUENCES}")
        self.n_sequences = n_sequences
        # libllama pads to 256 cells in any case, and wants no more sequences than tokens in a batch.
        super().__init__(path, n_ctx=max(n_cells, _MAX_SEQUENCES), threads=threads, max_outputs=max_outputs)
        self._lib.llama_batch_free(self._batch)
        self._batch = self._lib.llama_batch_init(self._n_batch, 0, n_sequences)

    @property
    def _n_batch(self) -> int:
        return min(BATCH_TOKENS, self.n_ctx)

    def _make_context(self, threads: int) -> Any:
        params = self._context_params(threads)
        params.n_batch = params.n_ubatch = self._n_batch
        params.n_seq_max = self.n_sequences
        params.kv_unified = True
        self.max_outputs = min(self.max_outputs, self._n_batch)
        # Fewer than one a sequence would trip an assertion in llama_context::output_reserve.
        params.n_outputs_max = max(self.max_outputs, self.n_sequences)
        return self._new_context(params, f"{self.n_ctx} tokens in {self.n_sequences} sequences")

    def packed_logits(
        self,
        tokens: Tokens,
        positions: npt.NDArray[np.int32],
        sequences: Sequence[range],
        wanted: npt.NDArray[np.bool_],
    ) -> Iterator[tuple[int, Float32]]:
        """Forget everything, then evaluate rows [n]; yields (first wanted row's rank, logits [k, n_vocab]) call by call.

        `wanted` [n] marks the rows whose logits are yielded, in order; a view, valid until the next one.
        """
        n = len(tokens)
        if not 0 < n <= self.n_ctx or not len(positions) == len(sequences) == len(wanted) == n:
            raise ValueError(f"{n} rows do not fit {self.n_ctx} cells, or are not described one by one")
        if tokens.min() < 0 or tokens.max() >= self.n_vocab:
            raise EvaluationError(
                f"{self.path.name}: token ids reach {int(tokens.max())}, its vocabulary has {self.n_vocab}"
            )
        self.clear()
        self._lib.llama_set_embeddings(self._context, False)
        rank = 0
        for start, end in self._calls(wanted):
            n_outputs = int(wanted[start:end].sum())
            self._decode_rows(tokens[start:end], positions[start:end], sequences[start:end], wanted[start:end])
            if n_outputs:
                logits = self._lib.llama_get_logits(self._context)
                yield rank, self._rows(logits, n_outputs, self.n_vocab, "logits")
            rank += n_outputs

    def _calls(self, wanted: npt.NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
        """Bounds of the decode calls: at most n_batch rows and max_outputs wanted ones each."""
        held = np.concatenate([[0], np.cumsum(wanted)])  # [n + 1] wanted rows before each row
        start = 0
        while start < len(wanted):
            end = int(np.searchsorted(held, held[start] + self.max_outputs, side="right")) - 1
            end = min(end, start + self._n_batch, len(wanted))
            yield start, end
            start = end

    def _decode_rows(
        self,
        tokens: Tokens,
        positions: npt.NDArray[np.int32],
        sequences: Sequence[range],
        wanted: npt.NDArray[np.bool_],
    ) -> None:
        n = len(tokens)
        batch = self._batch
        batch.n_tokens = n
        np.ctypeslib.as_array(batch.token, shape=(n,))[:] = tokens
        np.ctypeslib.as_array(batch.pos, shape=(n,))[:] = positions
        np.ctypeslib.as_array(batch.logits, shape=(n,))[:] = wanted
        np.ctypeslib.as_array(batch.n_seq_id, shape=(n,))[:] = [len(row) for row in sequences]
        for i, row in enumerate(sequences):
            if not 0 <= row.start < row.stop <= self.n_sequences:
                raise ValueError(f"row {i} belongs to sequences {row}, there are {self.n_sequences}")
            for j, sequence in enumerate(row):
                batch.seq_id[i][j] = sequence
        status = self._lib.llama_decode(self._context, batch)
        if status != 0:
            raise EvaluationError(f"{self.path.name}: libllama failed to decode (status {status}): {last_log_lines()}")

    def __enter__(self) -> PackedSession:
        return self
