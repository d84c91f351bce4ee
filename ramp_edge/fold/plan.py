"""What folding decided: the order of the residual stream's channels, scales by group, and the account of it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class FoldPlan:
    """Changes of a model that leave its function as it is."""

    order: Int64 | None = None
    """[n_embd]: the source's channel at each place of the residual stream; None: as it was."""
    scales: dict[str, Float32] = field(default_factory=dict)
    """Group name -> its producer's scales [n_producer], by the source's channels. Readers are multiplied, the producer divided."""

    @property
    def changes_anything(self) -> bool:
        """False for the plan that leaves everything as it was."""
        return self.order is not None or bool(self.scales)


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupOutcome:
    """What was tried on one group and what came of it. KL in nats per token, predicted on held-out activations."""

    group: str
    kept: bool
    reason: str
    """Why it was kept or not, in words."""
    kl_before: float | None = None
    """Of the group's readers, in the types that the allocation gave them."""
    kl_after: float | None = None
    kl_noise: float | None = None
    """Standard error of the difference."""
    scale_spread: float | None = None
    """Largest scale over the smallest."""
