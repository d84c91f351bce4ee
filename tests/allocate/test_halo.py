"""The HALO map: nearest legal bits, the cheapest error among equals, for every device."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ramp_edge.allocate.halo import BITS_HIGH, BITS_LOW, RELATIVE_KL, action_for, bits_of, nearest, preference
from ramp_edge.codec.types import FLOAT_TYPES, QuantType
from ramp_edge.profile.load import load_target

ALL = tuple(QuantType)
BITS = np.array([t.bits_per_weight for t in ALL])


def choose(bits: float, types: set[QuantType]) -> QuantType:
    allowed = np.array([[t in types for t in ALL]])
    return ALL[int(nearest(np.array([bits]), BITS, preference(ALL), allowed)[0])]


def test_types_of_equal_bits_go_by_error() -> None:
    assert choose(4.5, {QuantType.Q4_0, QuantType.Q4_K, QuantType.IQ4_NL}) is QuantType.IQ4_NL
    assert choose(4.5, {QuantType.Q4_0, QuantType.Q4_K}) is QuantType.Q4_K
    assert choose(3.44, {QuantType.IQ3_S, QuantType.Q3_K}) is QuantType.Q3_K
    assert choose(5.5, {QuantType.Q5_0, QuantType.Q5_K}) is QuantType.Q5_K


def test_a_type_without_a_known_error_comes_last_among_equals() -> None:
    for quant_type in set(ALL) - set(RELATIVE_KL):
        for other in RELATIVE_KL:
            if other.bits_per_weight == quant_type.bits_per_weight:
                assert choose(other.bits_per_weight, {quant_type, other}) is other


def test_half_way_the_smaller_is_taken() -> None:
    assert choose(7.0, {QuantType.Q5_0, QuantType.Q8_0}) is QuantType.Q5_0
    assert choose(7.01, {QuantType.Q5_0, QuantType.Q8_0}) is QuantType.Q8_0


def test_beyond_the_range_the_outermost_type_answers() -> None:
    assert choose(100.0, {QuantType.F16}) is QuantType.F16
    assert choose(BITS_HIGH, set(RELATIVE_KL)) is QuantType.Q8_0
    assert choose(BITS_LOW, set(RELATIVE_KL)) is QuantType.IQ2_XXS


def test_nothing_allowed_is_an_error() -> None:
    with pytest.raises(ValueError, match="no allowed type"):
        choose(4.0, set())


@given(st.floats(allow_nan=False), st.sets(st.sampled_from(ALL), min_size=1))
def test_the_choice_is_allowed_and_nothing_allowed_is_nearer(action: float, types: set[QuantType]) -> None:
    bits = float(bits_of(action))
    assert BITS_LOW <= bits <= BITS_HIGH
    found = choose(bits, types)
    assert found in types
    nearest_bits = min(abs(t.bits_per_weight - bits) for t in types)
    assert abs(found.bits_per_weight - bits) <= nearest_bits + 1e-5


@given(st.floats(BITS_LOW, BITS_HIGH))
def test_actions_and_bits_are_inverse(bits: float) -> None:
    assert float(bits_of(action_for(bits))) == pytest.approx(bits)


def test_every_type_that_a_shipped_profile_quantizes_to_has_a_known_error() -> None:
    for name in ("raspberry-pi-4", "raspberry-pi-5", "jetson-orin", "x86-avx2-16gb", "apple-m4-16gb"):
        missing = set(load_target(name).types) - FLOAT_TYPES - set(RELATIVE_KL)
        assert not missing, f"{name}: {missing}"


def test_more_bits_cost_less_but_for_the_known_exceptions() -> None:
    by_bits = sorted(RELATIVE_KL, key=lambda t: t.bits_per_weight)
    for a in by_bits:
        for b in by_bits:
            if b.bits_per_weight >= a.bits_per_weight + 0.6:
                assert RELATIVE_KL[b] < RELATIVE_KL[a], (a, b)
