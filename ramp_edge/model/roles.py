"""From GGUF tensor names to roles, and the reason why a tensor is never quantized."""

from __future__ import annotations

import re

from ramp_edge.records import Role

_BLOCK = re.compile(r"^blk\.(\d+)\.(.+)$")
_ROLES = {
    "token_embd.weight": Role.TOKEN_EMBD,
    "output.weight": Role.OUTPUT,
    "attn_q.weight": Role.ATTN_Q,
    "attn_k.weight": Role.ATTN_K,
    "attn_v.weight": Role.ATTN_V,
    "attn_output.weight": Role.ATTN_OUTPUT,
    "ffn_gate.weight": Role.FFN_GATE,
    "ffn_up.weight": Role.FFN_UP,
    "ffn_down.weight": Role.FFN_DOWN,
}
# The parts of names that llama.cpp's quantizer leaves alone (src/llama-quant.cpp, tensor_allows_quantization).
_KEPT_PARTS = (
    "ffn_gate_inp",
    "altup",
    "laurel",
    "per_layer_model_proj",
    "ssm_conv1d",
    "shortconv.conv",
    "position_embd",
    "token_types",
    "pos_embd",
    "time_mix_",
    "attn_rel_b",
)


def layer_of(name: str) -> int | None:
    """The block index in a tensor's name, or None outside the blocks."""
    match = _BLOCK.match(name)
    return int(match.group(1)) if match else None


def role_of(name: str) -> Role:
    """What the tensor does."""
    match = _BLOCK.match(name)
    short = match.group(2) if match else name
    if short in _ROLES:
        return _ROLES[short]
    if "norm" in short:
        return Role.NORM
    if short.endswith(".bias"):
        return Role.BIAS
    return Role.OTHER


def kept_reason(name: str, shape: tuple[int, ...]) -> str | None:
    """Why llama.cpp would refuse to quantize this tensor, or None where it may be quantized."""
    role = role_of(name)
    if role is Role.NORM:
        return "normalisation weights stay in float"
    if role is Role.BIAS:
        return "biases stay in float"
    if sum(size > 1 for size in shape) < 2:
        return "one-dimensional tensors stay in float"
    if not name.endswith("weight"):
        return "only weights are quantized"
    for part in _KEPT_PARTS:
        if part in name:
            return f"llama.cpp never quantizes {part.rstrip('_')} tensors"
    if len(shape) > 2:
        return "stacked expert tensors are copied as they are: per-expert calibration is not built yet"
    return None
