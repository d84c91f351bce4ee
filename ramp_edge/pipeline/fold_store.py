"""The outcome of a search for folds as JSON, so that a build that was stopped later does not search again. Floats survive exactly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ramp_edge.fold.groups import FoldGroup
from ramp_edge.fold.plan import FoldPlan, GroupOutcome
from ramp_edge.pipeline.folding import Folded
from ramp_edge.pipeline.record import to_plain
from ramp_edge.records import ErrorTable


def folded_to_plain(folded: Folded) -> dict[str, Any]:
    """Everything but the groups, which follow from the model."""
    order = folded.plan.order
    return {
        "order": None if order is None else order.tolist(),
        "scales": {name: scales.tolist() for name, scales in folded.plan.scales.items()},
        "outcomes": to_plain(folded.outcomes),
        "table": folded.table.to_plain(),
        "rounds": folded.rounds,
    }


def folded_from_plain(data: Mapping[str, Any], groups: Sequence[FoldGroup]) -> Folded:
    """The reverse, for a model of these groups."""
    order = data["order"]
    return Folded(
        plan=FoldPlan(
            order=None if order is None else np.array(order, np.int64),
            scales={name: np.array(scales, np.float32) for name, scales in data["scales"].items()},
        ),
        groups=tuple(groups),
        outcomes=tuple(GroupOutcome(**outcome) for outcome in data["outcomes"]),
        table=ErrorTable.from_plain(data["table"]),
        rounds=data["rounds"],
    )
