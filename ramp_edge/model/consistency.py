"""Do the tensors fit the metadata? A header may be well-formed and still lie about heads, widths or layers.

Said when the model is opened, with every offender, instead of as a shape error in the middle of calibration. Only for
the families whose forward pass ramp-edge runs: others may lay out their blocks in any way.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from ramp_edge.errors import ModelFileError, UnsupportedModelError
from ramp_edge.records import ArchitectureFacts, Hyperparameters, TensorInfo

_SHOWN_PROBLEMS = 8


def check_consistency(
    path: Path, facts: ArchitectureFacts, hyper: Hyperparameters, tensors: Mapping[str, TensorInfo]
) -> None:
    """Raise ModelFileError listing the tensors that are missing or misshapen, or UnsupportedModelError for experts."""
    if any("_exps." in name for name in tensors):
        raise UnsupportedModelError(
            f"{path}: a mixture of experts, which ramp-edge does not calibrate yet",
            hint="llama.cpp's own llama-imatrix and llama-quantize can serve it",
        )
    problems = number_problems(hyper)
    for name, shape in expected_shapes(facts, hyper).items():
        tensor = tensors.get(name)
        if tensor is None:
            problems.append(f"{name} is missing")
        elif tensor.shape != shape:
            problems.append(f"{name} has shape {list(tensor.shape)}, the metadata means {list(shape)}")
        if len(problems) > _SHOWN_PROBLEMS:
            break
    if len(problems) < _SHOWN_PROBLEMS:
        problems += _optional_problems(hyper, tensors)
    if problems:
        more = "\n  ..." if len(problems) > _SHOWN_PROBLEMS else ""
        raise ModelFileError(
            f"{path}: tensors and metadata do not fit together:\n  " + "\n  ".join(problems[:_SHOWN_PROBLEMS]) + more,
            hint="convert the original model again with a current llama.cpp",
        )


def expected_shapes(facts: ArchitectureFacts, hyper: Hyperparameters) -> dict[str, tuple[int, ...]]:
    """Shape (ggml order) of every tensor that the forward pass cannot do without."""
    embd = hyper.n_embd
    q, k = hyper.n_head * hyper.head_dim_k, hyper.n_head_kv * hyper.head_dim_k
    v, out = hyper.n_head_kv * hyper.head_dim_v, hyper.n_head * hyper.head_dim_v
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (embd, hyper.vocab_size),
        "output_norm.weight": (embd,),
    }
    for layer in range(hyper.n_layer):
        p = f"blk.{layer}."
        shapes |= {p + "attn_norm.weight": (embd,), p + "ffn_norm.weight": (embd,)}
        shapes |= {p + "attn_q.weight": (embd, q), p + "attn_k.weight": (embd, k)}
        shapes |= {p + "attn_v.weight": (embd, v), p + "attn_output.weight": (out, embd)}
        shapes |= {p + "ffn_gate.weight": (embd, hyper.n_ff), p + "ffn_up.weight": (embd, hyper.n_ff)}
        shapes[p + "ffn_down.weight"] = (hyper.n_ff, embd)
        if facts.post_norms:
            shapes |= {p + "post_attention_norm.weight": (embd,), p + "post_ffw_norm.weight": (embd,)}
    return shapes


def check_tokenizer(path: Path, keys: Collection[str]) -> None:
    """Raise ModelFileError where the metadata lacks what every tokenizer needs: libllama does not open such a file."""
    missing = [key for key in ("tokenizer.ggml.model", "tokenizer.ggml.tokens") if key not in keys]
    if missing:
        raise ModelFileError(
            f"{path}: no tokenizer: the metadata lacks {' and '.join(missing)}",
            hint="convert the original model again, with its tokenizer files beside config.json",
        )


def number_problems(hyper: Hyperparameters) -> list[str]:
    """Numbers that cannot be true together, as phrases."""
    problems = []
    if hyper.n_head % hyper.n_head_kv:
        problems.append(f"{hyper.n_head} heads cannot share {hyper.n_head_kv} key-value heads")
    if hyper.rope_dim > hyper.head_dim_k or hyper.rope_dim % 2:
        problems.append(f"rope dimension {hyper.rope_dim} in heads of {hyper.head_dim_k}")
    return problems


def _optional_problems(hyper: Hyperparameters, tensors: Mapping[str, TensorInfo]) -> list[str]:
    """Tensors that a model may lack, but that must fit where they are there."""
    rows = {
        "attn_q": hyper.n_head * hyper.head_dim_k,
        "attn_k": hyper.n_head_kv * hyper.head_dim_k,
        "attn_v": hyper.n_head_kv * hyper.head_dim_v,
        "ffn_gate": hyper.n_ff,
        "ffn_up": hyper.n_ff,
    }
    shapes = {"output.weight": (hyper.n_embd, hyper.vocab_size), "rope_freqs.weight": (hyper.rope_dim // 2,)}
    for layer in range(hyper.n_layer):
        for part in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
            shapes[f"blk.{layer}.{part}.bias"] = (rows.get(part, hyper.n_embd),)
        for part in ("attn_q_norm", "attn_k_norm"):
            shapes[f"blk.{layer}.{part}.weight"] = (hyper.head_dim_k,)
    problems = [
        f"{name} has shape {list(tensors[name].shape)}, the metadata means {list(shape)}"
        for name, shape in shapes.items()
        if name in tensors and tensors[name].shape != shape
    ]
    beyond = [t.name for t in tensors.values() if t.layer is not None and t.layer >= hyper.n_layer]
    problems += [f"{name} belongs to a block beyond the {hyper.n_layer} of the metadata" for name in beyond]
    return problems
