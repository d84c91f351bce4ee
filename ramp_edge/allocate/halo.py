"""The HALO map: from the policy's bit width to a GGUF type that the device runs and the tensor's rows allow.

The policy says how many bits a weight is worth; which type that is depends on the device and on the row length, so one
policy serves them all. The map takes the legal type of the nearest bits per weight, and among types of equal bits the one
that costs this tensor the least. RAMP's abstract names such an export; the map is this project's own.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]
BITS_LOW, BITS_HIGH = 1.5, 8.5
"""What the actions 0 and 1 mean. F16 is beyond: it is taken where nothing smaller is legal."""


def bits_of(action: Float64 | float) -> Float64:
    """Bits per weight that an action in [0, 1] asks for."""
    return np.asarray(BITS_LOW + (BITS_HIGH - BITS_LOW) * np.clip(action, 0.0, 1.0), np.float64)


def action_for(bits: Float64 | float) -> Float64:
    """The action that asks for these bits, clipped to [0, 1]."""
    return np.asarray(np.clip((np.asarray(bits) - BITS_LOW) / (BITS_HIGH - BITS_LOW), 0.0, 1.0), np.float64)


def preference(relative_kl: Float64) -> Float64:
    """A tie-break [..., n_types] far below any difference in bits: the smaller, the less KL [..., n_types] a type costs; NaN comes last."""
    return np.asarray(np.argsort(np.argsort(relative_kl, axis=-1, kind="stable"), axis=-1) * 1e-9, np.float64)


def nearest(
    bits: Float64, type_bits: Float64, tie_break: Float64, allowed: npt.NDArray[np.bool_]
) -> npt.NDArray[np.int64]:
    """The type [n] for wanted bits [n] among the allowed ones [n, n_types]; tie_break [n, n_types]. Each row must allow one.

    Half-way between two types the smaller is taken: it never costs another tensor its place.
    """
    distance = np.abs(type_bits[None, :] - bits[:, None])
    cost = np.where(allowed, distance + tie_break + 1e-7 * type_bits[None, :], np.inf)
    if not np.isfinite(cost.min(axis=1)).all():
        raise ValueError("a tensor has no allowed type")
    return np.asarray(cost.argmin(axis=1), np.int64)
