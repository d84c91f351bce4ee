"""The HALO map: from the policy's bit width to a GGUF type that the device runs and the tensor's rows allow.

The policy says how many bits a weight is worth; which type that is depends on the device and on the row length, so one
policy serves them all. The map takes the legal type of the nearest bits per weight, and among types of equal bits the one
that costs the least KL. RAMP's abstract names such an export; this table is this project's own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ramp_edge.codec.types import QuantType

Float64 = npt.NDArray[np.float64]
BITS_LOW, BITS_HIGH = 1.5, 8.5
"""What the actions 0 and 1 mean. F16 is beyond: it is taken where nothing smaller is legal."""

RELATIVE_KL: dict[QuantType, float] = {
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
"""KL beside that of Q4_0, after error feedback and with rounded activations: geometric mean over the tensors of SmolLM2-135M, Gemma 3 270M and
the embedded model. Orders types of equal bits; nothing else rests on it."""


def bits_of(action: Float64 | float) -> Float64:
    """Bits per weight that an action in [0, 1] asks for."""
    return np.asarray(BITS_LOW + (BITS_HIGH - BITS_LOW) * np.clip(action, 0.0, 1.0), np.float64)


def action_for(bits: Float64 | float) -> Float64:
    """The action that asks for these bits, clipped to [0, 1]."""
    return np.asarray(np.clip((np.asarray(bits) - BITS_LOW) / (BITS_HIGH - BITS_LOW), 0.0, 1.0), np.float64)


def preference(types: Sequence[QuantType]) -> Float64:
    """A tie-break [n_types] far below any difference in bits: the smaller, the less KL among types of equal bits."""
    known = np.array([RELATIVE_KL.get(t, np.inf) for t in types])
    rank = np.empty(len(types))
    rank[np.lexsort((np.array([int(t) for t in types]), known))] = np.arange(len(types))
    return rank * 1e-9


def nearest(
    bits: Float64, type_bits: Float64, tie_break: Float64, allowed: npt.NDArray[np.bool_]
) -> npt.NDArray[np.int64]:
    """The type [n] for wanted bits [n] among the allowed ones [n, n_types]; each row must allow one.

    Half-way between two types the smaller is taken: it never costs another tensor its place.
    """
    distance = np.abs(type_bits[None, :] - bits[:, None])
    cost = np.where(allowed, distance + tie_break[None, :] + 1e-7 * type_bits[None, :], np.inf)
    if not np.isfinite(cost.min(axis=1)).all():
        raise ValueError("a tensor has no allowed type")
    return np.asarray(cost.argmin(axis=1), np.int64)
