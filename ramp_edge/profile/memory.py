"""What a model needs resident on a device, line by line.

The budget is for llama.cpp's own tools at their defaults (flash attention, sliding-window layers with their small cache,
batches of `n_ubatch` tokens) with one sequence. On CPU and CUDA every copy that is computed with counts once: with
`--no-mmap`, or with the mapped file's pages given back by the kernel, which never reads them again. The repack line therefore
counts nothing for the file's own copy, and its text says how much more a listing of resident pages shows under mmap;
`count_mapped_originals=True` counts it. Metal computes on the mapped file itself (src/llama-model.cpp, load_tensors), so the
budget assumes mmap there.

libllama reserves logits for `n_outputs_max` tokens, a whole batch unless told otherwise: so do llama-completion, llama-bench
and `ramp-edge run`, and so does the budget. llama-server asks for one row for each slot; `SERVER_OUTPUTS` is that case.

The KV cache is exact (llama.cpp src/llama-kv-cache.cpp and -iswa.cpp). The compute buffer is a model of ggml's graph
allocator, checked against what libllama reports: see docs/memory-model.md for the table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ramp_edge.codec.types import QuantType
from ramp_edge.records import DeviceTarget, Hyperparameters, MemoryBudget, MemoryLine, ModelInventory, Role, TensorInfo
from ramp_edge.units import human_bytes

KV_PAD_CELLS = 256
DEFAULT_UBATCH = 512
SERVER_OUTPUTS = 1
"""Rows of logits that `llama-server --parallel 1` reserves (tools/server/server-context.cpp, server_output_limits)."""
_F32 = 4
_F16 = 2
# ggml-cpu/repack.cpp takes rows in groups of 8, but these types in groups of 4 where the CPU is an ARM one.
_REPACK_ROWS = 8
_REPACK_ROWS_NEON = {QuantType.Q4_0: 4, QuantType.IQ4_NL: 4, QuantType.Q8_0: 4}
# The allocator leaves holes: 0-11 % of the larger part were measured, see docs/memory-model.md.
_HOLES_OF_LARGER = 0.08
_HOLES_OF_SMALLER = 0.30


def pad_cells(n_tokens: int) -> int:
    """Cells that llama.cpp allots for that many tokens."""
    return -(-n_tokens // KV_PAD_CELLS) * KV_PAD_CELLS


def kv_cells(hyper: Hyperparameters, ctx: int, n_ubatch: int = DEFAULT_UBATCH) -> tuple[int, int]:
    """Cells of a full layer and of a sliding-window layer."""
    full = pad_cells(ctx)
    return full, pad_cells(min(full, hyper.sliding_window + n_ubatch))


def kv_misfits(hyper: Hyperparameters, kv_type: QuantType) -> list[tuple[str, int]]:
    """K and V whose heads the type's block does not divide, with their columns."""
    parts = (("K", hyper.head_dim_k), ("V", hyper.head_dim_v))
    return [(part, width) for part, width in parts if width % kv_type.block_size]


def kv_cell_bytes(hyper: Hyperparameters, kv_type: QuantType) -> int:
    """Bytes of one token in one layer, K and V. Raises ValueError where the type's block does not divide a head.

    libllama refuses such a context (src/llama-context.cpp, llama_init_from_model), though the whole row might divide.
    """
    for part, width in kv_misfits(hyper, kv_type):
        raise ValueError(
            f"llama.cpp refuses {kv_type.name} for the KV cache of this model: its block of {kv_type.block_size} "
            f"does not divide the {width} columns of a {part} head"
        )
    return kv_type.row_bytes(hyper.n_head_kv * hyper.head_dim_k) + kv_type.row_bytes(hyper.n_head_kv * hyper.head_dim_v)


def kv_cache_bytes(hyper: Hyperparameters, ctx: int, kv_type: QuantType, n_ubatch: int = DEFAULT_UBATCH) -> int:
    """Bytes of the whole KV cache for `ctx` tokens, K and V in the same type."""
    full, sliding = kv_cells(hyper, ctx, n_ubatch)
    n_sliding = sum(hyper.swa_layers)
    cells = full * (hyper.n_layer - n_sliding) + sliding * n_sliding
    return cells * kv_cell_bytes(hyper, kv_type)


def compute_buffer_bytes(
    hyper: Hyperparameters, ctx: int, n_ubatch: int = DEFAULT_UBATCH, n_outputs: int | None = None
) -> int:
    """Predicted size of the graph's scratch memory, with logits for `n_outputs` tokens of a batch (None: for all).

    The peak is either the output (logits and two hidden states) or a block: attention masks in f16 and the wider of its two
    halves. The allocator's holes come on top.
    """
    ubatch = min(n_ubatch, pad_cells(ctx))
    state = _F32 * ubatch
    output = _F32 * min(ubatch, n_outputs or ubatch) * (hyper.vocab_size + 2 * hyper.n_embd)
    feed_forward = state * (4 * hyper.n_embd + 3 * hyper.n_ff)
    attention = state * (2 * hyper.n_embd + 4 * hyper.n_head * hyper.head_dim_k)
    block = mask_bytes(hyper, ctx, ubatch) + max(feed_forward, attention)
    larger, smaller = max(output, block), min(output, block)
    return round(larger + min(_HOLES_OF_LARGER * larger, _HOLES_OF_SMALLER * smaller))


def mask_bytes(hyper: Hyperparameters, ctx: int, n_ubatch: int) -> int:
    """The attention masks of one batch, one for each kind of layer, f16 under flash attention."""
    full, sliding = kv_cells(hyper, ctx, n_ubatch)
    n_sliding = sum(hyper.swa_layers)
    return _F16 * n_ubatch * (full * (n_sliding < hyper.n_layer) + sliding * (n_sliding > 0))


def tensor_bytes(tensor: TensorInfo, quant_type: QuantType) -> int:
    """Bytes of the tensor in that type. Raises ValueError where the type's block does not divide its rows."""
    return quant_type.row_bytes(tensor.n_cols) * tensor.n_rows


def planned_type(tensor: TensorInfo, types: Mapping[str, QuantType]) -> QuantType:
    """The allocated type, or the source's where the tensor is kept."""
    return types.get(tensor.name, tensor.source_type) if tensor.quantizable else tensor.source_type


def weight_bytes(tensors: Iterable[TensorInfo], types: Mapping[str, QuantType]) -> int:
    """Bytes of all tensors under an allocation, without the file's header."""
    return sum(tensor_bytes(t, planned_type(t, types)) for t in tensors)


def memory_budget(
    inventory: ModelInventory,
    types: Mapping[str, QuantType],
    target: DeviceTarget,
    *,
    ctx: int,
    kv_type: QuantType,
    n_ubatch: int = DEFAULT_UBATCH,
    n_outputs: int | None = None,
    count_mapped_originals: bool = False,
) -> MemoryBudget:
    """Resident bytes of an allocation (`types` of quantizable tensors; the others keep their source type).

    `n_outputs`: tokens of a batch that logits are reserved for; None for all, `SERVER_OUTPUTS` for llama-server.
    """
    hyper = inventory.hyper
    weights = weight_bytes(inventory.tensors, types)
    kv = kv_cache_bytes(hyper, ctx, kv_type, n_ubatch)
    compute = compute_buffer_bytes(hyper, ctx, n_ubatch, n_outputs)
    lines = (
        MemoryLine(
            name="weights",
            size_bytes=weights,
            detail=f"{len(inventory.tensors)} tensors, {8 * weights / inventory.n_params:.3f} bits per weight",
        ),
        MemoryLine(name="kv_cache", size_bytes=kv, detail=_kv_detail(hyper, ctx, kv_type, n_ubatch)),
        MemoryLine(
            name="compute_buffer",
            size_bytes=compute,
            detail=_compute_detail(hyper, ctx, n_ubatch, n_outputs),
        ),
        MemoryLine(name="output_buffer", size_bytes=_F32 * hyper.vocab_size, detail="logits of one token, f32"),
        _repack_line(inventory, types, target, count_mapped_originals),
        _tied_line(inventory, types, target),
    )
    return MemoryBudget(lines=lines, usable_bytes=target.memory_usable_bytes)


def _kv_detail(hyper: Hyperparameters, ctx: int, kv_type: QuantType, n_ubatch: int) -> str:
    full, sliding = kv_cells(hyper, ctx, n_ubatch)
    n_sliding = sum(hyper.swa_layers)
    per_cell = f"{kv_cell_bytes(hyper, kv_type)} B a token and layer in {kv_type.name}"
    text = f"{hyper.n_layer - n_sliding} layers x {full} tokens"
    if n_sliding:
        text += f" + {n_sliding} sliding-window layers x {sliding} tokens"
    return f"{text}, {per_cell}"


def _compute_detail(hyper: Hyperparameters, ctx: int, n_ubatch: int, n_outputs: int | None) -> str:
    text = f"batches of {n_ubatch} tokens, {n_outputs or n_ubatch} of them with logits over {hyper.vocab_size} tokens"
    if n_outputs is not None:
        return text
    server = human_bytes(compute_buffer_bytes(hyper, ctx, n_ubatch, SERVER_OUTPUTS))
    return f"{text}; {server} under llama-server --parallel 1"


def _repacks(tensor: TensorInfo, quant_type: QuantType, target: DeviceTarget) -> bool:
    """Only 2-D matrices whose rows come in whole groups; the embedding look-up needs the plain layout."""
    support = target.types.get(quant_type)
    rows = _REPACK_ROWS_NEON.get(quant_type, _REPACK_ROWS) if "neon" in target.isa else _REPACK_ROWS
    return (
        target.backend == "cpu"
        and support is not None
        and support.repacks
        and tensor.quantizable
        and len(tensor.shape) == 2
        and tensor.n_rows % rows == 0
    )


def _repack_line(
    inventory: ModelInventory, types: Mapping[str, QuantType], target: DeviceTarget, count: bool
) -> MemoryLine:
    chosen = [(t, planned_type(t, types)) for t in inventory.tensors if t.role is not Role.TOKEN_EMBD]
    repacked = sum(tensor_bytes(t, kind) for t, kind in chosen if _repacks(t, kind, target))
    if not repacked:
        return MemoryLine(name="repack_copy", size_bytes=0, detail="no type of this plan is repacked here")
    if count:
        return MemoryLine(
            name="repack_copy", size_bytes=repacked, detail="the mapped originals beside their repacked copy"
        )
    detail = f"none with --no-mmap; with mmap {human_bytes(repacked)} of reclaimable pages show as resident"
    return MemoryLine(name="repack_copy", size_bytes=0, detail=detail)


def _tied_line(inventory: ModelInventory, types: Mapping[str, QuantType], target: DeviceTarget) -> MemoryLine:
    """A tied embedding is loaded again as the output matrix where that lives in another kind of buffer."""
    if not inventory.tied_embedding:
        return MemoryLine(name="tied_copy", size_bytes=0, detail="the model has an output matrix of its own")
    embedding = next(t for t in inventory.tensors if t.role is Role.TOKEN_EMBD)
    kind = planned_type(embedding, types)
    if target.backend == "cuda":
        reason = "the tied embedding once for the look-up on the CPU and once as the GPU's output matrix"
    elif _repacks(embedding, kind, target):
        reason = f"the tied embedding once plain for the look-up and once repacked ({kind.name}) as the output matrix"
    else:
        detail = "the tied embedding serves as the output matrix in place"
        if target.backend == "metal":
            detail += f"; with --no-mmap it is loaded twice, {human_bytes(tensor_bytes(embedding, kind))} more"
        return MemoryLine(name="tied_copy", size_bytes=0, detail=detail)
    return MemoryLine(name="tied_copy", size_bytes=tensor_bytes(embedding, kind), detail=reason)
