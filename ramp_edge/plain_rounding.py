"""The yardstick of the policy's features: plain 4-bit rounding, with no search for scales and no type of GGUF in it."""

from __future__ import annotations

from torch import Tensor

_BLOCK_COLS = 32
_LEVELS = 8
_TINY = 1e-30


def rounding_error(weight: Tensor) -> Tensor:
    """round(W) - W, float32: symmetric, 16 levels, one scale for 32 columns (for the whole row where they do not divide it)."""
    values = weight.float()
    size = _BLOCK_COLS if values.shape[-1] % _BLOCK_COLS == 0 else values.shape[-1]
    blocks = values.reshape(*values.shape[:-1], -1, size)
    step = (blocks.abs().amax(-1, keepdim=True) / _LEVELS).clamp_min(_TINY)
    return ((blocks / step).round().clamp(-_LEVELS, _LEVELS - 1) * step - blocks).reshape(values.shape)
