"""How llama.cpp rounds activations before it multiplies them with quantized weights.

The CPU backend turns them into Q8_0 or Q8_1 (8 bits, one scale for 32 values) beside the 32-column types and into Q8_K (one scale
for 256) beside all others: `vec_dot_type` in ggml-cpu.c. CUDA turns them into Q8_1 beside every quantized type (mmq.cu,
mmvq.cu); Metal keeps floats. One large activation makes all that share its scale coarse.
"""

from __future__ import annotations

from ramp_edge.codec.types import QuantType

ACTIVATION_BLOCKS = (32, 256)
"""Numbers of activations that share a scale, wherever they are rounded."""


def activation_block(quant_type: QuantType, backend: str) -> int:
    """Activations that share a scale beside weights of that type; 0 where they stay floats. backend: cpu, cuda or metal."""
    if quant_type.is_float or backend == "metal":
        return 0
    return 32 if backend == "cuda" else quant_type.block_size
