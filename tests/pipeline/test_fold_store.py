"""Folds survive as JSON, to the last bit."""

from __future__ import annotations

import json

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ramp_edge.codec.types import QuantType
from ramp_edge.fold.plan import FoldPlan, GroupOutcome
from ramp_edge.pipeline.fold_store import folded_from_plain, folded_to_plain
from ramp_edge.pipeline.folding import Folded
from ramp_edge.records import ErrorTable


@given(
    st.one_of(st.none(), st.permutations(range(8))),
    st.lists(st.floats(2.0**-10, 2.0**10, width=32), min_size=1, max_size=8),
    st.floats(0, 10),
)
def test_round_trip(order: list[int] | None, scales: list[float], kl: float) -> None:
    before = Folded(
        plan=FoldPlan(
            order=None if order is None else np.array(order, np.int64), scales={"g": np.array(scales, np.float32)}
        ),
        groups=(),
        outcomes=(
            GroupOutcome(
                group="g", kept=True, reason="why", kl_before=kl, kl_after=kl / 3, kl_noise=0.1, scale_spread=2.0
            ),
            GroupOutcome(group="h", kept=False, reason="no"),
        ),
        table=ErrorTable(kl={"blk.0.ffn_up.weight": {QuantType.Q4_K: kl / 7, QuantType.IQ4_XS: 0.0}}),
        rounds=3,
    )
    after = folded_from_plain(json.loads(json.dumps(folded_to_plain(before))), ())
    assert after.outcomes == before.outcomes
    assert after.table == before.table
    assert after.rounds == 3
    assert after.plan.scales["g"].tobytes() == before.plan.scales["g"].tobytes()
    assert (after.plan.order is None) == (order is None)
    if order is not None:
        assert after.plan.order is not None and after.plan.order.tolist() == order
