"""The yardstick of the policy's features."""

from __future__ import annotations

import numpy as np
import torch

from ramp_edge.plain_rounding import rounding_error


def test_rounding_has_sixteen_levels_and_leaves_what_is_on_them() -> None:
    weight = torch.randn(8, 96, generator=torch.Generator().manual_seed(0))
    meant = weight + rounding_error(weight)
    assert all(len(np.unique(block)) <= 16 for block in meant.reshape(-1, 32).numpy())
    step = weight.reshape(-1, 32).abs().amax(-1) / 8
    # The largest weight itself has no level where it is positive: its error is a whole step.
    assert bool((rounding_error(weight).reshape(-1, 32).abs().amax(-1) <= step * 1.0001).all())
    grid = torch.arange(-8.0, 8.0).repeat(4, 2)
    assert float(rounding_error(grid).abs().max()) == 0.0
    assert float(rounding_error(torch.zeros(2, 5)).abs().max()) == 0.0
