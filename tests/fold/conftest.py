"""Random folds of a model."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from ramp_edge.fold.groups import FoldGroup, fold_groups
from ramp_edge.fold.plan import FoldPlan
from ramp_edge.records import ModelInventory


def _random_plan(
    inventory: ModelInventory, seed: int = 0, spread: float = 0.7
) -> tuple[FoldPlan, tuple[FoldGroup, ...]]:
    """A random order of the residual stream and random scales in every group that may be folded."""
    rng = np.random.default_rng(seed)
    groups = fold_groups(inventory)
    sizes = {t.name: (t.n_cols if t.n_rows == 1 else t.n_rows) for t in inventory.tensors}
    scales = {
        g.name: np.exp(spread * rng.standard_normal(sizes[g.producer])).astype(np.float32)
        for g in groups
        if g.reason is None
    }
    return FoldPlan(order=rng.permutation(inventory.hyper.n_embd), scales=scales), groups


@pytest.fixture(scope="session")
def random_plan() -> Callable[..., tuple[FoldPlan, tuple[FoldGroup, ...]]]:
    return _random_plan
