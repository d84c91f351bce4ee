"""The error of the stock codec, weighted by importance as llama.cpp has it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from ramp_edge.allocate.choices import Legal
from ramp_edge.codec.ggml import round_trip
from ramp_edge.codec.types import QuantType
from ramp_edge.pipeline.finalists import imatrix_of
from ramp_edge.quantize.table import Moments, sampled_rows
from ramp_edge.records import ModelInventory

Float32 = npt.NDArray[np.float32]
ROW_SHARE = 8
"""Errors are measured on one row in this many."""


def weighted_error(
    inventory: ModelInventory,
    moments: Moments,
    legal: Mapping[str, Legal],
    load_rows: Callable[[str, npt.NDArray[np.int64]], Float32],
    threads: int,
) -> dict[str, dict[QuantType, float]]:
    """Sum of importance times squared error of each tensor in each of its types; the embedding's importance is 1."""
    importance = imatrix_of(inventory, moments)

    def of_tensor(name: str) -> dict[QuantType, float]:
        tensor = inventory.tensor(name)
        rows = load_rows(name, sampled_rows(tensor, ROW_SHARE))
        weight = importance.get(name)
        squares = np.ones(tensor.n_cols, np.float32) if weight is None else weight
        scale = tensor.n_rows / len(rows)
        # llama.cpp weighs no output matrix, but codebook types cannot do without: all columns alike.
        return {
            t: scale
            * float(((rows - round_trip(t, rows, squares if t.needs_imatrix else weight)) ** 2 @ squares).sum())
            for t in legal[name].types
        }

    with ThreadPoolExecutor(threads) as pool:
        names = list(legal)
        return dict(zip(names, pool.map(of_tensor, names), strict=True))
