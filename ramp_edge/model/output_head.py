"""The output matrix of a source model, for recomputing its logits from hidden states."""

from __future__ import annotations

from ramp_edge.codec.types import FLOAT_TYPES
from ramp_edge.model.gguf_file import GgufTensors
from ramp_edge.records import OutputHead


def read_output_head(tensors: GgufTensors) -> OutputHead | None:
    """`output.weight` or the tied embedding as a view of the file; None where it is quantized."""
    names = {entry.name for entry in tensors.header.tensors}
    name = "output.weight" if "output.weight" in names else "token_embd.weight"
    try:
        quant_type = tensors.quant_type(name)
    except (KeyError, ValueError):
        # No embedding (it may lie in another part of a split model), or a type that only libllama reads.
        return None
    if quant_type not in FLOAT_TYPES:
        return None
    architecture = tensors.metadata("general.architecture")
    softcap = tensors.metadata(f"{architecture}.final_logit_softcapping")
    return OutputHead(
        rows=tensors.raw(name),
        quant_type=quant_type,
        softcap=float(softcap) if isinstance(softcap, (int, float)) else 0.0,
    )
