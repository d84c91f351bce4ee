"""Bit layouts against libggml: what is written means what libggml decodes, and what libggml writes is read back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ramp_edge.codec.ggml import decode, encode
from ramp_edge.codec.layouts import LAYOUTS, Layout, Scales, to_float16
from ramp_edge.codec.types import QUANTIZED_TYPES, QuantType

CODEBOOK_TYPES = {"IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S"}
BLOCKS = 5


def meaning(layout: Layout, scales: Scales, codes: np.ndarray) -> np.ndarray:
    steps, offsets = (np.repeat(v, layout.group_cols, axis=1) for v in (scales.steps(), scales.offsets()))
    return steps * layout.levels[codes] + offsets


def random_block(quant_type: QuantType, rng: np.random.Generator) -> tuple[Scales, np.ndarray]:
    layout = LAYOUTS[quant_type]
    groups = (BLOCKS, quant_type.block_size // layout.group_cols)
    has_m = layout.sub_m_max is not None or quant_type in (QuantType.Q4_1, QuantType.Q5_1)
    low, high = layout.sub_d_range or (0, 0)
    scales = Scales(
        d=to_float16(rng.standard_normal(BLOCKS).astype(np.float32)),
        m=to_float16(rng.standard_normal(BLOCKS).astype(np.float32)) if has_m else None,
        sub_d=rng.integers(low, high + 1, groups, dtype=np.int32) if layout.sub_d_range else None,
        sub_m=rng.integers(0, layout.sub_m_max + 1, groups, dtype=np.int32) if layout.sub_m_max else None,
    )
    codes = rng.integers(0, len(layout.levels), (BLOCKS, quant_type.block_size), dtype=np.uint8)
    return scales, codes


def test_every_type_is_scalar_or_codebook() -> None:
    assert {t.name for t in QUANTIZED_TYPES} - {t.name for t in LAYOUTS} == CODEBOOK_TYPES


@pytest.mark.parametrize("quant_type", LAYOUTS, ids=lambda t: t.name)
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_any_scales_and_codes_are_what_libggml_decodes(quant_type: QuantType, seed: int) -> None:
    layout = LAYOUTS[quant_type]
    scales, codes = random_block(quant_type, np.random.default_rng(seed))
    data = layout.write(scales, codes)
    assert data.shape == (BLOCKS, quant_type.block_bytes) and data.dtype == np.uint8
    expected = meaning(layout, scales, codes)
    np.testing.assert_allclose(decode(quant_type, data, quant_type.block_size), expected, rtol=2e-6, atol=1e-6)
    again = layout.read(data)
    for name in ("d", "m", "sub_d", "sub_m"):
        np.testing.assert_array_equal(getattr(again, name), getattr(scales, name), err_msg=name)


@pytest.mark.parametrize("quant_type", LAYOUTS, ids=lambda t: t.name)
def test_the_codec_s_own_blocks_survive_reading_and_writing(quant_type: QuantType) -> None:
    layout, size = LAYOUTS[quant_type], quant_type.block_size
    rows = np.random.default_rng(2).standard_normal((64, size)).astype(np.float32)
    data = encode(quant_type, rows, np.ones(size, dtype=np.float32))
    scales, values = layout.read(data), decode(quant_type, data, size)
    steps, offsets = (np.repeat(v, layout.group_cols, axis=1)[..., None] for v in (scales.steps(), scales.offsets()))
    codes = np.abs(steps * layout.levels + offsets - values[..., None]).argmin(-1).astype(np.uint8)
    np.testing.assert_array_equal(layout.write(scales, codes), data)


def test_uniform_levels_are_told_from_others() -> None:
    assert {t.name for t, layout in LAYOUTS.items() if not layout.uniform} == {"IQ4_NL", "IQ4_XS"}
    assert all((np.diff(layout.levels) > 0).all() for layout in LAYOUTS.values())


@pytest.mark.parametrize("quant_type", [QuantType.IQ4_NL, QuantType.Q4_0], ids=lambda t: t.name)
def test_the_table_of_nearest_codes_is_exact(quant_type: QuantType) -> None:
    levels, table = LAYOUTS[quant_type].levels, LAYOUTS[quant_type].nearest_codes
    x = np.random.default_rng(0).uniform(levels[0] - 3, levels[-1] + 3, 20000).astype(np.float32)
    places = np.clip(np.floor(2 * (x - levels[0])).astype(int), 0, len(table) - 1)
    np.testing.assert_array_equal(table[places], np.abs(x[:, None] - levels).argmin(1))


def test_float16_saturates_instead_of_becoming_infinite() -> None:
    np.testing.assert_array_equal(
        to_float16(np.float32([1e9, -1e9, 0.1])), np.float32([65504, -65504, 0.0999755859375])
    )
