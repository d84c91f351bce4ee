"""Error feedback with the stock codec.

Every GGUF type quantizes a row in independent blocks, so a row's bytes are the concatenation of its blocks' bytes.
Quantize the first slab of columns with ggml's codec, push its error into the columns still to come, quantize the
next slab, and so on: the bytes are an ordinary GGUF tensor, only better chosen.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from ramp_edge.codec.ggml import Bytes, Float32, decode, encode
from ramp_edge.codec.types import QuantType
from ramp_edge.quantize.hessian import FeedbackFactor


def quantize_rows(
    quant_type: QuantType, rows: Float32, factor: FeedbackFactor | None, importance: Float32 | None = None
) -> Bytes:
    """Quantize `rows` [n_rows, n_cols] -> uint8 [n_rows, row_bytes], with error feedback where `factor` is given.

    Rows are independent: any split of the rows gives the same bytes. `importance` is used only without `factor`.
    """
    if factor is None or quant_type.is_float:
        return encode(quant_type, rows, importance)
    n_rows, n_cols = rows.shape
    slab = factor.slab_cols
    if slab % quant_type.block_size:
        raise ValueError(f"slabs of {slab} columns cut {quant_type.name}'s blocks of {quant_type.block_size}")
    out = np.empty((n_rows, quant_type.row_bytes(n_cols)), dtype=np.uint8)
    work = torch.from_numpy(rows.astype(np.float32, copy=True))
    for start in range(0, n_cols, slab):
        end = min(start + slab, n_cols)
        target = np.ascontiguousarray(work[:, start:end].numpy())
        data = encode(quant_type, target, factor.importance[start:end])
        first_byte = quant_type.row_bytes(start)
        out[:, first_byte : first_byte + data.shape[1]] = data
        if end < n_cols:
            error = torch.from_numpy(target - decode(quant_type, data, end - start))
            block = factor.upper[start:end, start:end]
            # E U_ss^-1, then into every later column at once.
            scaled = torch.linalg.solve_triangular(block, error, upper=True, left=False)
            work[:, end:].addmm_(scaled, factor.upper[start:end, end:], alpha=-1.0)
    return out


def slab_width(quant_type: QuantType) -> int:
    """Columns quantized together: the type's own block, the smallest step that leaves blocks whole."""
    return quant_type.block_size


def dequantized(quant_type: QuantType, data: Bytes, n_cols: int) -> npt.NDArray[np.float32]:
    """float32 [n_rows, n_cols] of quantized rows."""
    return decode(quant_type, data, n_cols)
