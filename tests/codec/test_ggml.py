"""libggml's codecs through ctypes: conformance with gguf-py, errors, threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from gguf.constants import GGMLQuantizationType
from gguf.quants import dequantize, quantize

from ramp_edge.codec.ggml import decode, encode, round_trip
from ramp_edge.codec.types import QUANTIZED_TYPES, QuantType

# What gguf 0.19 quantizes itself. Its K- and IQ-types only dequantize.
GGUF_QUANTIZES = [QuantType[n] for n in ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")]
N_ROWS, N_COLS = 6, 512

# Relative RMS error of normal weights with equal importance: measured.
ERRORS = {
    "Q4_0": 0.0810, "Q4_1": 0.0691, "Q5_0": 0.0401, "Q5_1": 0.0336, "Q8_0": 0.0053, "Q2_K": 0.2659,
    "Q3_K": 0.1437, "Q4_K": 0.0700, "Q5_K": 0.0352, "Q6_K": 0.0172, "IQ2_XXS": 0.3442, "IQ2_XS": 0.2993,
    "IQ3_XXS": 0.1814, "IQ1_S": 0.4845, "IQ4_NL": 0.0746, "IQ3_S": 0.1366, "IQ2_S": 0.2490, "IQ4_XS": 0.0753,
    "IQ1_M": 0.4500,
}  # fmt: skip


@pytest.fixture
def rows() -> np.ndarray:
    return np.random.default_rng(3).standard_normal((N_ROWS, N_COLS)).astype(np.float32)


def importance(n_cols: int = N_COLS) -> np.ndarray:
    return np.ones(n_cols, dtype=np.float32)


@pytest.mark.parametrize("quant_type", GGUF_QUANTIZES, ids=lambda t: t.name)
@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e3])
def test_bytes_equal_gguf_pys(quant_type: QuantType, scale: float, rows: np.ndarray) -> None:
    rows = (rows * np.float32(scale)).astype(np.float32)
    theirs = quantize(rows, GGMLQuantizationType(quant_type.value))
    np.testing.assert_array_equal(encode(quant_type, rows), theirs.view(np.uint8).reshape(N_ROWS, -1))


@pytest.mark.parametrize("quant_type", list(QuantType), ids=lambda t: t.name)
def test_values_equal_gguf_pys(quant_type: QuantType, rows: np.ndarray) -> None:
    data = encode(quant_type, rows, importance())
    stored = (
        data.view(np.float32)
        if quant_type is QuantType.F32
        else data.view(np.float16)
        if quant_type is QuantType.F16
        else data
    )
    theirs = dequantize(stored, GGMLQuantizationType(quant_type.value))
    # gguf-py sums in another order for some K-types: last-bit differences of float32.
    np.testing.assert_allclose(decode(quant_type, data, N_COLS), theirs, rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("quant_type", QUANTIZED_TYPES, ids=lambda t: t.name)
def test_round_trip_error_is_the_types_own(quant_type: QuantType) -> None:
    rows = np.random.default_rng(4).standard_normal((32, 1024)).astype(np.float32)
    back = round_trip(quant_type, rows, importance(1024))
    error = float(np.sqrt(np.mean((back - rows) ** 2) / np.mean(rows**2)))
    assert error == pytest.approx(ERRORS[quant_type.name], rel=0.03)


@pytest.mark.parametrize("quant_type", QUANTIZED_TYPES, ids=lambda t: t.name)
def test_zero_rows_stay_zero(quant_type: QuantType) -> None:
    zeros = np.zeros((2, 256), dtype=np.float32)
    assert np.abs(round_trip(quant_type, zeros, importance(256))).max() < 1e-6


@pytest.mark.parametrize(
    "quant_type", [QuantType.Q4_K, QuantType.IQ4_NL, QuantType.Q3_K, QuantType.IQ2_S], ids=lambda t: t.name
)
def test_important_columns_get_smaller_errors(quant_type: QuantType) -> None:
    rows = np.random.default_rng(5).standard_normal((64, 256)).astype(np.float32)
    loud = importance(256)
    loud[::8] = 100.0
    plain = (round_trip(quant_type, rows, importance(256)) - rows)[:, ::8]
    weighted = (round_trip(quant_type, rows, loud) - rows)[:, ::8]
    assert (weighted**2).mean() < 0.9 * (plain**2).mean()


@pytest.mark.parametrize("quant_type", [t for t in QuantType if t.needs_imatrix], ids=lambda t: t.name)
def test_types_that_need_importance_refuse_to_go_without(quant_type: QuantType, rows: np.ndarray) -> None:
    with pytest.raises(ValueError, match="importance"):
        encode(quant_type, rows)


def test_wrong_shapes_are_refused(rows: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"importance has shape \(256,\), the rows have 512 columns"):
        encode(QuantType.Q4_K, rows, importance(256))
    with pytest.raises(ValueError, match="float32 matrix"):
        encode(QuantType.Q4_K, rows.astype(np.float64))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="float32 matrix"):
        encode(QuantType.Q4_K, rows[0])
    with pytest.raises(ValueError, match="row of 500 weights"):
        encode(QuantType.Q4_0, rows[:, :500])
    with pytest.raises(ValueError, match="cannot have shape"):
        decode(QuantType.Q4_0, np.zeros((2, 17), dtype=np.uint8), 32)


def test_views_with_strides_are_encoded_like_copies(rows: np.ndarray) -> None:
    view = rows[::2, 256:]
    np.testing.assert_array_equal(encode(QuantType.Q4_K, view), encode(QuantType.Q4_K, view.copy()))


@pytest.mark.parametrize("quant_type", [QuantType.Q4_K, QuantType.IQ2_XS, QuantType.IQ3_S], ids=lambda t: t.name)
def test_threads_give_the_same_bytes(quant_type: QuantType) -> None:
    rows = np.random.default_rng(6).standard_normal((64, 256)).astype(np.float32)
    whole = encode(quant_type, rows, importance(256))
    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(lambda at: encode(quant_type, rows[at : at + 8], importance(256)), range(0, 64, 8)))
    np.testing.assert_array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize("quant_type", QUANTIZED_TYPES, ids=lambda t: t.name)
def test_row_bytes_are_the_blocks_bytes_in_order(quant_type: QuantType) -> None:
    """Error feedback codes a row slab by slab: that holds only where blocks are independent of their neighbours."""
    rows = np.random.default_rng(7).standard_normal((4, 512)).astype(np.float32)
    weights = np.random.default_rng(8).uniform(0.5, 2.0, 512).astype(np.float32)
    halves = [
        encode(quant_type, np.ascontiguousarray(rows[:, s]), weights[s]) for s in (slice(0, 256), slice(256, 512))
    ]
    # Some codecs scale the weights by the whole row's energy, so bytes may differ by rounding; the meaning may not by much.
    joined = decode(quant_type, np.concatenate(halves, axis=1), 512)
    parts = np.concatenate([decode(quant_type, half, 256) for half in halves], axis=1)
    np.testing.assert_array_equal(joined, parts)
