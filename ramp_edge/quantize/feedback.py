"""Error feedback with the stock codec.

Every GGUF type quantizes a row in independent blocks, so a row's bytes are the concatenation of its blocks' bytes.
Quantize the first slab of columns with ggml's codec, push its error into the columns still to come, quantize the
next slab, and so on: the bytes are an ordinary GGUF tensor, only better chosen.
"""

from __future__ import annotations

import numpy as np
import torch

from ramp_edge.codec.ggml import Bytes, Float32, decode, encode
from ramp_edge.codec.types import QuantType
from ramp_edge.quantize.hessian import FeedbackFactor


def quantize_rows(quant_type: QuantType, rows: Float32, factor: FeedbackFactor | None) -> tuple[Bytes, Float32]:
    """Quantize `rows` [n_rows, n_cols] -> (uint8 [n_rows, row_bytes], the float32 rows that those bytes mean).

    With `factor`, each slab (one block of the type) hands its error to the columns after it; without, the codec runs
    as it is. Rows are independent: another split of the rows gives the same bytes but for the rounding of float sums.
    """
    n_rows, n_cols = rows.shape
    if factor is None or quant_type.is_float:
        data = encode(quant_type, rows)
        return data, decode(quant_type, data, n_cols)
    slab = quant_type.block_size
    importance = factor.importance(slab)
    data = np.empty((n_rows, quant_type.row_bytes(n_cols)), dtype=np.uint8)
    meaning = np.empty((n_rows, n_cols), dtype=np.float32)
    work = torch.from_numpy(rows.astype(np.float32, copy=True))
    for start in range(0, n_cols, slab):
        end = start + slab
        target = np.ascontiguousarray(work[:, start:end].numpy())
        coded = encode(quant_type, target, importance[start:end])
        meaning[:, start:end] = decode(quant_type, coded, slab)
        first_byte = quant_type.row_bytes(start)
        data[:, first_byte : first_byte + coded.shape[1]] = coded
        if end < n_cols:
            error = torch.from_numpy(target - meaning[:, start:end])
            scaled = error @ factor.root[start:end, start:end]
            work[:, end:].addmm_(scaled, factor.inverse[start:end, end:], alpha=-1.0)
    return data, meaning
