"""What would fit where a plan does not: by how much it is over, and each way out with its number."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ramp_edge.codec.types import QuantType
from ramp_edge.profile.memory import (
    DEFAULT_UBATCH,
    KV_PAD_CELLS,
    SERVER_OUTPUTS,
    compute_buffer_bytes,
    kv_cache_bytes,
)
from ramp_edge.records import DeviceTarget, ModelInventory
from ramp_edge.units import human_bytes

_SMALLER_KV = (QuantType.Q8_0, QuantType.Q5_1, QuantType.Q5_0, QuantType.Q4_0)
_SMALLER_UBATCH = (256, 128, 64, 32)


def what_would_fit(
    inventory: ModelInventory,
    target: DeviceTarget,
    smallest_weights_bytes: int,
    ctx: int,
    kv_type: QuantType,
    *,
    n_ubatch: int = DEFAULT_UBATCH,
) -> list[str]:
    """Sentences for an infeasible budget: the excess first, then what would fit. Empty where it fits.

    `smallest_weights_bytes` is the smallest that the weights can get under the types in force, duplicates included.
    """
    hyper = inventory.hyper

    def over_bytes(at_ctx: int, at_kv: QuantType, at_ubatch: int, n_outputs: int | None = None) -> int:
        work = compute_buffer_bytes(hyper, at_ctx, at_ubatch, n_outputs) + 4 * hyper.vocab_size
        cache = kv_cache_bytes(hyper, at_ctx, at_kv, at_ubatch)
        return smallest_weights_bytes + cache + work - target.memory_usable_bytes

    excess = over_bytes(ctx, kv_type, n_ubatch)
    if excess <= 0:
        return []
    advice = [
        f"{human_bytes(excess)} over: at least {human_bytes(smallest_weights_bytes)} of weights, "
        f"{human_bytes(kv_cache_bytes(hyper, ctx, kv_type, n_ubatch))} of KV cache ({ctx} tokens, {kv_type.name}) and "
        f"{human_bytes(compute_buffer_bytes(hyper, ctx, n_ubatch))} of compute buffer exceed the "
        f"{human_bytes(target.memory_usable_bytes)} that {target.name} has to give."
    ]
    largest = _largest_ctx(partial(over_bytes, at_kv=kv_type, at_ubatch=n_ubatch), ctx)
    if largest:
        advice.append(f"The largest context that fits is --ctx {largest}.")
    for smaller in _SMALLER_KV:
        if smaller.bits_per_weight < kv_type.bits_per_weight and _divides(inventory, smaller):
            left = over_bytes(ctx, smaller, n_ubatch)
            if left <= 0:
                advice.append(
                    f"With --kv-type {smaller.name.lower()} it fits at {ctx} tokens, {human_bytes(-left)} to spare."
                )
                break
            fitting = _largest_ctx(partial(over_bytes, at_kv=smaller, at_ubatch=n_ubatch), ctx)
            if fitting > largest and smaller is _SMALLER_KV[-1]:
                advice.append(f"With --kv-type {smaller.name.lower()} it fits up to --ctx {fitting}.")
    at_run_time = []
    for fewer in (u for u in _SMALLER_UBATCH if u < n_ubatch):
        if over_bytes(ctx, kv_type, fewer) <= 0:
            at_run_time.append(f"with --ubatch-size {fewer} (slower prefill)")
            break
    server_over = over_bytes(ctx, kv_type, n_ubatch, SERVER_OUTPUTS)
    if server_over <= 0:
        at_run_time.append(
            f"under llama-server --parallel 1, which keeps the logits of one token instead of {n_ubatch}"
        )
    if at_run_time:
        # Not options of build: its budget holds for every tool at its defaults.
        advice.append(
            f"llama.cpp's tools would run it {', or '.join(at_run_time)}; to build for that, raise memory.usable "
            f"in a profile of your own."
        )
    if len(advice) == 1:
        room = smallest_weights_bytes - excess
        bits = 8 * room / inventory.n_params
        if bits > 0:
            advice.append(
                f"The weights would have to shrink to {human_bytes(room)} ({bits:.2f} bits per weight): "
                f"allow smaller types (--types), take a smaller model or a device with more memory."
            )
        else:
            advice.append("The cache and buffers alone do not fit: take a smaller model or a device with more memory.")
    return advice


def _divides(inventory: ModelInventory, kv_type: QuantType) -> bool:
    hyper = inventory.hyper
    return all(width % kv_type.block_size == 0 for width in (hyper.head_dim_k, hyper.head_dim_v))


def _largest_ctx(over_bytes: Callable[[int], int], ctx: int) -> int:
    """Largest multiple of the cache's padding up to `ctx` that fits, or 0. Need grows with the context."""
    low, high = 0, ctx // KV_PAD_CELLS
    while low < high:
        middle = (low + high + 1) // 2
        if over_bytes(middle * KV_PAD_CELLS) <= 0:
            low = middle
        else:
            high = middle - 1
    return low * KV_PAD_CELLS
