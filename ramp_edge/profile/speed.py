"""Decode speed: a token reads every weight once, so seconds are bytes over the bandwidth that the type's kernel reaches.

seconds = bytes / (effective bandwidth x decode efficiency of the type), plus what the keys and values of the context cost (`context_seconds`) and an overhead
per token, per layer and per row of the output matrix. Where all weights stay in the last cache, bandwidth, efficiencies and overheads are others (`as_run`). An
untied token embedding is a look-up of one row; a tied one is read whole, as the output matrix. Stacked expert tensors are charged in full, which overstates
mixture-of-experts models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ramp_edge.codec.types import QuantType
from ramp_edge.errors import ProfileError
from ramp_edge.profile.memory import kv_cell_bytes, planned_type, tensor_bytes
from ramp_edge.records import DeviceTarget, ModelInventory, Role, TensorInfo, TypeSupport


def seconds_per_byte(quant_type: QuantType, target: DeviceTarget) -> float:
    """Seconds to stream one byte of that type in decode. Raises ProfileError for a type the device does not list."""
    return 1.0 / (target.bandwidth_effective_bytes_s * _support(quant_type, target).decode_efficiency)


def _support(quant_type: QuantType, target: DeviceTarget) -> TypeSupport:
    support = target.types.get(quant_type)
    if support is None and quant_type.is_float:
        # F32 norms and BF16 stream like F16, which every profile lists.
        support = target.types.get(QuantType.F16)
    if support is None:
        listed = ", ".join(t.name for t in target.types)
        raise ProfileError(
            f"{target.name} lists no {quant_type.name}, so its speed is not known",
            hint=f"listed: {listed}; add types.{quant_type.name} to {target.profile_path}",
        )
    return support


def as_run(target: DeviceTarget, weight_bytes: int) -> DeviceTarget:
    """The device as a model of so many bytes meets it: where the last cache holds it, the figures for that take the others' place."""
    if weight_bytes > target.cache_bytes:
        return target
    types = {
        kind: replace(support, decode_efficiency=support.decode_efficiency_in_cache, output_row_s=0.0)
        for kind, support in target.types.items()
        if support.decode_efficiency_in_cache is not None
    }
    return replace(
        target,
        bandwidth_effective_bytes_s=target.bandwidth_in_cache_bytes_s or target.bandwidth_effective_bytes_s,
        layer_overhead_s=target.layer_overhead_in_cache_s,
        types={**target.types, **types},
    )


def tensor_seconds(tensor: TensorInfo, quant_type: QuantType, target: DeviceTarget, *, tied: bool) -> float:
    """Seconds per decoded token that this tensor costs; `tied` where the embedding is the output matrix as well."""
    if tensor.role is Role.TOKEN_EMBD and not tied:
        return quant_type.row_bytes(tensor.n_cols) * seconds_per_byte(quant_type, target)
    seconds = tensor_bytes(tensor, quant_type) * seconds_per_byte(quant_type, target)
    if tensor.role in (Role.OUTPUT, Role.TOKEN_EMBD):
        seconds += tensor.n_rows * _support(quant_type, target).output_row_s
    return seconds


def _positions_read(inventory: ModelInventory, ctx_used: int) -> int:
    """Cached positions that one decoded token attends to, summed over the layers."""
    hyper = inventory.hyper
    window = min(ctx_used, hyper.sliding_window)
    n_sliding = sum(hyper.swa_layers)
    return ctx_used * (hyper.n_layer - n_sliding) + window * n_sliding


def kv_read_bytes(inventory: ModelInventory, ctx_used: int, kv_type: QuantType) -> int:
    """Bytes of the KV cache that one decoded token reads with `ctx_used` tokens before it."""
    return _positions_read(inventory, ctx_used) * kv_cell_bytes(inventory.hyper, kv_type)


def attention_macs(inventory: ModelInventory, ctx_used: int) -> int:
    """Multiply-adds of all query heads with cached keys and values: heads that share keys share their bytes, not this work."""
    hyper = inventory.hyper
    return _positions_read(inventory, ctx_used) * hyper.n_head * (hyper.head_dim_k + hyper.head_dim_v)


def context_seconds(
    inventory: ModelInventory, running: DeviceTarget, *, ctx_used: int, kv_type: QuantType, weight_bytes: int
) -> float:
    """Seconds per decoded token that `ctx_used` tokens before it cost, beside `weight_bytes` of weights; `running` is the device `as_run`.

    The bytes of keys and values come from memory unless the last cache holds them beside the weights, and every query head computes
    with them. A board whose attention was not measured is charged for the bytes alone, which is too little where a CPU runs long contexts.
    """
    read_bytes = kv_read_bytes(inventory, ctx_used, kv_type)
    if not running.attention_macs_s:
        return read_bytes * seconds_per_byte(kv_type, running)
    macs_s = running.attention_macs_s.get(kv_type, min(running.attention_macs_s.values()))
    beyond = weight_bytes + read_bytes > running.cache_bytes
    return attention_macs(inventory, ctx_used) / macs_s + read_bytes * beyond / running.bandwidth_effective_bytes_s


def overhead_seconds(inventory: ModelInventory, target: DeviceTarget) -> float:
    """Seconds per decoded token that no byte accounts for."""
    return target.token_overhead_s + inventory.hyper.n_layer * target.layer_overhead_s


def decode_seconds(
    inventory: ModelInventory,
    types: Mapping[str, QuantType],
    target: DeviceTarget,
    *,
    ctx_used: int,
    kv_type: QuantType,
) -> float:
    """Predicted seconds per decoded token with `ctx_used` tokens in the KV cache."""
    weight_bytes = sum(tensor_bytes(t, planned_type(t, types)) for t in inventory.tensors)
    running = as_run(target, weight_bytes)
    weights_s = sum(
        tensor_seconds(t, planned_type(t, types), running, tied=inventory.tied_embedding) for t in inventory.tensors
    )
    context_s = context_seconds(inventory, running, ctx_used=ctx_used, kv_type=kv_type, weight_bytes=weight_bytes)
    return weights_s + context_s + overhead_seconds(inventory, running)
