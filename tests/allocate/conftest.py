"""Synthetic cases of the policy's world: real types and sizes, tables that follow the usual law of bits."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from ramp_edge.allocate.cases import ModelCase
from ramp_edge.codec.types import QuantType

RELATIVE_KL = {
    QuantType.IQ2_XXS: 26.8,
    QuantType.IQ2_XS: 20.3,
    QuantType.IQ2_S: 14.6,
    QuantType.Q2_K: 10.0,
    QuantType.IQ3_XXS: 7.24,
    QuantType.Q3_K: 3.10,
    QuantType.IQ3_S: 4.44,
    QuantType.IQ4_XS: 0.88,
    QuantType.Q4_0: 1.00,
    QuantType.Q4_K: 0.79,
    QuantType.IQ4_NL: 0.75,
    QuantType.Q4_1: 0.63,
    QuantType.Q5_0: 0.273,
    QuantType.Q5_K: 0.257,
    QuantType.Q5_1: 0.167,
    QuantType.Q6_K: 0.119,
    QuantType.Q8_0: 0.026,
}
"""KL beside that of Q4_0, about what it is over the tensors of SmolLM2-135M, Gemma 3 270M and the embedded model."""
TYPES = tuple(sorted(RELATIVE_KL, key=lambda t: (t.bits_per_weight, int(t))))


def _make_case(n_tensors: int = 12, seed: int = 0, widths: tuple[int, ...] = (256, 320, 512)) -> ModelCase:
    rng = np.random.default_rng(seed)
    n_cols = rng.choice(np.array(widths), n_tensors)
    n_rows = rng.integers(16, 600, n_tensors)
    sensitivity = np.exp(rng.standard_normal(n_tensors))
    relative = np.array([RELATIVE_KL[t] for t in TYPES])
    legal = np.array([[c % t.block_size == 0 for t in TYPES] for c in n_cols])
    noise = np.exp(0.1 * rng.standard_normal((n_tensors, len(TYPES))))
    features = rng.standard_normal((n_tensors, 11)).astype(np.float32)
    weights = n_rows * n_cols
    ln = np.log(sensitivity / weights)
    features[:, 0] = 0.5 * (ln - weights @ ln / weights.sum())
    return ModelCase(
        name=f"case {seed}",
        family="llama",
        names=tuple(f"blk.{i}.ffn_up.weight" for i in range(n_tensors)),
        features=features,
        n_rows=n_rows.astype(np.int64),
        n_cols=n_cols.astype(np.int64),
        read_per_token=np.arange(n_tensors) > 0,
        types=TYPES,
        relative_kl=np.where(legal, relative, np.nan),
        kl=np.where(legal, 1e-3 * sensitivity[:, None] * relative * noise, np.nan),
    )


@pytest.fixture(scope="session")
def make_case() -> Callable[..., ModelCase]:
    return _make_case


@pytest.fixture(scope="session")
def halo_types() -> tuple[QuantType, ...]:
    return TYPES
