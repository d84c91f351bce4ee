"""Decode speed: a token reads every weight once, so seconds are bytes over the bandwidth that the type's kernel reaches.

seconds = bytes / (effective bandwidth x decode efficiency of the type), plus the part of the KV cache in use and an overhead
per token and per layer. An untied token embedding is a look-up of one row; a tied one is read whole, as the output matrix. Stacked expert
tensors are charged in full, which overstates mixture-of-experts models.
"""

from __future__ import annotations

from collections.abc import Mapping

from ramp_edge.codec.types import QuantType
from ramp_edge.errors import ProfileError
from ramp_edge.profile.memory import kv_cell_bytes, planned_type, tensor_bytes
from ramp_edge.records import DeviceTarget, ModelInventory, Role, TensorInfo


def seconds_per_byte(quant_type: QuantType, target: DeviceTarget) -> float:
    """Seconds to stream one byte of that type in decode. Raises ProfileError for a type the device does not list."""
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
    return 1.0 / (target.bandwidth_effective_bytes_s * support.decode_efficiency)


def tensor_seconds(tensor: TensorInfo, quant_type: QuantType, target: DeviceTarget, *, tied: bool) -> float:
    """Seconds per decoded token that this tensor costs; `tied` where the embedding is the output matrix as well."""
    if tensor.role is Role.TOKEN_EMBD and not tied:
        size_bytes = quant_type.row_bytes(tensor.n_cols)
    else:
        size_bytes = tensor_bytes(tensor, quant_type)
    return size_bytes * seconds_per_byte(quant_type, target)


def kv_read_bytes(inventory: ModelInventory, ctx_used: int, kv_type: QuantType) -> int:
    """Bytes of the KV cache that one decoded token reads with `ctx_used` tokens before it."""
    hyper = inventory.hyper
    window = min(ctx_used, hyper.sliding_window)
    n_sliding = sum(hyper.swa_layers)
    return (ctx_used * (hyper.n_layer - n_sliding) + window * n_sliding) * kv_cell_bytes(hyper, kv_type)


def overhead_seconds(inventory: ModelInventory, target: DeviceTarget, weight_bytes: int) -> float:
    """Seconds per decoded token that no byte accounts for. A layer begins faster where all weights stay in a cache."""
    in_cache = weight_bytes <= target.cache_bytes
    layer_s = target.layer_overhead_in_cache_s if in_cache else target.layer_overhead_s
    return target.token_overhead_s + inventory.hyper.n_layer * layer_s


def decode_seconds(
    inventory: ModelInventory,
    types: Mapping[str, QuantType],
    target: DeviceTarget,
    *,
    ctx_used: int,
    kv_type: QuantType,
) -> float:
    """Predicted seconds per decoded token with `ctx_used` tokens in the cache."""
    weights_s = sum(
        tensor_seconds(t, planned_type(t, types), target, tied=inventory.tied_embedding) for t in inventory.tensors
    )
    kv_s = kv_read_bytes(inventory, ctx_used, kv_type) * seconds_per_byte(kv_type, target)
    weight_bytes = sum(tensor_bytes(t, planned_type(t, types)) for t in inventory.tensors)
    return weights_s + kv_s + overhead_seconds(inventory, target, weight_bytes)
