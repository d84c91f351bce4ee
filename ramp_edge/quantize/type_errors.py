"""What each type costs a tensor beside plain 4-bit rounding: the codecs at work on a few of its rows, no gradients.

The policy's features say what plain rounding of a tensor costs in KL; this says how many times as much another type costs it. Both errors
are taken after error feedback, as sum_r |E_r R|^2 with H = R R^T of the tensor's input (`feedback_root.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import torch

from ramp_edge.codec.types import QuantType
from ramp_edge.plain_rounding import rounding_error
from ramp_edge.quantize.hessian import FeedbackFactor
from ramp_edge.quantize.search import Search
from ramp_edge.quantize.sensitivity import row_errors
from ramp_edge.records import TensorInfo

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]
ROWS = 48
"""Rows of a tensor that go through every type."""
_TINY = 1e-30


def few_rows(tensor: TensorInfo) -> Int64:
    """At most ROWS rows, evenly strided."""
    rows: Int64 = np.linspace(0, tensor.n_rows - 1, min(tensor.n_rows, ROWS)).round().astype(np.int64)
    return rows


def relative_errors(
    weights: Float32,
    rows: Int64,
    types: Sequence[QuantType],
    factor: FeedbackFactor | None,
    pool: ThreadPoolExecutor,
    search: Search,
) -> dict[QuantType, float]:
    """Squared output error of `rows`, whose weights are [n_rows, n_cols], in each type over that of plain 4-bit rounding; 1 where
    nothing is left to lose by either."""
    squares = rounding_error(torch.from_numpy(weights)).double().square()
    # Handed on, plain rounding's errors cost their squares times the price of each column.
    yardstick = float((squares if factor is None else squares * torch.from_numpy(factor.price())).sum())
    found = row_errors(weights, rows, types, factor, pool, search)
    return {t: (_cost(error, factor) + _TINY) / (yardstick + _TINY) for t, error in found.errors.items()}


def _cost(errors: torch.Tensor, factor: FeedbackFactor | None) -> float:
    if factor is None:
        return float(errors.double().square().sum())
    return float((errors[:, torch.from_numpy(factor.order)] @ factor.root).double().square().sum())
