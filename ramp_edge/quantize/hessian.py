"""Second moments made ready for error feedback.

With inputs x, the output error of a row error e is e H e^T, H = E[x x^T]. Quantizing columns in slabs from left to
right, the columns still free can absorb a slab's error. Let U be upper triangular with H^-1 = U^T U. The best correction
of the later columns for a slab error E_s is -E_s U_ss^-1 U_s,rest: the GPTQ update (Frantar et al., arXiv 2210.17323)
taken a slab at a time. What a slab's error costs once later columns have absorbed what they can is
E_s (U_ss^-1 U_ss^-T) E_s^T, so the diagonal of that matrix is the importance the codec should see, not H's own diagonal.

H = R R^T with R upper triangular (a Cholesky factor in reversed order) gives U = R^-1 and U_ss^-1 = R_ss, so one
factorization (`feedback_root.py`) and one triangular inverse are all it takes.

Blocks are independent, so they may be coded in any order: those of the largest inputs first, while all others can still
absorb their error (GPTQ's "act order", by whole blocks, since the file says which columns share a block).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from ramp_edge.feedback_root import DAMPING, SHRINKAGE, FeedbackRoot, feedback_root

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True)
class FeedbackFactor(FeedbackRoot):
    """What error feedback needs of one input site, for every type. All columns are in coding order."""

    inverse: torch.Tensor
    """U = R^-1, upper triangular, float32 [n_cols, n_cols]."""

    def scaled(self, scales: Float32) -> FeedbackFactor:
        """The factor of inputs divided by `scales` [n_cols], in the same coding order; damping is scaled with them."""
        s = torch.from_numpy(np.ascontiguousarray(scales[self.order]))
        return FeedbackFactor(
            order=self.order,
            root=self.root / s[:, None],
            inverse=self.inverse * s,
            hessian=self.hessian / (s[:, None] * s),
        )

    def importance(self, slab_cols: int) -> Float32:
        """Importance of each column [n_cols] within its slab, given that later slabs absorb error."""
        n_cols = self.root.shape[0]
        out = np.empty(n_cols, dtype=np.float32)
        for start in range(0, n_cols, slab_cols):
            block = self.root[start : start + slab_cols, start : start + slab_cols]
            out[start : start + slab_cols] = block.square().sum(1).numpy()
        return out


def feedback_factor(hessian: Float32, *, shrinkage: float = SHRINKAGE, damping: float = DAMPING) -> FeedbackFactor:
    """Factor second moments [n_cols, n_cols]; damping grows until that succeeds."""
    found = feedback_root(hessian, shrinkage=shrinkage, damping=damping)
    unit = torch.eye(found.root.shape[0])
    inverse = torch.linalg.solve_triangular(found.root, unit, upper=True).contiguous()
    return FeedbackFactor(order=found.order, root=found.root, inverse=inverse, hessian=found.hessian)
