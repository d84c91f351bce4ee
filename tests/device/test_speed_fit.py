"""The fit gives back the figures that times were made from, and stays usable on times that no figures make."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ramp_edge.codec.types import QuantType
from ramp_edge.device.speed_fit import Timing, fit_overheads, fit_speeds

CACHE_BYTES = 32_000_000
SHAPES = ((133_000_000, 4), (125_000_000, 64), (3_000_000, 4), (8_000_000, 16), (5_000_000, 2))
"""Matrix bytes and layers of the probe's models in Q8_0."""


def timings(
    per_byte_s: float, byte_in_cache_s: float, token_s: float, layer_s: float, in_cache_s: float
) -> list[Timing]:
    def seconds(size: int, n: int) -> float:
        inside = size <= CACHE_BYTES
        return size * (byte_in_cache_s if inside else per_byte_s) + token_s + n * (in_cache_s if inside else layer_s)

    return [Timing(matrix_bytes=size, n_layer=n, seconds=seconds(size, n)) for size, n in SHAPES]


@settings(deadline=None)
@given(
    st.floats(1e9, 1e12), st.floats(1e9, 1e12), st.floats(0, 1e-3), st.floats(0, 1e-3), st.floats(0, 1e-4)
)  # fmt: skip
def test_exact_times_give_their_own_prediction(
    bandwidth: float, in_cache: float, token_s: float, layer_s: float, in_cache_s: float
) -> None:
    points = timings(1 / bandwidth, 1 / in_cache, token_s, layer_s, in_cache_s)
    fit = fit_overheads(points, CACHE_BYTES)
    assert min(fit.token_s, fit.layer_s, fit.layer_in_cache_s) >= 0
    assert min(fit.seconds_per_byte, fit.seconds_per_byte_in_cache) > 0
    again = timings(fit.seconds_per_byte, fit.seconds_per_byte_in_cache, fit.token_s, fit.layer_s, fit.layer_in_cache_s)
    np.testing.assert_allclose([t.seconds for t in again], [t.seconds for t in points], rtol=1e-6)


def test_the_figures_themselves_come_back() -> None:
    fit = fit_overheads(timings(1 / 25e9, 1 / 60e9, 20e-6, 55e-6, 18e-6), CACHE_BYTES)
    assert fit.seconds_per_byte_in_cache == pytest.approx(1 / 60e9)
    assert (fit.seconds_per_byte, fit.token_s, fit.layer_s, fit.layer_in_cache_s) == pytest.approx(
        (1 / 25e9, 20e-6, 55e-6, 18e-6)
    )


def test_without_a_cache_both_figures_are_the_same() -> None:
    fit = fit_overheads(timings(1 / 10e9, 1 / 10e9, 100e-6, 30e-6, 30e-6), 0)
    assert fit.seconds_per_byte == fit.seconds_per_byte_in_cache == pytest.approx(1 / 10e9)
    assert fit.layer_s == fit.layer_in_cache_s == pytest.approx(30e-6)


@settings(deadline=None)
@given(st.lists(st.floats(1e-6, 1.0), min_size=5, max_size=5), st.sampled_from([0, CACHE_BYTES, 10**12]))
def test_any_times_give_usable_figures(seconds: list[float], cache_bytes: int) -> None:
    points = [Timing(matrix_bytes=b, n_layer=n, seconds=s) for (b, n), s in zip(SHAPES, seconds, strict=True)]
    fit = fit_speeds(points, {QuantType.Q4_0: points[0]}, cache_bytes, {QuantType.Q4_0: points[4]})
    assert min(fit.overheads.seconds_per_byte, fit.overheads.seconds_per_byte_in_cache) > 0
    assert 0 < fit.decode_efficiency_in_cache[QuantType.Q4_0] < float("inf")
    assert min(fit.overheads.token_s, fit.overheads.layer_s, fit.overheads.layer_in_cache_s) >= 0
    assert np.isfinite(fit.decode_efficiency[QuantType.Q4_0])
    assert fit.decode_efficiency[QuantType.Q4_0] > 0


def test_a_type_with_half_the_bytes_in_half_the_reading_time_is_as_efficient() -> None:
    q8_0 = timings(1 / 20e9, 1 / 50e9, 50e-6, 40e-6, 10e-6)
    fixed_s = 50e-6 + 4 * 40e-6
    size = SHAPES[0][0] // 2
    fit = fit_speeds(
        q8_0,
        {
            QuantType.Q4_0: Timing(matrix_bytes=size, n_layer=4, seconds=size / 20e9 + fixed_s),
            QuantType.IQ3_S: Timing(matrix_bytes=size, n_layer=4, seconds=size / 5e9 + fixed_s),
        },
        CACHE_BYTES,
    )
    assert fit.decode_efficiency == pytest.approx({QuantType.Q8_0: 1.0, QuantType.Q4_0: 1.0, QuantType.IQ3_S: 0.25})
    assert not fit.decode_efficiency_in_cache


def test_a_type_may_be_fast_in_memory_and_slow_in_the_cache() -> None:
    q8_0 = timings(1 / 20e9, 1 / 50e9, 50e-6, 40e-6, 10e-6)
    wide = Timing(matrix_bytes=70_000_000, n_layer=4, seconds=70e6 / 20e9 + 50e-6 + 4 * 40e-6)
    cached = Timing(matrix_bytes=2_600_000, n_layer=2, seconds=2.6e6 / 25e9 + 50e-6 + 2 * 10e-6)
    fit = fit_speeds(q8_0, {QuantType.Q4_K: wide}, CACHE_BYTES, {QuantType.Q4_K: cached})
    assert fit.decode_efficiency[QuantType.Q4_K] == pytest.approx(1.0)
    assert fit.decode_efficiency_in_cache == pytest.approx({QuantType.Q8_0: 1.0, QuantType.Q4_K: 0.5})
