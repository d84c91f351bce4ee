"""What types cost beside plain rounding: right in size and order, whatever the inputs."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from ramp_edge.codec.types import QUANTIZED_TYPES, QuantType
from ramp_edge.quantize.hessian import feedback_factor
from ramp_edge.quantize.search import QUICK
from ramp_edge.quantize.type_errors import relative_errors

ROWS = np.arange(24)


@pytest.fixture(scope="module")
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


def moments(n_cols: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((2000, n_cols)) + 2 * rng.standard_normal((2000, 1))
    return (x.T @ x / len(x)).astype(np.float32)


@pytest.mark.parametrize("known", [True, False])
def test_four_bits_cost_about_the_yardstick_and_more_bits_less(known: bool, pool: ThreadPoolExecutor) -> None:
    weights = np.random.default_rng(0).standard_normal((24, 256)).astype(np.float32)
    factor = feedback_factor(moments(256, 1)) if known else None
    types = [t for t in QUANTIZED_TYPES if known or not t.needs_imatrix]
    found = relative_errors(weights, ROWS, types, factor, pool, QUICK)
    assert found.keys() == set(types)
    # Measured 0.83 and 0.85: Q4_0 searches for its scale.
    assert 0.6 < found[QuantType.Q4_0] < 1.0
    # Sixteen times finer steps.
    assert found[QuantType.Q8_0] == pytest.approx(1 / 256, rel=0.35)
    order = [QuantType.Q2_K, QuantType.Q3_K, QuantType.Q4_K, QuantType.Q5_K, QuantType.Q6_K, QuantType.Q8_0]
    assert (np.diff([found[t] for t in order]) < 0).all()


def test_an_outlier_in_a_block_costs_types_of_wide_blocks_most(pool: ThreadPoolExecutor) -> None:
    weights = np.random.default_rng(0).standard_normal((24, 256)).astype(np.float32)
    calm = relative_errors(weights, ROWS, [QuantType.Q4_0, QuantType.Q6_K], None, pool, QUICK)
    weights[:, ::32] *= 8
    loud = relative_errors(weights, ROWS, [QuantType.Q4_0, QuantType.Q6_K], None, pool, QUICK)
    # Q6_K's scale serves 16 columns, the yardstick's and Q4_0's 32: half of the blocks are spared.
    # Measured 0.81.
    assert loud[QuantType.Q6_K] < 0.9 * calm[QuantType.Q6_K]
    assert loud[QuantType.Q4_0] == pytest.approx(calm[QuantType.Q4_0], rel=0.3)


def test_weights_of_zero_cost_nothing_in_any_type(pool: ThreadPoolExecutor) -> None:
    found = relative_errors(np.zeros((24, 64), np.float32), ROWS, [QuantType.Q4_0, QuantType.Q8_0], None, pool, QUICK)
    assert found == {QuantType.Q4_0: 1.0, QuantType.Q8_0: 1.0}
