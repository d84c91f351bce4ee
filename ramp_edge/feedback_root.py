"""Second moments factored for error feedback: what quantization works with, and what the policy's features foresee of it.

H = R R^T with R upper triangular, columns in coding order. A row error e of plain rounding becomes e diag(R) R^-1 once every column's error
was handed on to the columns after it, and costs sum_j e_j^2 R_jj^2 instead of e H e^T (`quantize/hessian.py` says why).
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
class FeedbackRoot:
    """All columns are in coding order."""

    order: Int64
    """[n_cols]: the model's column at each place of the coding order."""
    root: torch.Tensor
    """R, upper triangular with H = R R^T (damped), float32 [n_cols, n_cols]."""
    hessian: torch.Tensor
    """H itself (shrunk and damped), float32 [n_cols, n_cols]."""

    def price(self) -> Float32:
        """R_jj^2 [n_cols], the model's columns: how often a squared error counts once later columns have absorbed what they can."""
        out = np.empty(self.root.shape[0], np.float32)
        out[self.order] = self.root.diagonal().square().numpy()
        return out

    def handed_on(self, errors: torch.Tensor) -> torch.Tensor:
        """What plain rounding's errors [n_rows, n_cols] become under feedback: e diag(R) R^-1, in the model's columns."""
        order = torch.from_numpy(self.order)
        own = errors[:, order] * self.root.diagonal()
        out = torch.empty_like(own)
        out[:, order] = torch.linalg.solve_triangular(self.root, own, upper=True, left=False)
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


def feedback_root(hessian: Float32, *, shrinkage: float = SHRINKAGE, damping: float = DAMPING) -> FeedbackRoot:
    """Factor second moments [n_cols, n_cols].

    Damping grows until the factorization succeeds, so rank-deficient moments (few tokens) are fine.
    """
    order = coding_order(np.ascontiguousarray(hessian.diagonal()))
    h = torch.from_numpy(np.ascontiguousarray(hessian[np.ix_(order, order)], dtype=np.float32))
    mean = float(h.diagonal().mean())
    if not np.isfinite(mean) or mean <= 0.0:
        # Inputs that are always zero: nothing to weigh, every column counts the same.
        h, mean = torch.eye(h.shape[0]), 1.0
    diagonal = h.diagonal().clone()
    h.mul_(1.0 - shrinkage).diagonal().copy_(diagonal)
    share = damping
    while True:
        h.diagonal().copy_(diagonal + share * mean)
        lower, failed = torch.linalg.cholesky_ex(h.flip(0, 1))
        if not int(failed):
            return FeedbackRoot(order=order, root=lower.flip(0, 1).contiguous(), hessian=h)
        share *= 4.0
