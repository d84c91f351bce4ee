"""From episodes to reward terms: what the environment and the trainer share."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ramp_edge.allocate.episode import Episodes
from ramp_edge.allocate.reference import Reference
from ramp_edge.allocate.reward import (
    RewardTerms,
    RewardWeights,
    cliff_term,
    log_ratio_step,
    over_term,
    quality_term,
    speed_term,
    unused_term,
    worse_term,
)

Float64 = npt.NDArray[np.float64]


def step_quality(weights: RewardWeights, reference: Reference, at: int, before: float, after: float) -> float:
    """The quality term of one step of one episode: predicted KL before and after it."""
    step = log_ratio_step(
        np.array([before]), np.array([after]), reference.rest[at : at + 2, None], np.array([reference.kl])
    )
    return float(quality_term(weights, step)[0])


def end_terms(weights: RewardWeights, episodes: Episodes, log_ratio: Float64) -> RewardTerms:
    """The terms that only the whole plan decides; quality, which the steps paid, is 0. log_ratio [n]: ln(KL / reference KL)."""
    table, rows = episodes.table, episodes.rows
    used = episodes.used / np.maximum(table.max_bytes[rows], 1.0)
    limit = table.max_seconds[rows]
    seconds = np.where(np.isfinite(limit), episodes.used_seconds / np.where(np.isfinite(limit), limit, 1.0), 0.0)
    # Within the tolerance of the mask.
    seconds = np.where(seconds <= 1.0 + 1e-8, np.minimum(seconds, 1.0), seconds)
    return RewardTerms(
        quality=np.zeros(len(rows)),
        worse=worse_term(weights, log_ratio),
        unused=unused_term(weights, used),
        over=over_term(weights, used),
        cliff=cliff_term(weights, used, seconds, episodes.forced),
        speed=speed_term(weights, seconds),
    )
