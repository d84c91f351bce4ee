"""The compiled loops against plain numpy, and what descent promises."""

from __future__ import annotations

import numpy as np
import pytest

from ramp_edge.codec.layouts import LAYOUTS
from ramp_edge.codec.types import QuantType
from ramp_edge.quantize.hessian import FeedbackFactor, feedback_factor
from ramp_edge.quantize.rounding import descend, round_slab

WIDTH, ROWS = 32, 6


def factor() -> FeedbackFactor:
    x = np.random.default_rng(4).standard_normal((256, WIDTH)) @ np.random.default_rng(5).standard_normal(
        (WIDTH, WIDTH)
    )
    return feedback_factor((x.T @ x / 256).astype(np.float32))


def reference(target, steps, offsets, levels, price, couple):  # type: ignore[no-untyped-def]
    """One row, one group: the loop as the docstring describes it."""
    best = None
    for k in range(len(steps)):
        rest, cost, codes = target.astype(np.float64), 0.0, []
        for j in range(len(target)):
            values = steps[k] * levels + offsets[k]
            code = int(np.abs(values - rest[j]).argmin())
            error = rest[j] - values[code]
            cost += error**2 * price[j]
            rest[j + 1 :] -= error * couple[j, j + 1 :]
            codes.append(code)
        if best is None or cost < best[0]:
            best = (cost, k, codes)
    return best


@pytest.mark.parametrize("quant_type", [QuantType.Q4_0, QuantType.Q5_1, QuantType.IQ4_NL], ids=lambda t: t.name)
def test_one_slab_equals_the_plain_loop(quant_type: QuantType) -> None:
    layout, rng = LAYOUTS[quant_type], np.random.default_rng(0)
    target = rng.standard_normal((ROWS, WIDTH)).astype(np.float32)
    span = np.ptp(layout.levels)
    steps = (6 / span * rng.uniform(0.6, 1.4, (ROWS, 1, 5))).astype(np.float32)
    offsets = (-3 - steps * layout.levels[0]).astype(np.float32)
    price, couple = factor().within(0, WIDTH)
    codes, picks = np.empty((ROWS, WIDTH), np.uint8), np.empty((ROWS, 1), np.int32)
    round_slab(target, steps, offsets, layout.levels, layout.uniform, layout.nearest_codes, price, couple, codes, picks)
    for row in range(ROWS):
        _, pick, expected = reference(target[row], steps[row, 0], offsets[row, 0], layout.levels, price, couple)
        assert picks[row, 0] == pick
        np.testing.assert_array_equal(codes[row], expected)


def test_a_zero_step_means_the_offset() -> None:
    layout = LAYOUTS[QuantType.Q4_0]
    zeros = np.zeros((ROWS, 1, 1), np.float32)
    codes, picks = np.empty((ROWS, WIDTH), np.uint8), np.empty((ROWS, 1), np.int32)
    price, couple = factor().within(0, WIDTH)
    round_slab(
        zeros[:, :, 0].repeat(WIDTH, 1),
        zeros,
        zeros,
        layout.levels,
        True,
        layout.nearest_codes,
        price,
        couple,
        codes,
        picks,
    )
    assert codes.max() < len(layout.levels) and (picks == 0).all()


def test_descent_only_ever_lowers_the_cost_and_keeps_its_books() -> None:
    layout, rng = LAYOUTS[QuantType.Q4_0], np.random.default_rng(1)
    weights = rng.standard_normal((ROWS, WIDTH)).astype(np.float32)
    steps = np.full((ROWS, 1), 0.4, np.float32)
    codes = np.clip(np.rint(weights / 0.4) + 8, 0, 15).astype(np.uint8)
    hessian = factor().hessian.numpy()

    def errors() -> np.ndarray:
        return weights - steps * layout.levels[codes]

    def costs() -> np.ndarray:
        return np.einsum("rc,cd,rd->r", errors(), hessian, errors())

    before, pull = costs(), errors() @ hessian
    last = before
    for _ in range(6):
        descend(codes, steps, layout.levels, hessian, pull, 1)
        assert (costs() <= last + 1e-4).all()
        last = costs()
    np.testing.assert_allclose(pull, errors() @ hessian, atol=1e-3)
    assert (last < 0.9 * before).mean() > 0.8  # measured: all six rows, 0.35 to 0.72


def test_codes_stay_inside_the_levels() -> None:
    layout = LAYOUTS[QuantType.Q4_0]
    codes = np.tile(np.array([0, 15], np.uint8), (ROWS, WIDTH // 2))
    pull = np.full((ROWS, WIDTH), 100.0, np.float32)
    descend(codes, np.ones((ROWS, 1), np.float32), layout.levels, np.eye(WIDTH, dtype=np.float32), pull, 40)
    assert (codes == 15).all()  # every column is pulled up, and 15 is the top
