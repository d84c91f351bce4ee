"""Second moments made ready for error feedback.

With inputs x, the output error of a row error e is e H e^T, H = E[x x^T]. Quantizing columns in slabs from left to
right, the columns still free can absorb a slab's error. Let U be upper triangular with H^-1 = U^T U. The best correction
of the later columns for a slab error E_s is -E_s U_ss^-1 U_s,rest: the GPTQ update (Frantar et al., arXiv 2210.17323)
taken a slab at a time. What a slab's error costs once later columns have absorbed what they can is
E_s (U_ss^-1 U_ss^-T) E_s^T, so the diagonal of that matrix is the importance the codec should see, not H's own diagonal.

H = R R^T with R upper triangular (a Cholesky factor in reversed order) gives U = R^-1 and U_ss^-1 = R_ss, so one
factorization and one triangular inverse are all it takes.

Blocks are independent, so they may be coded in any order: those of the largest inputs first, while all others can still
absorb their error (GPTQ's "act order", by whole blocks, since the file says which columns share a block).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]
SHRINKAGE = 0.1
"""Share by which entries off the diagonal are trusted less. Unlike damping it is the same for outlier columns and quiet ones:
measured on unseen text it lowers the output error where damping by the mean diagonal raises it (docs/method.md)."""
DAMPING = 0.001
"""Share of the mean diagonal added to it: bounds the corrections in directions that calibration hardly saw."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FeedbackFactor:
    """What error feedback needs of one input site, for every type. All columns are in coding order."""

    order: Int64
    """[n_cols]: the model's column at each place of the coding order."""
    root: torch.Tensor
    """R, upper triangular with H = R R^T (damped), float32 [n_cols, n_cols]."""
    inverse: torch.Tensor
    """U = R^-1, upper triangular, float32 [n_cols, n_cols]."""
    hessian: torch.Tensor
    """H itself (shrunk and damped), float32 [n_cols, n_cols]."""

    def price(self) -> Float32:
        """Squared error of each of the model's columns [n_cols] counts so often, once later columns have absorbed what they can."""
        out = np.empty(self.root.shape[0], np.float32)
        out[self.order] = self.root.diagonal().square().numpy()
        return out

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


def coding_order(energy: Float32) -> Int64:
    """Columns in the order of coding, by their mean squared inputs [n_cols]: blocks of 256 columns by falling energy, and in each
    the blocks of 32 alike, so that one order serves the types of either block. Rows that do not divide stay as they are."""
    n_cols = len(energy)
    if n_cols % 32:
        return np.arange(n_cols)
    outer = 256 if n_cols % 256 == 0 else n_cols
    inner = energy.reshape(-1, outer // 32, 32).sum(axis=2)
    by_outer = np.argsort(-inner.sum(axis=1), kind="stable")
    by_inner = np.argsort(-inner, axis=1, kind="stable")
    blocks = (by_outer[:, None] * (outer // 32) + by_inner[by_outer]).reshape(-1)
    order: Int64 = (blocks[:, None] * 32 + np.arange(32)).reshape(-1)
    return order


def feedback_factor(hessian: Float32, *, shrinkage: float = SHRINKAGE, damping: float = DAMPING) -> FeedbackFactor:
    """Factor second moments [n_cols, n_cols].

    Damping grows until the factorization succeeds, so rank-deficient moments (few tokens) are fine.
    """
    order = coding_order(np.ascontiguousarray(hessian.diagonal()))
    h = torch.from_numpy(np.ascontiguousarray(hessian[np.ix_(order, order)], dtype=np.float32))
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
            return FeedbackFactor(order=order, root=root, inverse=inverse, hessian=h)
        share *= 4.0
