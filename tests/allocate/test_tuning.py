"""What measured changes teach a table: the worthwhile ones first, sure measurements in full, noise not at all."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ramp_edge.allocate.tuning import (
    Change,
    MeasuredChange,
    common_factor,
    corrected,
    neighbours,
    price_of_a_byte,
    worth_measuring,
)
from ramp_edge.codec.types import QuantType as Q
from ramp_edge.records import ErrorTable

LADDER = (Q.Q4_0, Q.Q5_0, Q.Q5_1, Q.Q8_0, Q.F16)
SIZES = {"a": {t: int(100 * t.bits_per_weight) for t in (*LADDER, Q.Q4_1)}, "b": {Q.Q4_0: 450, Q.Q8_0: 850}}
KL = {
    "a": {Q.Q4_0: 8.0, Q.Q4_1: 9.0, Q.Q5_0: 4.0, Q.Q5_1: 3.0, Q.Q8_0: 1.0, Q.F16: 0.5},
    "b": {Q.Q4_0: 2.0, Q.Q8_0: 1.0},
}
TABLE = ErrorTable(kl=KL)


def test_neighbours_are_two_steps_up_and_down_without_types_that_are_beaten() -> None:
    found = {(c.tensor, c.quant_type): c for c in neighbours(TABLE, SIZES, {"a": Q.Q5_0, "b": Q.Q8_0})}
    # Q4_1 is larger than Q4_0 and costs more KL.
    assert set(found) == {("a", Q.Q4_0), ("a", Q.Q5_1), ("a", Q.Q8_0), ("b", Q.Q4_0)}
    assert found["a", Q.Q8_0] == Change(tensor="a", quant_type=Q.Q8_0, predicted_kl=-3.0, size_bytes=300)
    assert found["b", Q.Q4_0] == Change(tensor="b", quant_type=Q.Q4_0, predicted_kl=1.0, size_bytes=-400)


def test_a_plan_s_own_type_is_a_step_even_where_it_is_beaten() -> None:
    found = neighbours(TABLE, SIZES, {"a": Q.Q4_1, "b": Q.Q4_0})
    assert {(c.tensor, c.quant_type) for c in found} >= {("a", Q.Q4_0), ("a", Q.Q5_0), ("b", Q.Q8_0)}


def change(predicted: float, size: int, name: str = "a") -> Change:
    return Change(tensor=name, quant_type=Q.Q8_0, predicted_kl=predicted, size_bytes=size)


def test_the_price_lies_between_what_was_bought_and_what_was_not() -> None:
    assert price_of_a_byte([change(-2.0, 100), change(-1.0, 100), change(6.0, -100)]) == pytest.approx(0.04)
    assert price_of_a_byte([change(-2.0, 100)]) == pytest.approx(0.02)
    assert price_of_a_byte([]) == 0.0


def test_changes_near_the_price_come_first() -> None:
    near, far, small = change(-2.0, 100, "near"), change(-0.1, 100, "far"), change(-0.002, 0, "small")
    sold = change(6.0, -100, "sold")
    # A byte is worth 0.04: `sold` and `near` look 2 worse than the plan and may be off by 3.9 and 1.3; `far` is not worth its bytes.
    assert [c.tensor for c in worth_measuring([far, small, sold, near], 4)] == ["sold", "near", "small", "far"]
    assert worth_measuring([far, near], 1) == [near]
    assert worth_measuring([], 3) == []


def measured(kl: float, error: float, predicted: float = -1.0) -> MeasuredChange:
    made = Change(tensor="a", quant_type=Q.Q5_1, predicted_kl=predicted, size_bytes=50)
    return MeasuredChange(change=made, kl=kl, std_error=error)


def test_a_sure_measurement_takes_the_prediction_s_place_on_the_table_s_scale() -> None:
    others = [MeasuredChange(change=change(-4.0, 9, "b"), kl=-2.0, std_error=1e-9)]
    table = corrected(TABLE, {"a": Q.Q5_0, "b": Q.Q4_0}, [measured(-1.5, 1e-6), *others])
    # All together measure half of what was predicted; this one measures 1.5, three times its share.
    assert common_factor([measured(-1.5, 1e-6), *others]) == pytest.approx(0.5, rel=1e-3)
    assert table.kl["a"][Q.Q5_1] == pytest.approx(4.0 - 3.0, rel=1e-3)
    assert table.kl["a"][Q.Q8_0] == KL["a"][Q.Q8_0]
    assert TABLE.kl["a"][Q.Q5_1] == 3.0, "the table itself stays"


def test_a_measurement_that_is_all_noise_changes_nothing() -> None:
    table = corrected(TABLE, {"a": Q.Q5_0, "b": Q.Q4_0}, [measured(5.0, 1e9)])
    factor = common_factor([measured(5.0, 1e9)])
    assert 0.2 <= factor <= 5.0
    assert table.kl["a"][Q.Q5_1] == pytest.approx(3.0)


@given(
    st.lists(
        st.tuples(
            st.sampled_from([Q.Q4_0, Q.Q5_1, Q.Q8_0]),
            st.floats(-1e3, 1e3),
            st.floats(0.0, 1e3),
        ),
        max_size=6,
    )
)
def test_whatever_is_measured_the_table_stays_positive_and_finite(values: list[tuple[Q, float, float]]) -> None:
    types = {"a": Q.Q5_0, "b": Q.Q4_0}
    found = [
        MeasuredChange(
            change=Change(tensor="a", quant_type=t, predicted_kl=KL["a"][t] - KL["a"][Q.Q5_0], size_bytes=10),
            kl=kl,
            std_error=error,
        )
        for t, kl, error in values
    ]
    table = corrected(TABLE, types, found)
    assert 0.2 <= common_factor(found) <= 5.0
    assert all(v > 0 and math.isfinite(v) for row in table.kl.values() for v in row.values())
    assert table.kl["b"] == KL["b"] and table.kl["a"][Q.Q5_0] == KL["a"][Q.Q5_0]
