"""The codebook types IQ2 and IQ3: their grids, their scales and how their bits lie in a block of 256 weights.

A weight is step * g * sign, where some neighbouring weights (4 or 8) take their g from one entry of a fixed grid and 16 or 32 share a
step, d * (offset + slope * s) with a 4-bit s. Where signs have 7 bits for 8 weights, an even number of them is negative. Grids are
gguf-py's (`gguf.quants`); the bits follow ggml-common.h and ggml-quants.c of llama.cpp.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from ramp_edge.codec.types import QuantType

Float32 = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
BLOCK_COLS = 256
SIGN_COLS = 8
"""Weights whose signs lie in one byte, or in 7 bits."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Codebook:
    """One type."""

    quant_type: QuantType
    grid: Float32
    """[n_entries, width]: magnitudes."""
    scale_cols: int
    """Weights that share a 4-bit scale."""
    offset: float
    slope: float
    even_signs: bool
    """True where an even number of 8 signs must be negative."""

    @property
    def width(self) -> int:
        """Weights of one entry."""
        return int(self.grid.shape[1])

    def read_scales(self, data: Bytes) -> tuple[Float32, Bytes]:
        """Blocks [n, block_bytes] -> (d float32 [n], 4-bit scales uint8 [n, 256 / scale_cols])."""
        d = data[:, :2].copy().view(np.float16)[:, 0].astype(np.float32)
        if self.quant_type in (QuantType.IQ2_XXS, QuantType.IQ3_XXS):
            words = self._words(data)
            return d, (words >> 28).astype(np.uint8)
        packed = data[:, -(BLOCK_COLS // self.scale_cols // 2) :]
        return d, np.stack([packed & 15, packed >> 4], axis=2).reshape(len(data), -1)

    def _words(self, data: Bytes) -> npt.NDArray[np.uint32]:
        """Signs and scale of each 32 weights, [n, 8]."""
        if self.quant_type is QuantType.IQ2_XXS:
            words: npt.NDArray[np.uint32] = data[:, 2:].copy().view(np.uint32)[:, 1::2]
        else:
            words = data[:, 66:].copy().view(np.uint32)
        return words

    def write(self, d: Float32, scales: Bytes, entries: npt.NDArray[np.int64], negative: Bytes) -> Bytes:
        """Blocks [n, block_bytes] from d [n], scales [n, 256 / scale_cols], entries [n, 256 / width], negative (0 or 1) [n, 256]."""
        n = len(d)
        head = d.astype(np.float16).reshape(-1, 1).view(np.uint8)
        low = (entries & 255).astype(np.uint8)
        signs: Bytes = np.packbits(negative.reshape(n, -1, SIGN_COLS), axis=2, bitorder="little")[:, :, 0]  # [n, 32]
        nibbles = (scales[:, 0::2] | scales[:, 1::2] << 4).astype(np.uint8)
        if self.even_signs:
            signs = np.bitwise_and(signs, np.uint8(127))
        match self.quant_type:
            case QuantType.IQ2_XXS | QuantType.IQ3_XXS:
                shifts = np.arange(4, dtype=np.uint32) * 7
                words = np.bitwise_or.reduce(signs.reshape(n, 8, 4).astype(np.uint32) << shifts, axis=2)
                words |= scales.astype(np.uint32) << 28
                if self.quant_type is QuantType.IQ3_XXS:
                    return np.concatenate([head, low, words.view(np.uint8)], axis=1)
                pairs = np.stack([low.reshape(n, 8, 4).view(np.uint32)[:, :, 0], words], axis=2)
                return np.concatenate([head, pairs.reshape(n, -1).view(np.uint8)], axis=1)
            case QuantType.IQ2_XS:
                codes = (entries.astype(np.uint16) | signs.astype(np.uint16) << 9).view(np.uint8)
                return np.concatenate([head, codes, nibbles], axis=1)
            case QuantType.IQ2_S:
                pairs_of_bits = (entries >> 8).reshape(n, 8, 4) << (2 * np.arange(4))
                return np.concatenate([head, low, signs, pairs_of_bits.sum(axis=2).astype(np.uint8), nibbles], axis=1)
            case _:
                high = np.packbits((entries >> 8).astype(np.uint8).reshape(n, 8, 8), axis=2, bitorder="little")
                return np.concatenate([head, low, high[:, :, 0], signs, nibbles], axis=1)


@cache
def codebook(quant_type: QuantType) -> Codebook | None:
    """The type's codebook; None for types that have none here (scalar types, and IQ1, whose grids hold signs)."""
    facts = {
        QuantType.IQ2_XXS: (32, 0.125, 0.25, True),
        QuantType.IQ2_XS: (16, 0.125, 0.25, True),
        QuantType.IQ2_S: (16, 0.125, 0.25, False),
        QuantType.IQ3_XXS: (32, 0.25, 0.5, True),
        QuantType.IQ3_S: (32, 1.0, 2.0, False),
    }
    if quant_type not in facts:
        return None
    import gguf.quants

    kind = getattr(gguf.quants, quant_type.name)
    kind.init_grid()
    scale_cols, offset, slope, even_signs = facts[quant_type]
    return Codebook(
        quant_type=quant_type,
        grid=np.ascontiguousarray(kind.grid[0, 0], dtype=np.float32),
        scale_cols=scale_cols,
        offset=offset,
        slope=slope,
        even_signs=even_signs,
    )
