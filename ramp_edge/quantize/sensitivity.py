"""The error table: predicted KL of every (tensor, type), from real codec errors after error feedback.

Each tensor's rows are sampled; for every type the sampled rows go through the same feedback quantization that emission
will use, and the error meets the Fisher samples (see `calibrate/fisher.py` for the formulas).
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from ramp_edge.codec.types import QuantType
from ramp_edge.quantize.feedback import quantize_rows
from ramp_edge.quantize.hessian import FeedbackFactor
from ramp_edge.quantize.search import THOROUGH, Search

Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True)
class RowErrors:
    """Codec errors W - W' of some rows of one tensor, for each type."""

    rows: Int64
    weights: Float32
    """[n_rows_chosen, n_cols]"""
    errors: dict[QuantType, torch.Tensor]
    """float32 [n_rows_chosen, n_cols] per type"""


def row_errors(
    weights: Float32,
    rows: Int64,
    types: Sequence[QuantType],
    factor: FeedbackFactor | None,
    pool: ThreadPoolExecutor,
    search: Search = THOROUGH,
) -> RowErrors:
    """Quantize the given rows in every type, in parallel over types."""

    def one(quant_type: QuantType) -> torch.Tensor:
        _, meaning = quantize_rows(quant_type, weights, factor, search)
        return torch.from_numpy(weights - meaning)

    # Slowest codecs first, so that no thread is left alone with one at the end.
    order = sorted(types, key=lambda t: t.bits_per_weight)
    return RowErrors(rows=rows, weights=weights, errors=dict(zip(order, pool.map(one, order), strict=True)))


def linear_kl(
    errors: RowErrors, gradients: torch.Tensor, row_gradient_sq: torch.Tensor, row_energy: Float32, tokens: int
) -> dict[QuantType, float]:
    """KL per token of a linear layer for each type.

    gradients [n_seq, n_rows_chosen, n_cols]; row_gradient_sq [n_rows] and row_energy [n_rows] (weighted squared norm
    of each row) scale the sampled rows up to all rows: a codec's error follows the row's energy.
    """
    share = row_gradient_sq.double() * torch.from_numpy(row_energy).double() + 1e-30
    scale = float(share.sum() / share[torch.from_numpy(errors.rows)].sum())
    result = {}
    for quant_type, error in errors.errors.items():
        per_row = torch.einsum("src,rc->sr", gradients, error)
        result[quant_type] = 0.5 * scale * float(per_row.square().sum(1).mean()) / tokens
    return result


def head_kl(errors: RowErrors, hidden: torch.Tensor, variance: torch.Tensor, coverage: float) -> dict[QuantType, float]:
    """KL per token of the output matrix: 1/2 mean_t sum_r p (1 - p) (E_r . h_t)^2, scaled by the rows' coverage."""
    result = {}
    for quant_type, error in errors.errors.items():
        shift = hidden @ error.T  # [n_tokens, n_rows_chosen]
        result[quant_type] = 0.5 * float((variance * shift.square()).sum(1).mean()) / coverage
    return result


def embedding_kl(errors: RowErrors, tokens: Int64, gradients: torch.Tensor) -> dict[QuantType, float]:
    """KL per token of the embedding's input side: rows are the distinct tokens, sorted; gradients [n_seq, time, n_embd]."""
    places = torch.from_numpy(np.searchsorted(errors.rows, tokens))  # [n_seq, time]
    time = tokens.shape[1]
    result = {}
    for quant_type, error in errors.errors.items():
        # Occurrences of one token share their row's error, so they add before squaring.
        shift = (gradients * error[places]).sum(-1)  # [n_seq, time]
        per_row = torch.zeros(tokens.shape[0], len(errors.rows)).scatter_add_(1, places, shift)
        result[quant_type] = 0.5 * float(per_row.square().sum(1).mean()) / time
    return result
