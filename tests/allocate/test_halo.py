"""The HALO map: nearest legal bits, the cheapest error among equals, for every device."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ramp_edge.allocate.halo import BITS_HIGH, BITS_LOW, action_for, bits_of, nearest, preference
from ramp_edge.codec.types import QUANTIZED_TYPES, QuantType

ALL = tuple(QuantType)
BITS = np.array([t.bits_per_weight for t in ALL])


def choose(bits: float, types: set[QuantType], kl: dict[QuantType, float] | None = None) -> QuantType:
    allowed = np.array([[t in types for t in ALL]])
    ties = preference(np.array([[(kl or {}).get(t, np.nan) for t in ALL]]))
    return ALL[int(nearest(np.array([bits]), BITS, ties, allowed)[0])]


def test_types_of_equal_bits_go_by_what_they_cost_the_tensor() -> None:
    for best in (QuantType.Q4_0, QuantType.Q4_K, QuantType.IQ4_NL):
        kl = {t: 1.0 for t in (QuantType.Q4_0, QuantType.Q4_K, QuantType.IQ4_NL)} | {best: 0.5}
        assert choose(4.5, set(kl), kl) is best
        # Not by what is no bits of theirs.
        assert choose(5.5, {*kl, QuantType.Q5_0}, {**kl, QuantType.Q5_0: 9.0}) is QuantType.Q5_0


def test_a_type_without_a_known_error_comes_last_among_equals() -> None:
    assert choose(4.5, {QuantType.Q4_0, QuantType.Q4_K}, {QuantType.Q4_K: 3.0}) is QuantType.Q4_K
    assert choose(4.5, {QuantType.Q4_0, QuantType.Q4_K}, {QuantType.Q4_0: 3.0}) is QuantType.Q4_0


def test_half_way_the_smaller_is_taken() -> None:
    assert choose(7.0, {QuantType.Q5_0, QuantType.Q8_0}) is QuantType.Q5_0
    assert choose(7.01, {QuantType.Q5_0, QuantType.Q8_0}) is QuantType.Q8_0


def test_beyond_the_range_the_outermost_type_answers() -> None:
    assert choose(100.0, {QuantType.F16}) is QuantType.F16
    assert choose(BITS_HIGH, set(QUANTIZED_TYPES)) is QuantType.Q8_0
    assert choose(BITS_LOW, {QuantType.IQ2_XXS, QuantType.Q2_K}) is QuantType.IQ2_XXS


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
