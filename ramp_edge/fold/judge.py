"""Whether a change pays, judged on activations that nothing was fitted to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
CERTAINTY = 2.0
"""Standard errors by which a gain must exceed zero."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ratio:
    """A cost after a change over the cost before it."""

    value: float
    noise: float
    """Its standard error."""


UNCHANGED = Ratio(value=1.0, noise=0.0)


def output_errors(error: Float32, inputs: Float32) -> Float64:
    """Mean squared output error of each row [n_rows], from weight errors [n_rows, n_cols] and inputs [n_tokens, n_cols]."""
    rows: Float64 = np.square(error @ inputs.T).mean(axis=1, dtype=np.float64)
    return rows


def moment_errors(error: Float32, moments: Float32) -> Float64:
    """The same from second moments [n_cols, n_cols]."""
    rows: Float64 = np.einsum("rc,rc->r", error @ moments, error, dtype=np.float64)
    return rows


def paired_ratio(before: Float64, after: Float64) -> Ratio:
    """Sum of `after` over sum of `before`, paired samples (rows or tokens), with the ratio estimator's standard error."""
    total = float(before.sum())
    if total <= 0.0:
        return UNCHANGED
    value = float(after.sum()) / total
    residuals = after - value * before
    return Ratio(value=value, noise=float(np.sqrt(np.square(residuals).sum()) / total))


def is_gain(kl_before: float, kl_after: float, kl_noise: float) -> bool:
    """True where the fall exceeds what chance may give."""
    return kl_before - kl_after > CERTAINTY * kl_noise
