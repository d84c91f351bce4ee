"""The compiled loops against plain numpy, and what descent promises."""

from __future__ import annotations

import numpy as np
import pytest

from ramp_edge.codec.layouts import LAYOUTS
from ramp_edge.codec.types import QuantType
from ramp_edge.quantize.hessian import FeedbackFactor, feedback_factor
from ramp_edge.quantize.rounding import descend, hand_on, round_group

WIDTH, ROWS = 32, 6


def factor() -> FeedbackFactor:
    x = np.random.default_rng(4).standard_normal((256, WIDTH)) @ np.random.default_rng(5).standard_normal(
        (WIDTH, WIDTH)
    )
    return feedback_factor((x.T @ x / 256).astype(np.float32))


def reference(target, steps, offsets, levels, diagonal, inverse):  # type: ignore[no-untyped-def]
    """One group: the loop as the docstring describes it."""
    best = None
    for k in range(len(steps)):
        rest, cost, codes, residuals = target.astype(np.float64), 0.0, [], []
        for j in range(len(target)):
            values = steps[k] * levels + offsets[k]
            code = int(np.abs(values - rest[j]).argmin())
            error = (rest[j] - values[code]) * diagonal[j]
            cost += error**2
            rest[j + 1 :] -= error * inverse[j, j + 1 :]
            codes.append(code)
            residuals.append(error)
        if best is None or cost < best[0]:
            best = (cost, k, codes, residuals)
    return best


def rounded(layout, target, steps, offsets, diagonal, inverse):  # type: ignore[no-untyped-def]
    shape = (len(target), len(steps))
    code, residual = np.empty(shape, np.float32), np.empty(shape, np.float32)
    scratch = np.empty(shape, np.float32), np.empty(len(steps), np.float32), np.empty(len(steps), np.float32)
    pick = round_group(
        target, steps, offsets, diagonal, inverse, layout.levels, layout.uniform, layout.nearest_codes,
        scratch[0], code, residual, scratch[1], scratch[2],
    )  # fmt: skip
    return pick, code, residual


@pytest.mark.parametrize("quant_type", [QuantType.Q4_0, QuantType.Q5_1, QuantType.IQ4_NL], ids=lambda t: t.name)
def test_one_group_equals_the_plain_loop(quant_type: QuantType) -> None:
    layout, rng, of = LAYOUTS[quant_type], np.random.default_rng(0), factor()
    diagonal, inverse = of.root.diagonal().numpy(), of.inverse.numpy()
    for _ in range(ROWS):
        target = rng.standard_normal(WIDTH).astype(np.float32)
        steps = (6 / np.ptp(layout.levels) * rng.uniform(0.6, 1.4, 5)).astype(np.float32)
        offsets = (-3 - steps * layout.levels[0]).astype(np.float32)
        pick, code, residual = rounded(layout, target, steps, offsets, diagonal, inverse)
        _, expected, codes, residuals = reference(target, steps, offsets, layout.levels, diagonal, inverse)
        assert pick == expected
        np.testing.assert_array_equal(code[:, pick], codes)
        np.testing.assert_allclose(residual[:, pick], residuals, atol=1e-4)


def test_a_zero_step_means_the_offset() -> None:
    layout, of, zeros = LAYOUTS[QuantType.Q4_0], factor(), np.zeros(1, np.float32)
    diagonal, inverse = of.root.diagonal().numpy(), of.inverse.numpy()
    pick, code, residual = rounded(layout, np.zeros(WIDTH, np.float32), zeros, zeros, diagonal, inverse)
    assert pick == 0 and code.max() < len(layout.levels) and not residual.any()


def test_what_is_handed_on_is_the_residual_times_the_inverse() -> None:
    rng, of = np.random.default_rng(2), factor()
    work, residuals = (rng.standard_normal((ROWS, n)).astype(np.float32) for n in (WIDTH, 8))
    inverse = of.inverse.numpy()
    expected = work.copy()
    expected[:, 12:] -= residuals @ inverse[4:12, 12:]
    hand_on(work, residuals, inverse, 4)
    np.testing.assert_allclose(work, expected, atol=1e-5)


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
