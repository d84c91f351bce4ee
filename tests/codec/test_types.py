"""The type table against gguf's and libggml's, and the arithmetic built on it."""

from __future__ import annotations

import pytest
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from hypothesis import given
from hypothesis import strategies as st

from ramp_edge.codec.types import FLOAT_TYPES, QUANTIZED_TYPES, QuantType, parse_type

# Facts of ggml's C structs (ggml-common.h), written out here on purpose: a wrong table must not pass unseen.
BITS_PER_WEIGHT = {
    "Q8_0": 8.5, "Q6_K": 6.5625, "Q5_K": 5.5, "Q5_1": 6.0, "Q5_0": 5.5, "Q4_K": 4.5, "Q4_1": 5.0, "Q4_0": 4.5,
    "IQ4_NL": 4.5, "IQ4_XS": 4.25, "Q3_K": 3.4375, "IQ3_S": 3.4375, "IQ3_XXS": 3.0625, "Q2_K": 2.625, "IQ2_S": 2.5625,
    "IQ2_XS": 2.3125, "IQ2_XXS": 2.0625, "IQ1_M": 1.75, "IQ1_S": 1.5625, "F32": 32.0, "F16": 16.0, "BF16": 16.0,
}  # fmt: skip
SMALL_BLOCKS = {"Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0", "IQ4_NL"}
any_type = st.sampled_from(list(QuantType))


@pytest.mark.parametrize("quant_type", list(QuantType), ids=lambda t: t.name)
def test_ids_and_sizes_are_ggufs(quant_type: QuantType) -> None:
    theirs = GGMLQuantizationType[quant_type.name]
    assert theirs.value == quant_type.value
    assert GGML_QUANT_SIZES[theirs] == (quant_type.block_size, quant_type.block_bytes)
    assert quant_type.bits_per_weight == BITS_PER_WEIGHT[quant_type.name]
    expected = 1 if quant_type.is_float else 32 if quant_type.name in SMALL_BLOCKS else 256
    assert quant_type.block_size == expected


def test_the_sets_cover_every_type_once() -> None:
    assert set(QUANTIZED_TYPES) | FLOAT_TYPES == set(QuantType)
    assert not set(QUANTIZED_TYPES) & FLOAT_TYPES
    assert set(BITS_PER_WEIGHT) == {t.name for t in QuantType}


@given(any_type, st.integers(1, 1 << 20))
def test_row_bytes_is_whole_blocks_or_an_error(quant_type: QuantType, n_cols: int) -> None:
    if n_cols % quant_type.block_size:
        with pytest.raises(ValueError, match=f"row of {n_cols} weights is not a multiple of {quant_type.name}'s block"):
            quant_type.row_bytes(n_cols)
    else:
        assert quant_type.row_bytes(n_cols) * 8 == n_cols * quant_type.bits_per_weight


@given(any_type, st.integers(1, 100), st.integers(1, 100))
def test_row_bytes_adds_up(quant_type: QuantType, first: int, second: int) -> None:
    a, b = first * quant_type.block_size, second * quant_type.block_size
    assert quant_type.row_bytes(a + b) == quant_type.row_bytes(a) + quant_type.row_bytes(b)


def test_names_are_parsed() -> None:
    assert parse_type(" q4_k ") is QuantType.Q4_K
    assert parse_type("iq4_xs") is QuantType.IQ4_XS
    with pytest.raises(KeyError):
        parse_type("Q4_K_M")
