"""What it costs that llama.cpp rounds a layer's input to 8 bits (`codec/activations.py`).

With rounding errors e of the input x at one token and v = dL/dx through this layer alone, the log-likelihood moves by e . v. Errors are
independent of each other, so KL per token ~ 1/2 mean_t sum_c e_tc^2 v_tc^2, the same second-order formula as for weights.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ramp_edge.codec.activations import ACTIVATION_BLOCKS


def rounding_errors(x: Tensor, block: int) -> Tensor:
    """What rounding takes from x [..., n_cols]: 8 bits with one scale for `block` columns, which must divide n_cols."""
    blocks = x.float().reshape(-1, block)
    step = blocks.abs().amax(-1, keepdim=True) / 127
    errors: Tensor = torch.where(step > 0, blocks - (blocks / step).round() * step, 0.0)
    return errors.reshape(x.shape)


@torch.no_grad()
def activation_kl(x: Tensor, v: Tensor) -> dict[int, float]:
    """Block -> sum over tokens of 1/2 sum_c e^2 v^2; x and v [..., n_cols]. Blocks that do not divide n_cols are left out."""
    squares = v.float().square()
    return {
        block: 0.5 * float((rounding_errors(x, block).square() * squares).sum())
        for block in ACTIVATION_BLOCKS
        if x.shape[-1] % block == 0
    }


def mean_per_token(parts: list[dict[int, float]], tokens: int) -> dict[int, float]:
    """Means per token of the sums of several batches."""
    return {block: sum(part[block] for part in parts) / tokens for block in parts[0]}
