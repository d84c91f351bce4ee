"""The fit gives back the figures that times were made from, and stays usable on times that no figures make."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ramp_edge.codec.types import QuantType
from ramp_edge.device.speed_fit import Timing, fit_overheads, fit_speeds

CACHE_BYTES = 32_000_000
SHAPES = (
    (133_000_000, 4, 4096, 1_000_000), (125_000_000, 64, 4096, 4_000_000), (75_000_000, 2, 131_072, 100_000),
    (125_000_000, 64, 4096, 37_000_000),
    (3_000_000, 4, 4096, 100_000), (8_000_000, 16, 4096, 1_000_000), (8_000_000, 16, 4096, 9_000_000), (5_000_000, 2, 2048, 100_000),
)  # fmt: skip
"""Matrix bytes, layers, output rows and attention's multiply-adds of the probe's models in Q8_0; two of them with a filled KV cache."""


def timing(size: int, layers: int, rows: int, seconds: float, macs: int = 0) -> Timing:
    """With keys and values of F16."""
    return Timing(
        matrix_bytes=size, n_layer=layers, n_output_rows=rows, seconds=seconds, attention_macs=macs, kv_bytes=2 * macs
    )


def timings(
    per_byte_s: float,
    byte_in_cache_s: float,
    token_s: float,
    layer_s: float,
    in_cache_s: float,
    row_s: float = 0.0,
    mac_s: float = 0.0,
    cache_bytes: int = CACHE_BYTES,
) -> list[Timing]:
    def seconds(size: int, n: int, rows: int, macs: int) -> float:
        if size <= cache_bytes:
            # Keys and values lie in the cache as well.
            return size * byte_in_cache_s + token_s + n * in_cache_s + macs * mac_s
        return (size + 2 * macs) * per_byte_s + token_s + n * layer_s + rows * row_s + macs * mac_s

    return [timing(*shape[:3], seconds(*shape), shape[3]) for shape in SHAPES]


@settings(deadline=None)
@given(
    st.floats(1e9, 1e12), st.floats(1e9, 1e12), st.floats(0, 1e-3), st.floats(0, 1e-3), st.floats(0, 1e-4), st.floats(0, 1e-7),
    st.floats(0, 1e-9),
)  # fmt: skip
def test_exact_times_give_their_own_prediction(
    bandwidth: float, in_cache: float, token_s: float, layer_s: float, in_cache_s: float, row_s: float, mac_s: float
) -> None:
    points = timings(1 / bandwidth, 1 / in_cache, token_s, layer_s, in_cache_s, row_s, mac_s)
    fit = fit_overheads(points, CACHE_BYTES)
    assert min(fit.token_s, fit.layer_s, fit.layer_in_cache_s, fit.output_row_s, fit.attention_mac_s) >= 0
    assert min(fit.seconds_per_byte, fit.seconds_per_byte_in_cache) > 0
    again = timings(
        fit.seconds_per_byte, fit.seconds_per_byte_in_cache, fit.token_s, fit.layer_s, fit.layer_in_cache_s, fit.output_row_s,
        fit.attention_mac_s,
    )  # fmt: skip
    np.testing.assert_allclose([t.seconds for t in again], [t.seconds for t in points], rtol=1e-6)


def test_the_figures_themselves_come_back() -> None:
    fit = fit_overheads(timings(1 / 25e9, 1 / 60e9, 20e-6, 55e-6, 18e-6, 4e-9, 1 / 15e9), CACHE_BYTES)
    assert fit.attention_mac_s == pytest.approx(1 / 15e9)
    assert fit.output_row_s == pytest.approx(4e-9)
    assert fit.seconds_per_byte_in_cache == pytest.approx(1 / 60e9)
    assert (fit.seconds_per_byte, fit.token_s, fit.layer_s, fit.layer_in_cache_s) == pytest.approx(
        (1 / 25e9, 20e-6, 55e-6, 18e-6)
    )


def test_without_a_cache_both_figures_are_the_same() -> None:
    fit = fit_overheads(timings(1 / 10e9, 1 / 10e9, 100e-6, 30e-6, 30e-6, cache_bytes=0), 0)
    assert fit.seconds_per_byte == fit.seconds_per_byte_in_cache == pytest.approx(1 / 10e9)
    assert fit.layer_s == fit.layer_in_cache_s == pytest.approx(30e-6)


@settings(deadline=None)
@given(st.lists(st.floats(1e-6, 1.0), min_size=8, max_size=8), st.sampled_from([0, CACHE_BYTES, 10**12]))
def test_any_times_give_usable_figures(seconds: list[float], cache_bytes: int) -> None:
    points = [timing(*shape[:3], s, shape[3]) for shape, s in zip(SHAPES, seconds, strict=True)]
    q4_0 = QuantType.Q4_0
    fit = fit_speeds(points, {q4_0: points[0]}, cache_bytes, {q4_0: points[7]}, {q4_0: points[2]}, {q4_0: points[3]})
    assert min(fit.attention_mac_s.values(), default=1.0) > 0, "what costs nothing is not listed"
    assert min(fit.overheads.output_row_s, fit.output_row_s[q4_0]) >= 0
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
            QuantType.Q4_0: timing(size, 4, 4096, size / 20e9 + fixed_s),
            QuantType.IQ3_S: timing(size, 4, 4096, size / 5e9 + fixed_s),
        },
        CACHE_BYTES,
    )
    assert fit.decode_efficiency == pytest.approx({QuantType.Q8_0: 1.0, QuantType.Q4_0: 1.0, QuantType.IQ3_S: 0.25})
    assert not fit.decode_efficiency_in_cache


def test_a_type_may_be_fast_in_memory_and_slow_in_the_cache() -> None:
    q8_0 = timings(1 / 20e9, 1 / 50e9, 50e-6, 40e-6, 10e-6)
    wide = timing(70_000_000, 4, 4096, 70e6 / 20e9 + 50e-6 + 4 * 40e-6)
    cached = timing(2_600_000, 2, 2048, 2.6e6 / 25e9 + 50e-6 + 2 * 10e-6)
    fit = fit_speeds(q8_0, {QuantType.Q4_K: wide}, CACHE_BYTES, {QuantType.Q4_K: cached})
    assert fit.decode_efficiency[QuantType.Q4_K] == pytest.approx(1.0)
    assert fit.decode_efficiency_in_cache == pytest.approx({QuantType.Q8_0: 1.0, QuantType.Q4_K: 0.5})


def test_a_type_may_pay_for_rows_that_another_does_not() -> None:
    """Where kernels work on rows one by one, short ones cost more than their bytes; repacked types take several at once."""
    q8_0 = timings(1 / 20e9, 1 / 50e9, 50e-6, 40e-6, 10e-6, 4e-9)
    wide_bytes, tall_bytes = 100_000_000, 56_000_000

    def pair(row_s: float) -> tuple[Timing, Timing]:
        wide_s = wide_bytes / 10e9 + 50e-6 + 4 * 40e-6 + 4096 * row_s
        tall_s = tall_bytes / 10e9 + 50e-6 + 2 * 40e-6 + 131_072 * row_s
        return timing(wide_bytes, 4, 4096, wide_s), timing(tall_bytes, 2, 131_072, tall_s)

    (q6_k, tall_q6_k), (q4_0, tall_q4_0) = pair(11e-9), pair(-1e-9)
    fit = fit_speeds(
        q8_0,
        {QuantType.Q6_K: q6_k, QuantType.Q4_0: q4_0},
        CACHE_BYTES,
        None,
        {QuantType.Q6_K: tall_q6_k, QuantType.Q4_0: tall_q4_0},
    )
    assert fit.output_row_s[QuantType.Q8_0] == pytest.approx(4e-9)
    assert fit.output_row_s[QuantType.Q6_K] == pytest.approx(11e-9)
    assert fit.decode_efficiency[QuantType.Q6_K] == pytest.approx(0.5)
    assert fit.output_row_s[QuantType.Q4_0] == 0.0, "never negative: the wide model's time is then all bytes"
    assert fit.decode_efficiency[QuantType.Q4_0] == pytest.approx(0.5, rel=0.01)


@pytest.mark.parametrize("cache_bytes", [0, CACHE_BYTES])
def test_each_type_of_the_kv_cache_has_its_own_attention(cache_bytes: int) -> None:
    """Unpacking keys and values may cost more than their bytes save."""
    q8_0 = timings(1 / 20e9, 1 / 50e9, 50e-6, 40e-6, 10e-6, 0.0, 1 / 15e9, cache_bytes)
    size, layers, rows, macs = SHAPES[3]
    kv_bytes = macs * 17 / 16
    seconds = (size + kv_bytes) / 20e9 + 50e-6 + layers * 40e-6 + macs / 5e9
    filled = Timing(
        matrix_bytes=size, n_layer=layers, n_output_rows=rows, seconds=seconds, attention_macs=macs, kv_bytes=kv_bytes
    )
    fit = fit_speeds(q8_0, {}, cache_bytes, kv_types={QuantType.Q8_0: filled})
    assert {kind: 1 / s for kind, s in fit.attention_mac_s.items()} == pytest.approx(
        {QuantType.F16: 15e9, QuantType.Q8_0: 5e9}
    )


def test_a_fillings_share_is_not_the_weights() -> None:
    q8_0 = timings(1 / 20e9, 1 / 50e9, 50e-6, 40e-6, 10e-6, 0.0, 1 / 15e9)
    cached_s = 2_600_000 / 25e9 + 50e-6 + 2 * 10e-6 + 100_000 / 15e9
    fit = fit_speeds(q8_0, {}, CACHE_BYTES, {QuantType.Q4_K: timing(2_600_000, 2, 2048, cached_s, 100_000)})
    assert fit.decode_efficiency_in_cache[QuantType.Q4_K] == pytest.approx(0.5)


def test_attention_that_costs_nothing_is_not_listed() -> None:
    assert not fit_speeds(timings(1 / 20e9, 1 / 50e9, 50e-6, 40e-6, 10e-6), {}, CACHE_BYTES).attention_mac_s
