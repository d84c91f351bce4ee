"""Codebook types: what we write is what libggml reads, for any entries, signs and scales."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ramp_edge.codec.codebooks import BLOCK_COLS, SIGN_COLS, codebook
from ramp_edge.codec.ggml import decode, encode
from ramp_edge.codec.types import QuantType

TYPES = (QuantType.IQ2_XXS, QuantType.IQ2_XS, QuantType.IQ2_S, QuantType.IQ3_XXS, QuantType.IQ3_S)


@pytest.mark.parametrize("quant_type", TYPES)
@given(seed=st.integers(0, 2**31))
@settings(max_examples=20)
def test_bytes_mean_what_they_were_made_of(quant_type: QuantType, seed: int) -> None:
    book = codebook(quant_type)
    assert book is not None
    rng = np.random.default_rng(seed)
    n = 3
    d = rng.uniform(0.01, 2, n).astype(np.float16).astype(np.float32)
    scales = rng.integers(0, 16, (n, BLOCK_COLS // book.scale_cols)).astype(np.uint8)
    entries = rng.integers(0, len(book.grid), (n, BLOCK_COLS // book.width))
    negative = rng.integers(0, 2, (n, BLOCK_COLS)).astype(np.uint8)
    if book.even_signs:
        groups = negative.reshape(n, -1, SIGN_COLS)
        groups[:, :, -1] = groups[:, :, :-1].sum(axis=2) % 2
    data = book.write(d, scales, entries, negative)
    assert data.dtype == np.uint8
    assert data.shape == (n, quant_type.block_bytes)
    steps = d[:, None] * (book.offset + book.slope * scales.astype(np.float32))
    values = book.grid[entries].reshape(n, BLOCK_COLS) * np.where(negative == 1, -1.0, 1.0)
    wanted = np.repeat(steps, book.scale_cols, axis=1) * values
    assert decode(quant_type, data, BLOCK_COLS) == pytest.approx(wanted, rel=1e-5)
    read_d, read_scales = book.read_scales(data)
    assert (read_d == d).all()
    assert (read_scales == scales).all()


@pytest.mark.parametrize("quant_type", TYPES)
def test_scales_of_ggml_s_own_bytes(quant_type: QuantType) -> None:
    """With ggml's scales, each of its weights is a grid value."""
    book = codebook(quant_type)
    assert book is not None
    rows = np.random.default_rng(0).standard_normal((2, BLOCK_COLS)).astype(np.float32)
    data = encode(quant_type, rows, np.ones(BLOCK_COLS, np.float32))
    d, scales = book.read_scales(data)
    steps = np.repeat(d[:, None] * (book.offset + book.slope * scales.astype(np.float32)), book.scale_cols, axis=1)
    magnitudes = np.abs(decode(quant_type, data, BLOCK_COLS) / steps)
    assert np.abs(magnitudes[..., None] - np.unique(book.grid)).min(axis=-1).max() < 1e-3


def test_other_types_have_none() -> None:
    for quant_type in (QuantType.Q4_0, QuantType.Q2_K, QuantType.IQ4_XS, QuantType.IQ1_S, QuantType.F16):
        assert codebook(quant_type) is None
