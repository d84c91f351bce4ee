"""Neighbouring scales: the codec's own among them, all of them storable, any pick read back as it was offered."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ramp_edge.codec.ggml import encode
from ramp_edge.codec.layouts import LAYOUTS
from ramp_edge.codec.types import QuantType
from ramp_edge.quantize.neighbours import neighbours
from ramp_edge.quantize.search import THOROUGH

BLOCKS = 4
SUB_SCALED = [t for t, layout in LAYOUTS.items() if layout.sub_d_range is not None]


@pytest.mark.parametrize("quant_type", SUB_SCALED, ids=lambda t: t.name)
@given(seed=st.integers(0, 2**32 - 1), scale=st.sampled_from([0.0, 1e-6, 1.0, 1e4]))
@settings(max_examples=15, deadline=None)
def test_every_candidate_can_be_stored(quant_type: QuantType, seed: int, scale: float) -> None:
    layout, rng = LAYOUTS[quant_type], np.random.default_rng(seed)
    rows = (rng.standard_normal((BLOCKS, quant_type.block_size)) * scale).astype(np.float32)
    scales = layout.read(encode(quant_type, rows, np.ones(quant_type.block_size, np.float32)))
    near = neighbours(layout, scales, THOROUGH)
    np.testing.assert_array_equal(near.steps[:, :, 0], scales.steps())
    np.testing.assert_array_equal(near.offsets[:, :, 0], scales.offsets())
    assert np.isfinite(near.steps).all() and np.isfinite(near.offsets).all()
    picks = rng.integers(0, near.steps.shape[2], near.steps.shape[:2], dtype=np.int32)
    stored = layout.read(layout.write(near.picked(picks), np.zeros(rows.shape, np.uint8)))
    np.testing.assert_array_equal(stored.steps(), np.take_along_axis(near.steps, picks[..., None], 2)[..., 0])
    np.testing.assert_array_equal(stored.offsets(), np.take_along_axis(near.offsets, picks[..., None], 2)[..., 0])
