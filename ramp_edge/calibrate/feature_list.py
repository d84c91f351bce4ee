"""The policy's 11 features by name: formula, range, why. Defined here and nowhere else.

Activation statistics, weight properties, structural descriptors, as in RAMP's abstract (arXiv 2603.17891); which eleven they are is this
project's own design. None needs a gradient. `features.py` measures them.
"""

from __future__ import annotations

from dataclasses import dataclass

from ramp_edge.records import NOISE_SCALE

LIMIT = 4.0
"""Largest size of a feature: what lies beyond says no more than this."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Feature:
    """One of the eleven."""

    name: str
    group: str
    """activation, weight or structure"""
    formula: str
    low: float
    high: float
    centred: bool
    """True where the model's mean is taken from it and the rest is multiplied by `scale`."""
    why: str
    scale: float = 1.0


def _log(name: str, group: str, formula: str, why: str, scale: float = 1.0) -> Feature:
    return Feature(name=name, group=group, formula=formula, low=-LIMIT, high=LIMIT, centred=True, why=why, scale=scale)


def _fixed(name: str, formula: str, low: float, why: str) -> Feature:
    return Feature(name=name, group="structure", formula=formula, low=low, high=1.0, centred=False, why=why)


FEATURES = (
    _log(
        "noise", "activation", "ln(KL of 4-bit rounding with feedback / weights), without gradients (calibrate/noise.py)",
        "the sensitivity per weight itself, as far as forward passes know it", NOISE_SCALE,
    ),
    _log(
        "feedback", "activation", "ln(sum_rj s_rj^2 R_jj^2 / sum_rj s_rj^2 H_jj), H = R R^T",
        "error feedback takes most where inputs are correlated: how much of the noise it has already taken",
    ),
    _log("input_outlier", "activation", "ln(max_j H_jj / mean_j H_jj)", "loud columns spoil shared scales and rounded activations", 0.5),
    _log("input_rank", "activation", "ln(tr(H)^2 / (n tr(H H)))", "inputs of few directions leave room to hide errors in", 0.5),
    _log("output_gain", "activation", "ln(n tr(W H W^T) / (|W|^2 tr H))", "a layer tuned to its inputs has output to lose", 0.5),
    _log("kurtosis", "weight", "ln(mean w^4 / (mean w^2)^2)", "heavy tails widen the steps of low bit widths"),
    _log("row_spread", "weight", "standard deviation over rows of ln |W_r|^2", "a few strong rows carry what others do not"),
    _log("size", "structure", "ln(weights of the tensor)", "what a bit costs in bytes", 0.5),
    _fixed("depth", "(layer + 1/2) / layers; 0 for the input embedding, 1 for the output matrix", 0.0, "first and last blocks differ"),
    _fixed("kind", "-1 attention, 0 embedding and output, 1 feed-forward", -1.0, "half of a tensor's role"),
    _fixed("stage", "from -1 (attn_q, ffn_gate, output) to 1 (attn_output, ffn_down): how near to the residual stream", -1.0, "the other half"),
)  # fmt: skip
"""In the order of the values."""
