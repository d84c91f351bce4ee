"""Second moments made ready for error feedback.

With inputs x, the output error of a row error e is e H e^T, H = E[x x^T]. Quantizing columns in slabs from left
to right, the columns still free can absorb a slab's error. With U the upper Cholesky factor of H^-1
(H^-1 = U^T U), the best correction of the later columns for a slab error E_s is -E_s U_ss^-1 U_s,rest: the GPTQ
update (Frantar et al., arXiv 2210.17323) taken a slab at a time. What a slab's error costs once later columns
have absorbed what they can is E_s (H^-1_rest)_ss^-1 E_s^T, whose inner matrix is U_ss^-1 U_ss^-T, so its diagonal
is the right importance for the codec within the slab, not H's own diagonal.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

Float32 = npt.NDArray[np.float32]
DEFAULT_DAMPING = 0.01
"""Share of the mean diagonal added to it: bounds the corrections in directions that calibration hardly saw."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FeedbackFactor:
    """What error feedback needs of one input site, for one slab width."""

    upper: torch.Tensor
    """U with H^-1 = U^T U, float32 [n_cols, n_cols]."""
    slab_cols: int
    importance: Float32
    """Conditional importance of each column [n_cols], given that later slabs absorb error."""


def feedback_factor(hessian: Float32, slab_cols: int, damping: float = DEFAULT_DAMPING) -> FeedbackFactor:
    """Factor second moments [n_cols, n_cols] for slabs of `slab_cols` columns.

    Damping grows until the factorization succeeds, so rank-deficient moments (few tokens) are fine.
    """
    upper = inverse_upper(hessian, damping)
    n_cols = hessian.shape[0]
    importance = np.empty(n_cols, dtype=np.float32)
    for start in range(0, n_cols, slab_cols):
        block = upper[start : start + slab_cols, start : start + slab_cols]
        inverse = torch.linalg.solve_triangular(block, torch.eye(block.shape[0]), upper=True)
        # Row norms of U_ss^-1 are the diagonal of (U_ss^T U_ss)^-1.
        importance[start : start + slab_cols] = (inverse**2).sum(1).numpy()
    return FeedbackFactor(upper=upper, slab_cols=slab_cols, importance=importance)


def inverse_upper(hessian: Float32, damping: float) -> torch.Tensor:
    """Upper Cholesky factor U of the damped inverse, H^-1 = U^T U, float32."""
    h = torch.from_numpy(np.asarray(hessian, dtype=np.float32)).clone()
    diagonal = h.diagonal()
    mean = float(diagonal.mean())
    if not np.isfinite(mean) or mean <= 0.0:
        # Inputs that are always zero: nothing to weigh, every column counts the same.
        h = torch.eye(h.shape[0])
        diagonal, mean = h.diagonal(), 1.0
    share = damping
    while True:
        damped = h.clone()
        damped.diagonal().add_(share * mean)
        factor, failed = torch.linalg.cholesky_ex(damped)
        if not failed:
            inverse = torch.cholesky_inverse(factor)
            upper, failed = torch.linalg.cholesky_ex(inverse, upper=True)
            if not failed:
                return upper
        share *= 4.0
