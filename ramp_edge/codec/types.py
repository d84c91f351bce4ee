"""The quantization types: one enum, sizes taken from gguf-py's table, which mirrors ggml's C structs.

This module (with its siblings in `codec/`) is the only home of facts about types: every size, block and
imatrix question in the project is answered here. Cheap to import: no torch, no llama_cpp.
"""

from __future__ import annotations

from enum import IntEnum

from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType


class QuantType(IntEnum):
    """ggml tensor types that ramp-edge reads or emits; values are ggml's own ids."""

    F32 = 0
    F16 = 1
    Q4_0 = 2
    Q4_1 = 3
    Q5_0 = 6
    Q5_1 = 7
    Q8_0 = 8
    Q2_K = 10
    Q3_K = 11
    Q4_K = 12
    Q5_K = 13
    Q6_K = 14
    IQ2_XXS = 16
    IQ2_XS = 17
    IQ3_XXS = 18
    IQ1_S = 19
    IQ4_NL = 20
    IQ3_S = 21
    IQ2_S = 22
    IQ4_XS = 23
    IQ1_M = 29
    BF16 = 30

    @property
    def block_size(self) -> int:
        """Columns in one block; a row's length must be a multiple of it."""
        return int(GGML_QUANT_SIZES[GGMLQuantizationType(self.value)][0])

    @property
    def block_bytes(self) -> int:
        """Bytes of one block."""
        return int(GGML_QUANT_SIZES[GGMLQuantizationType(self.value)][1])

    @property
    def bits_per_weight(self) -> float:
        """Effective bits per weight, scales included."""
        return 8.0 * self.block_bytes / self.block_size

    @property
    def is_float(self) -> bool:
        """True for the three unquantized types."""
        return self in FLOAT_TYPES

    @property
    def needs_imatrix(self) -> bool:
        """True where ggml refuses to quantize without an importance matrix."""
        return self in _NEEDS_IMATRIX

    def row_bytes(self, n_cols: int) -> int:
        """Bytes of one row of `n_cols` weights. Raises ValueError where the block does not divide it."""
        if n_cols % self.block_size:
            raise ValueError(f"a row of {n_cols} weights is not a multiple of {self.name}'s block of {self.block_size}")
        return n_cols // self.block_size * self.block_bytes


FLOAT_TYPES = frozenset({QuantType.F32, QuantType.F16, QuantType.BF16})
_NEEDS_IMATRIX = frozenset(
    {
        QuantType.IQ1_S,
        QuantType.IQ1_M,
        QuantType.IQ2_XXS,
        QuantType.IQ2_XS,
        QuantType.IQ2_S,
        QuantType.IQ3_XXS,
    }
)
QUANTIZED_TYPES: tuple[QuantType, ...] = tuple(t for t in QuantType if t not in FLOAT_TYPES)
"""Every type that the compiler can emit for a weight, beside the float types."""


def parse_type(text: str) -> QuantType:
    """The type of that name, case-insensitively. Raises KeyError for an unknown name."""
    return QuantType[text.strip().upper()]
