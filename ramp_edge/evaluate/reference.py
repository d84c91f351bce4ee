"""What is kept of the reference model so that others can be compared with it, without a table of all its logits.

For 16 windows of 512 tokens and a vocabulary of 262,144, llama.cpp's base file takes 2.1 GB. Two compact forms:

- `HiddenReference`: the final hidden state of each scored position (n_embd floats). The logits are recomputed
  from the model's own output matrix when needed, with the rounding that ggml applies to the activations, block
  by block over the vocabulary. Used where a check on the first window shows that it reproduces the real logits.
- `SparseReference`: the most probable tokens (all but 1e-3 of the mass, at most 4096 of them), and one bucket for
  the rest. The divergence counts the bucket as one outcome, so it can only be understated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ramp_edge.codec.types import QuantType
from ramp_edge.evaluate.divergence import Flags
from ramp_edge.evaluate.perplexity import Float64
from ramp_edge.records import OutputHead

if TYPE_CHECKING:
    import torch

Float32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]

_VOCAB_BLOCK = 16384
"""Rows of the output matrix that are held as float32 at a time."""
PROBABILITY_FLOOR = math.exp(-16.0)
"""llama-perplexity leaves out reference probabilities of at most e^-16, and so does the divergence here."""
SPARSE_REST = 1e-3
"""Probability mass left to the bucket of `SparseReference`."""
SPARSE_MOST = 4096
"""Most tokens that it keeps of one position (a flat distribution would need nearly all)."""


@dataclass(frozen=True, kw_only=True)
class HiddenReference:
    """Hidden states of all scored positions, and the matrix that turns them into logits."""

    hidden: Float32
    """[n_scored, n_embd], after the final norm."""
    normalizers: Float64
    """[n_scored] log of the softmax denominator of the real logits."""
    top_tokens: Int32
    """[n_scored] most probable token."""
    head: OutputHead

    @property
    def n_vocab(self) -> int:
        return int(self.head.rows.shape[0])

    @property
    def stored_bytes(self) -> int:
        return int(self.hidden.nbytes + self.normalizers.nbytes + self.top_tokens.nbytes)

    def divergence(self, start: int, logits: torch.Tensor, normalizers: torch.Tensor) -> tuple[Float64, Flags]:
        """KL [n] and top-token agreement [n] of logits [n, n_vocab] at scored positions start, start + 1, ..."""
        import torch

        n = logits.shape[0]
        where = slice(start, start + n)
        hidden = round_like_ggml(torch.from_numpy(self.hidden[where]), self.head.quant_type)
        own = torch.from_numpy(self.normalizers[where])
        shift = own.float().unsqueeze(1)
        mass = torch.zeros(n, dtype=torch.float64)
        gap = torch.zeros(n, dtype=torch.float64)
        for first in range(0, self.n_vocab, _VOCAB_BLOCK):
            last = min(first + _VOCAB_BLOCK, self.n_vocab)
            reference = head_logits(self.head, hidden, first, last)
            difference = reference - logits[:, first:last]
            probability = reference.sub_(shift).exp_()
            torch.threshold_(probability, PROBABILITY_FLOOR, 0.0)
            mass += probability.sum(dim=1, dtype=torch.float64)
            gap += difference.mul_(probability).sum(dim=1, dtype=torch.float64)
        # sum p (log p_ref - log p) = sum p (logit_ref - logit) + sum p (normalizer - normalizer_ref)
        kl = gap + mass * (normalizers - own)
        same = logits.argmax(dim=1).numpy() == self.top_tokens[where]
        return kl.numpy(), same


@dataclass(frozen=True, kw_only=True)
class SparseReference:
    """The probable tokens of each scored position, in descending order, ragged."""

    offsets: Int64
    """[n_scored + 1] bounds of each position's entries."""
    tokens: Int32
    log_probabilities: Float32
    n_vocab: int

    @property
    def stored_bytes(self) -> int:
        return int(self.offsets.nbytes + self.tokens.nbytes + self.log_probabilities.nbytes)

    def divergence(self, start: int, logits: torch.Tensor, normalizers: torch.Tensor) -> tuple[Float64, Flags]:
        """KL [n] and top-token agreement [n] of logits [n, n_vocab] at scored positions start, start + 1, ..."""
        table = logits.numpy()
        log_totals = normalizers.numpy()
        n = table.shape[0]
        kl = np.empty(n)
        same = np.empty(n, dtype=np.bool_)
        for i in range(n):
            entries = slice(int(self.offsets[start + i]), int(self.offsets[start + i + 1]))
            ids = self.tokens[entries]
            log_p = self.log_probabilities[entries].astype(np.float64)
            log_q = table[i, ids].astype(np.float64) - log_totals[i]
            p = np.exp(log_p)
            kl[i] = float(p @ (log_p - log_q)) + _bucket_term(1.0 - p.sum(), 1.0 - np.exp(log_q).sum())
            same[i] = ids[0] == int(table[i].argmax())
        return kl, same


ReferenceStore = HiddenReference | SparseReference


def _bucket_term(p_rest: float, q_rest: float) -> float:
    # Both are differences of sums near one: below 1e-9 they are rounding.
    if p_rest < 1e-9:
        return 0.0
    return p_rest * float(np.log(p_rest / max(q_rest, 1e-9)))


def round_like_ggml(hidden: torch.Tensor, weight_type: QuantType) -> torch.Tensor:
    """Activations as ggml's matmul sees them: cast to the weights' float type, computed in float32."""
    if weight_type is QuantType.F16:
        return hidden.half().float()
    if weight_type is QuantType.BF16:
        return hidden.bfloat16().float()
    return hidden


def head_logits(head: OutputHead, hidden: torch.Tensor, first: int, last: int) -> torch.Tensor:
    """Logits of vocabulary rows first..last: hidden float32 [n, n_embd] -> float32 [n, last - first]."""
    import torch

    # A copy: torch refuses read-only memory, which a memory map is.
    raw = np.array(head.rows[first:last])
    if head.quant_type is QuantType.F16:
        weights = torch.from_numpy(raw.view(np.float16)).float()
    elif head.quant_type is QuantType.BF16:
        weights = torch.from_numpy(raw.view(np.int16)).view(torch.bfloat16).float()
    else:
        weights = torch.from_numpy(raw.view(np.float32))
    logits = hidden @ weights.T
    if head.softcap > 0:
        logits = torch.tanh_(logits.div_(head.softcap)).mul_(head.softcap)
    return logits


def sparse_entries(logits: torch.Tensor, normalizers: torch.Tensor) -> tuple[list[Int32], list[Float32]]:
    """Per row of logits [n, n_vocab]: ids and log-probabilities of the tokens to keep, most probable first."""
    values, order = logits.topk(min(SPARSE_MOST, logits.shape[1]), dim=1)
    log_p = values.double() - normalizers.unsqueeze(1)
    held = log_p.exp().cumsum(dim=1)
    counts = (held < 1.0 - SPARSE_REST).sum(dim=1).add(1).clamp(max=values.shape[1]).tolist()
    ids = [order[i, :count].int().numpy().copy() for i, count in enumerate(counts)]
    return ids, [log_p[i, :count].float().numpy().copy() for i, count in enumerate(counts)]
