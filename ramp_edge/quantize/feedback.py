"""Error feedback with the stock codec.

Every GGUF type quantizes a row in independent blocks, so a row's bytes are the concatenation of its blocks' bytes.
Quantize the first slab of columns, push its error into the columns still to come, quantize the next slab, and so on: the
bytes are an ordinary GGUF tensor, only better chosen.

For IQ1 ggml's codec does the slab as it is; for the other codebook types it gives the scales, and entries and signs are chosen
under feedback, a few columns at a time (`codebook_rows.py`). Scalar types are coded column by column, each error going
to all columns after it; a group of columns takes the best of several scales around a fit (`plain_rows.py`,
`sub_scaled_rows.py`). At the end single codes move up or down while that lowers the row's output error.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ramp_edge.codec.codebooks import Codebook, codebook
from ramp_edge.codec.ggml import Bytes, Float32, decode, encode
from ramp_edge.codec.layouts import LAYOUTS, Layout, Scales
from ramp_edge.codec.types import QuantType
from ramp_edge.quantize.hessian import FeedbackFactor
from ramp_edge.quantize.search import THOROUGH, Search, fit_trials, scale_moves, sub_scale_shifts


def quantize_rows(
    quant_type: QuantType, rows: Float32, factor: FeedbackFactor | None, search: Search = THOROUGH
) -> tuple[Bytes, Float32]:
    """Quantize `rows` [n_rows, n_cols] -> (uint8 [n_rows, row_bytes], the float32 rows that those bytes mean).

    With `factor`, each block hands its error to the columns that are coded after it; without, the codec runs as it is. Rows are independent: another split of the rows gives the same bytes but for the rounding of float sums.
    """
    if factor is None or quant_type.is_float:
        data = encode(quant_type, rows)
    elif (layout := LAYOUTS.get(quant_type)) is not None:
        data = (_plain_rows if layout.sub_d_range is None else _sub_scaled_rows)(layout, rows, factor, search)
    else:
        book = codebook(quant_type)
        data = _slabs(quant_type, rows, factor) if book is None else _codebook_rows(book, rows, factor, search)
    return data, decode(quant_type, data, rows.shape[1])


def _coded_slab(
    work: torch.Tensor, start: int, quant_type: QuantType, factor: FeedbackFactor, importance: Float32
) -> Bytes:
    """ggml's bytes for a slab of `work` as it stands, the block's columns as they lie in the file."""
    end = start + quant_type.block_size
    within = np.argsort(factor.order[start:end])
    target = np.ascontiguousarray(work[:, start:end].numpy()[:, within])
    return encode(quant_type, target, importance[start:end][within])


def _codebook_rows(book: Codebook, rows: Float32, factor: FeedbackFactor, search: Search) -> Bytes:
    """Types whose weights take their values a few at a time: ggml's scales, entries under feedback."""
    # numba takes a second to import: only what quantizes needs it.
    from ramp_edge.quantize.codebook_rows import choose_entries

    quant_type, (n_rows, n_cols) = book.quant_type, rows.shape
    slab = quant_type.block_size
    work = np.ascontiguousarray(rows[:, factor.order], dtype=np.float32)
    importance, grid = factor.importance(slab), np.ascontiguousarray(book.grid.T)
    root, inverse = factor.root.numpy(), factor.inverse.numpy()
    d = np.empty((n_rows, n_cols // slab), np.float32)
    scales = np.empty((n_rows, n_cols // book.scale_cols), np.uint8)
    entries = np.empty((n_rows, n_cols // book.width), np.int64)
    negative = np.empty((n_rows, n_cols), np.uint8)
    for start in range(0, n_cols, slab):
        data = _coded_slab(torch.from_numpy(work), start, quant_type, factor, importance)
        own_d, in_file = book.read_scales(data)
        # The slab's part of each array, all in coding order.
        parts = (slice(start // size, (start + slab) // size) for size in (book.scale_cols, book.width, 1))
        own_scales, own_entries, own_negative = (
            v[:, p] for v, p in zip((scales, entries, negative), parts, strict=True)
        )
        order = factor.order[start : start + slab : book.scale_cols]
        own_scales[:] = in_file[:, (order - order.min()) // book.scale_cols]
        d[:, start // slab] = own_d
        choose_entries(
            work, start, own_d, own_scales, grid, np.float32(book.offset), np.float32(book.slope), book.even_signs,
            search.codebook_reach, root, inverse, own_entries, own_negative,
        )  # fmt: skip
    d, scales, entries, negative = (_as_in_file(v, factor, n_cols) for v in (d, scales, entries, negative))
    n_blocks = n_rows * d.shape[1]
    return book.write(
        d.reshape(-1), scales.reshape(n_blocks, -1), entries.reshape(n_blocks, -1), negative.reshape(n_blocks, -1)
    ).reshape(n_rows, -1)


def _slabs(quant_type: QuantType, rows: Float32, factor: FeedbackFactor) -> Bytes:
    """Types that ggml's codec does a slab at a time."""
    slab, (n_rows, n_cols) = quant_type.block_size, rows.shape
    work = torch.from_numpy(np.ascontiguousarray(rows[:, factor.order], dtype=np.float32))
    importance = factor.importance(slab)
    blocks = np.empty((n_rows, n_cols // slab, quant_type.block_bytes), dtype=np.uint8)
    for start in range(0, n_cols, slab):
        data = _coded_slab(work, start, quant_type, factor, importance)
        blocks[:, factor.order[start] // slab] = data
        within = np.argsort(factor.order[start : start + slab])
        target = work[:, start : start + slab].numpy()
        error = np.empty_like(target)
        error[:, within] = target[:, within] - decode(quant_type, data, slab)
        _hand_on(work, error, factor, start)
    return blocks.reshape(n_rows, -1)


def _plain_rows(layout: Layout, rows: Float32, factor: FeedbackFactor, search: Search) -> Bytes:
    # numba takes a second to import: only what quantizes needs it.
    from ramp_edge.quantize.plain_rows import round_plain_rows

    n_rows, n_cols = rows.shape
    codes = np.empty((n_rows, n_cols), dtype=np.uint8)
    steps, offsets = np.empty((2, n_rows, n_cols // layout.group_cols), dtype=np.float32)
    rows = rows[:, factor.order]
    round_plain_rows(
        rows.astype(np.float32, order="C", copy=True),
        layout.levels,
        layout.uniform,
        layout.nearest_codes,
        layout.minimum,
        fit_trials(layout, search),
        scale_moves(layout, search),
        factor.root.diagonal().numpy(),
        factor.inverse.numpy(),
        codes,
        steps,
        offsets,
    )
    _descend(layout, rows, codes, steps, offsets, factor, search)
    codes, steps, offsets = (_as_in_file(v, factor, n_cols) for v in (codes, steps, offsets))
    scales = Scales(d=steps.reshape(-1), m=offsets.reshape(-1) if layout.minimum else None)
    return layout.write(scales, codes.reshape(-1, layout.group_cols)).reshape(n_rows, -1)


def _sub_scaled_rows(layout: Layout, rows: Float32, factor: FeedbackFactor, search: Search) -> Bytes:
    from ramp_edge.quantize.sub_scaled_rows import BLOCK_COLS, round_sub_scaled_rows

    assert layout.sub_d_range is not None
    n_rows, n_cols = rows.shape
    n_groups = BLOCK_COLS // layout.group_cols
    codes = np.empty((n_rows, n_cols), dtype=np.uint8)
    d, m = np.zeros((2, n_rows, n_cols // BLOCK_COLS), dtype=np.float32)
    sub_d, sub_m = np.zeros((2, n_rows, n_cols // layout.group_cols), dtype=np.int32)
    rows = rows[:, factor.order]
    round_sub_scaled_rows(
        rows.astype(np.float32, order="C", copy=True),
        layout.levels,
        layout.uniform,
        layout.nearest_codes,
        layout.minimum,
        layout.group_cols,
        *layout.sub_d_range,
        layout.sub_m_max or 0,
        fit_trials(layout, search),
        sub_scale_shifts(layout, search),
        factor.root.diagonal().numpy(),
        factor.inverse.numpy(),
        codes,
        d,
        m,
        sub_d,
        sub_m,
    )
    steps = np.repeat(d, n_groups, axis=1) * sub_d
    offsets = -np.repeat(m, n_groups, axis=1) * sub_m
    _descend(layout, rows, codes, steps.astype(np.float32), offsets.astype(np.float32), factor, search)
    codes, d, m, sub_d, sub_m = (_as_in_file(v, factor, n_cols) for v in (codes, d, m, sub_d, sub_m))
    scales = Scales(
        d=d.reshape(-1),
        m=m.reshape(-1) if layout.minimum else None,
        sub_d=sub_d.reshape(-1, n_groups),
        sub_m=sub_m.reshape(-1, n_groups) if layout.minimum else None,
    )
    return layout.write(scales, codes.reshape(-1, BLOCK_COLS)).reshape(n_rows, -1)


def _as_in_file(values: npt.NDArray[Any], factor: FeedbackFactor, n_cols: int) -> npt.NDArray[Any]:
    """Values [n_rows, n] of columns, groups or blocks, from the coding order to the file's."""
    size = n_cols // values.shape[1]
    places = factor.order[::size] // size
    out = np.empty_like(values)
    out[:, places] = values
    return out


def _descend(
    layout: Layout,
    rows: Float32,
    codes: Bytes,
    steps: Float32,
    offsets: Float32,
    factor: FeedbackFactor,
    search: Search,
) -> None:
    from ramp_edge.quantize.rounding import descend

    error = torch.from_numpy(rows - _meaning(layout, codes, steps, offsets))
    descend(codes, steps, layout.levels, factor.hessian.numpy(), (error @ factor.hessian).numpy(), search.sweeps)


def _meaning(layout: Layout, codes: Bytes, steps: Float32, offsets: Float32) -> Float32:
    """float32 [n_rows, width]"""
    steps, offsets = (np.repeat(v, layout.group_cols, axis=1) for v in (steps, offsets))
    values: Float32 = steps * layout.levels[codes] + offsets
    return values


def _hand_on(work: torch.Tensor, error: Float32, factor: FeedbackFactor, start: int) -> None:
    """Correct the columns of `work` after a slab for the slab's error [n_rows, width], in place."""
    end = start + error.shape[1]
    if end < work.shape[1]:
        scaled = torch.from_numpy(error) @ factor.root[start:end, start:end]
        work[:, end:].addmm_(scaled, factor.inverse[start:end, end:], alpha=-1.0)
