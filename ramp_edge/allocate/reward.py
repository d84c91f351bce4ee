"""The reward of an allocation, term by term: quality first, penalties that are not symmetric, cliffs at the budget, speed.

RAMP's abstract asks for a quality-prioritised reward with asymmetric penalties and budget cliffs; the terms, formulas and weights here are this
project's own. All terms are without unit, 0 or less is worse, and each is logged on its own.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardWeights:
    """Sizes of the terms; 0 takes a term out."""

    quality: float = 1.0
    """Per ln of KL beside the reference plan's: doubling the KL costs 0.69."""
    worse: float = 0.5
    """What a KL above the reference's costs in addition, per ln; below it nothing is added."""
    unused: float = 0.2
    """Per share of the byte budget that is left over."""
    over: float = 10.0
    """Per share of the byte budget beyond it: far more than leaving as much unused."""
    cliff: float = 1.0
    """For going beyond a limit at all, and per share of the weights whose type the limits alone decided."""
    speed: float = 0.5
    """Per share of the seconds limit beyond it; nothing within it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardTerms:
    """Each term [n_episodes], weighted; their sum is the reward."""

    quality: Float64
    worse: Float64
    unused: Float64
    over: Float64
    cliff: Float64
    speed: Float64

    @property
    def total(self) -> Float64:
        return np.asarray(sum(asdict(self).values()), np.float64)


def log_ratio_step(before: Float64, after: Float64) -> Float64:
    """Change of the logarithm of the KL that a plan comes to when the knapsack decides the rest with the bytes left.

    before, after [n]: KL so far plus the best rest's. Summed over an episode it is ln(KL / reference KL), where the first step starts from the
    reference's KL: every step hears at once what its choice costs the whole, the bytes it takes from others included.
    """
    return np.asarray(np.log(after) - np.log(before), np.float64)


def quality_term(weights: RewardWeights, log_ratio: Float64) -> Float64:
    """Minus the (change of the) logarithm of KL beside the reference's."""
    return np.asarray(-weights.quality * log_ratio, np.float64)


def worse_term(weights: RewardWeights, log_ratio: Float64) -> Float64:
    """At the end: what is worse than the reference counts more than what is better."""
    return np.asarray(-weights.worse * np.maximum(log_ratio, 0.0), np.float64)


def unused_term(weights: RewardWeights, share_used: Float64) -> Float64:
    """At the end: bytes left over."""
    return np.asarray(-weights.unused * np.maximum(1.0 - share_used, 0.0), np.float64)


def over_term(weights: RewardWeights, share_used: Float64) -> Float64:
    """At the end: bytes beyond the budget. Masks keep this at 0."""
    return np.asarray(-weights.over * np.maximum(share_used - 1.0, 0.0), np.float64)


def cliff_term(
    weights: RewardWeights, share_used: Float64, share_of_seconds: Float64, forced_share: Float64
) -> Float64:
    """At the end: a step down for any excess, and the share of weights that had one type left though more were legal."""
    beyond = (share_used > 1.0) | (share_of_seconds > 1.0)
    return np.asarray(-weights.cliff * (beyond + forced_share), np.float64)


def speed_term(weights: RewardWeights, share_of_seconds: Float64) -> Float64:
    """At the end: seconds beyond the limit. Masks keep this at 0 too."""
    return np.asarray(-weights.speed * np.maximum(share_of_seconds - 1.0, 0.0), np.float64)
