"""Second moments made ready for error feedback.

With inputs x, the output error of a row error e is e H e^T, H = E[x x^T]. Quantizing columns in slabs from left to
right, the columns still free can absorb a slab's error. Let U be upper triangular with H^-1 = U^T U. The best correction
of the later columns for a slab error E_s is -E_s U_ss^-1 U_s,rest: the GPTQ update (Frantar et al., arXiv 2210.17323)
taken a slab at a time. What a slab's error costs once later columns have absorbed what they can is
E_s (U_ss^-1 U_ss^-T) E_s^T, so the diagonal of that matrix is the importance the codec should see, not H's own diagonal.

H = R R^T with R upper triangular (a Cholesky factor in reversed order) gives U = R^-1 and U_ss^-1 = R_ss, so one
factorization and one triangular inverse are all it takes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

Float32 = npt.NDArray[np.float32]
SHRINKAGE = 0.1
"""Share by which entries off the diagonal are trusted less. Unlike damping it is the same for outlier columns and quiet ones:
measured on unseen text it lowers the output error where damping by the mean diagonal raises it (docs/method.md)."""
DAMPING = 0.001
"""Share of the mean diagonal added to it: bounds the corrections in directions that calibration hardly saw."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FeedbackFactor:
    """What error feedback needs of one input site; serves every slab width."""

    root: torch.Tensor
    """R, upper triangular with H = R R^T (damped), float32 [n_cols, n_cols]."""
    inverse: torch.Tensor
    """U = R^-1, upper triangular, float32 [n_cols, n_cols]."""
    hessian: torch.Tensor
    """H itself (shrunk and damped), float32 [n_cols, n_cols]."""

    def importance(self, slab_cols: int) -> Float32:
        """Importance of each column [n_cols] within its slab, given that later slabs absorb error."""
        n_cols = self.root.shape[0]
        out = np.empty(n_cols, dtype=np.float32)
        for start in range(0, n_cols, slab_cols):
            block = self.root[start : start + slab_cols, start : start + slab_cols]
            out[start : start + slab_cols] = block.square().sum(1).numpy()
        return out


def feedback_factor(hessian: Float32, *, shrinkage: float = SHRINKAGE, damping: float = DAMPING) -> FeedbackFactor:
    """Factor second moments [n_cols, n_cols].

    Damping grows until the factorization succeeds, so rank-deficient moments (few tokens) are fine.
    """
    h = torch.from_numpy(np.array(hessian, dtype=np.float32))
    n_cols = h.shape[0]
    mean = float(h.diagonal().mean())
    if not np.isfinite(mean) or mean <= 0.0:
        # Inputs that are always zero: nothing to weigh, every column counts the same.
        h, mean = torch.eye(n_cols), 1.0
    diagonal = h.diagonal().clone()
    h.mul_(1.0 - shrinkage).diagonal().copy_(diagonal)
    share = damping
    while True:
        h.diagonal().copy_(diagonal + share * mean)
        lower, failed = torch.linalg.cholesky_ex(h.flip(0, 1))
        if not int(failed):
            root = lower.flip(0, 1).contiguous()
            inverse = torch.linalg.solve_triangular(root, torch.eye(n_cols), upper=True).contiguous()
            return FeedbackFactor(root=root, inverse=inverse, hessian=h)
        share *= 4.0
