"""From options and profile to limits: bytes of weights, seconds per token, and what the memory leaves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ramp_edge.allocate.choices import Legal, legal_types
from ramp_edge.codec.types import FLOAT_TYPES, QuantType
from ramp_edge.errors import InfeasibleBudgetError, UsageError
from ramp_edge.pipeline.request import BuildRequest
from ramp_edge.profile.advice import what_would_fit
from ramp_edge.profile.memory import kv_cache_bytes, memory_budget, weight_bytes
from ramp_edge.profile.speed import decode_seconds, kv_read_bytes, seconds_per_byte
from ramp_edge.records import DeviceTarget, MemoryBudget, ModelInventory
from ramp_edge.units import human_bytes

SPEED_GUARD = 0.85
"""Share of Q8_0's bytes per second that a plan must reach when the user sets no speed: codebook types save bytes at
a third of the speed on many CPUs, and a small file that crawls is not what anybody asked for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What every plan must respect."""

    ctx: int
    kv_type: QuantType
    max_file_bytes: int | None
    """From `--target-size`; counts the header as well."""
    max_weight_bytes: int
    """Tensor data, from the bit limits."""
    max_decode_seconds: float
    """Per token at half the context; infinite without `--min-decode-tok-s`."""
    speed_guard: bool
    """True without `--min-decode-tok-s`: plans slower than SPEED_GUARD are taken only where nothing else fits."""
    origin: str
    """Which limit set max_weight_bytes, for the summary."""


def resolve_limits(request: BuildRequest, inventory: ModelInventory, target: DeviceTarget) -> Limits:
    """Check the options against model and device. Raises UsageError for what makes no sense."""
    hyper = inventory.hyper
    ctx = request.ctx if request.ctx is not None else min(target.default_ctx, hyper.context_length)
    if ctx < 1 or ctx > hyper.context_length:
        raise UsageError(
            f"--ctx {ctx}: {inventory.display_name} was trained for contexts of 1 to {hyper.context_length} tokens",
            hint=f"use --ctx {min(target.default_ctx, hyper.context_length)} or less than {hyper.context_length}",
        )
    kv_type = request.kv_type or target.default_kv_type
    try:
        kv_cache_bytes(hyper, ctx, kv_type)
    except ValueError as error:
        raise UsageError(f"--kv-type {kv_type.name}: {error}", hint="use --kv-type F16 for this model") from error
    if request.types is not None and not request.types & target.types.keys():
        raise UsageError(
            f"--types {', '.join(sorted(t.name for t in request.types))}: {target.name} runs none of them",
            hint=f"it runs {', '.join(t.name for t in target.types)}",
        )
    bpw, origin = _bits(request, target)
    seconds = 1.0 / request.min_decode_tok_s if request.min_decode_tok_s else float("inf")
    return Limits(
        ctx=ctx,
        kv_type=kv_type,
        max_file_bytes=request.target_size_bytes,
        max_weight_bytes=int(bpw * inventory.n_params / 8),
        max_decode_seconds=seconds,
        speed_guard=request.min_decode_tok_s is None,
        origin=origin,
    )


def _bits(request: BuildRequest, target: DeviceTarget) -> tuple[float, str]:
    if request.target_bpw is not None and request.target_size_bytes is not None:
        raise UsageError("--target-bpw and --target-size exclude each other", hint="give one of them")
    if request.target_bpw is not None:
        if not 1.0 <= request.target_bpw <= target.max_bpw:
            raise UsageError(
                f"--target-bpw {request.target_bpw:g} is outside 1 to {target.max_bpw:g}, the most that {target.name} allows",
                hint="raise bits.max_bpw in your own profile to go beyond",
            )
        return request.target_bpw, f"--target-bpw {request.target_bpw:g}"
    if request.target_size_bytes is not None:
        return target.max_bpw, f"--target-size {human_bytes(request.target_size_bytes)}"
    return target.target_bpw, f"{target.name}'s target of {target.target_bpw:g} bits per weight"


def legal_choices(
    request: BuildRequest, inventory: ModelInventory, target: DeviceTarget, *, calibrated: bool
) -> dict[str, Legal]:
    """Legal types of every quantizable tensor."""
    return {
        t.name: legal_types(t, target, has_moments=calibrated, allowed=request.types) for t in inventory.quantizable
    }


def smallest_types(legal: Mapping[str, Legal]) -> dict[str, QuantType]:
    """The smallest legal type of each tensor."""
    return {name: entry.types[0] for name, entry in legal.items()}


def check_feasible(
    inventory: ModelInventory, target: DeviceTarget, limits: Limits, legal: Mapping[str, Legal], overhead_bytes: int
) -> None:
    """Raise InfeasibleBudgetError, with what would fit, where not even the smallest or fastest plan fits."""
    smallest = smallest_types(legal)
    weights = weight_bytes(inventory.tensors, smallest)
    for limit, wanted, name in (
        (limits.max_weight_bytes, weights, limits.origin),
        (limits.max_file_bytes, weights + overhead_bytes, limits.origin),
    ):
        if limit is not None and wanted > limit:
            bpw = 8 * weights / inventory.n_params
            raise InfeasibleBudgetError(
                f"{name} is {human_bytes(limit)}; the smallest legal types need {human_bytes(wanted)} "
                f"({bpw:.2f} bits per weight), {human_bytes(wanted - limit)} too much",
                hint=f"allow {human_bytes(wanted)} or more, or smaller types with --types "
                f"(used: {', '.join(sorted({t.name for t in smallest.values()}))})",
            )
    budget = memory_for(inventory, smallest, target, limits)
    if budget.free_bytes < 0:
        tied = sum(line.size_bytes for line in budget.lines if line.name in ("repack_copy", "tied_copy"))
        advice = what_would_fit(inventory, target, weights + tied, limits.ctx, limits.kv_type)
        raise InfeasibleBudgetError(
            f"{inventory.display_name} does not fit {target.name} at context {limits.ctx}: "
            f"{human_bytes(budget.total_bytes)} resident where {human_bytes(budget.usable_bytes)} are usable. "
            + " ".join(advice),
            hint="take one of these ways, or a smaller model",
        )
    fastest = {
        name: min(entry.types, key=lambda t: entry.size_bytes(t) * seconds_per_byte(t, target))
        for name, entry in legal.items()
    }
    best_s = decode_seconds(inventory, fastest, target, ctx_used=limits.ctx // 2, kv_type=limits.kv_type)
    if best_s > limits.max_decode_seconds:
        raise InfeasibleBudgetError(
            f"--min-decode-tok-s {1 / limits.max_decode_seconds:g}: the fastest legal plan is predicted to reach "
            f"{1 / best_s:.1f} tok/s on {target.name} at half of context {limits.ctx}",
            hint=f"ask for {0.98 / best_s:.1f} or less, a smaller --ctx, a quantized --kv-type, or a smaller model",
        )


def memory_for(
    inventory: ModelInventory, types: Mapping[str, QuantType], target: DeviceTarget, limits: Limits
) -> MemoryBudget:
    """Resident memory of a plan."""
    return memory_budget(inventory, types, target, ctx=limits.ctx, kv_type=limits.kv_type)


def fixed_seconds(inventory: ModelInventory, target: DeviceTarget, limits: Limits) -> float:
    """Seconds per token that no allocation changes: the KV cache, float tensors, launches."""
    kv = kv_read_bytes(inventory, limits.ctx // 2, limits.kv_type) * seconds_per_byte(limits.kv_type, target)
    kept = sum(
        t.source_bytes * seconds_per_byte(QuantType.F16 if t.source_type in FLOAT_TYPES else t.source_type, target)
        for t in inventory.tensors
        if not t.quantizable
    )
    return kv + kept + target.token_overhead_s
