"""From options and profile to limits: bytes of weights, seconds per token, and what the memory leaves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ramp_edge.allocate.choices import EXCLUDED, Legal, legal_types
from ramp_edge.codec.types import FLOAT_TYPES, QuantType
from ramp_edge.errors import InfeasibleBudgetError, UsageError
from ramp_edge.events import EventBus
from ramp_edge.pipeline.request import BuildRequest
from ramp_edge.profile.advice import what_would_fit
from ramp_edge.profile.memory import KV_PAD_CELLS, kv_cache_bytes, kv_misfits, memory_budget, weight_bytes
from ramp_edge.profile.schema import KV_TYPES
from ramp_edge.profile.speed import as_run, context_seconds, decode_seconds, overhead_seconds, seconds_per_byte
from ramp_edge.records import DeviceTarget, MemoryBudget, ModelInventory
from ramp_edge.units import human_bytes, limit_and_need

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
    weight_limit: str
    """Which of them set max_weight_bytes."""
    most_bpw: float
    """The largest `--target-bpw` that the profile allows for this model."""
    max_decode_seconds: float
    """Per token at half the context; infinite without `--min-decode-tok-s`."""
    speed_guard: bool
    """True without `--min-decode-tok-s`: plans slower than SPEED_GUARD are taken only where nothing else fits."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """How much of one limit a plan takes."""

    limit: str
    """Its name for people, with its number."""
    taken: str
    """What the plan needs, in the limit's unit."""
    share: float
    """Above 1 where the plan exceeds the limit."""


def resolve_limits(request: BuildRequest, inventory: ModelInventory, target: DeviceTarget, events: EventBus) -> Limits:
    """Check the options against model and device. Raises UsageError for what makes no sense."""
    hyper = inventory.hyper
    ctx = _context(request, inventory, target, events)
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
    for left_out in sorted((request.types or frozenset()) - target.types.keys()):
        events.warn(f"--types {left_out.name}: {target.name} does not run it, so no tensor gets it")
    max_weight_bytes, weight_limit, most_bpw = _bits(request, inventory, target)
    seconds = 1.0 / request.min_decode_tok_s if request.min_decode_tok_s else float("inf")
    return Limits(
        ctx=ctx,
        kv_type=kv_type,
        max_file_bytes=request.target_size_bytes,
        max_weight_bytes=max_weight_bytes,
        weight_limit=weight_limit,
        most_bpw=most_bpw,
        max_decode_seconds=seconds,
        speed_guard=request.min_decode_tok_s is None,
    )


def _context(request: BuildRequest, inventory: ModelInventory, target: DeviceTarget, events: EventBus) -> int:
    largest = inventory.hyper.context_length
    usual = min(target.default_ctx, largest)
    ctx = request.ctx if request.ctx is not None else usual
    if not 1 <= ctx <= largest:
        raise UsageError(
            f"--ctx {ctx}: {inventory.display_name} was trained for contexts of 1 to {largest} tokens",
            hint=f"use --ctx {largest} or less" if usual == largest else f"use --ctx {usual}, or up to {largest}",
        )
    least = min(KV_PAD_CELLS, largest)
    if ctx < least:
        events.note(f"--ctx {ctx}: llama.cpp makes room for {least} tokens at least, so that is what is planned for")
    return max(ctx, least)


def _bits(request: BuildRequest, inventory: ModelInventory, target: DeviceTarget) -> tuple[int, str, float]:
    """Most bytes of weights, the name of the limit behind them, and the largest --target-bpw."""
    if request.target_bpw is not None and request.target_size_bytes is not None:
        raise UsageError("--target-bpw and --target-size exclude each other", hint="give one of them")
    # The profile's limit is about types: norms and biases stay as they are and come on top, or Q8_0 would not fit 8.5.
    quantizable, kept = _parts(inventory)
    most_bytes = int(target.max_bpw * quantizable / 8) + kept
    most_bpw = _enough_bpw(most_bytes, inventory.n_params)
    if request.target_bpw is not None:
        if not 1.0 <= request.target_bpw <= most_bpw:
            raise UsageError(
                f"--target-bpw {request.target_bpw:g} is outside 1 to {most_bpw:g}, the most that {target.name} allows",
                hint="raise bits.max_bpw in your own profile to go beyond",
            )
        name = f"--target-bpw {request.target_bpw:.12g}"
        return int(request.target_bpw * inventory.n_params / 8), name, most_bpw
    if request.target_size_bytes is not None:
        return most_bytes, f"{target.name}'s most of {target.max_bpw:g} bits per weight (bits.max_bpw)", most_bpw
    name = f"{target.name}'s target of {target.target_bpw:g} bits per weight"
    return int(target.target_bpw * inventory.n_params / 8), name, most_bpw


def _parts(inventory: ModelInventory) -> tuple[int, int]:
    """Weights that may be quantized, and bytes of the tensors that stay as they are."""
    kept = sum(t.source_bytes for t in inventory.tensors if not t.quantizable)
    return sum(t.n_elements for t in inventory.quantizable), kept


def _enough_bpw(needed_bytes: int, n_weights: int) -> float:
    """The smallest number with two decimals whose bits per weight are `needed_bytes` or more."""
    hundredths = int(800 * needed_bytes / n_weights)
    while int(hundredths / 100 * n_weights / 8) < needed_bytes:
        hundredths += 1
    return hundredths / 100


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
    _check_bytes(inventory, target, limits, legal, overhead_bytes)
    weights = weight_bytes(inventory.tensors, smallest)
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
    running = as_run(target, limits.max_weight_bytes)
    fastest = {
        name: min(entry.types, key=lambda t: entry.size_bytes(t) * seconds_per_byte(t, running))
        for name, entry in legal.items()
    }
    best_s = decode_seconds(inventory, fastest, target, ctx_used=limits.ctx // 2, kv_type=limits.kv_type)
    if best_s > limits.max_decode_seconds:
        raise InfeasibleBudgetError(
            f"--min-decode-tok-s {1 / limits.max_decode_seconds:g}: the fastest legal plan is predicted to reach "
            f"{1 / best_s:.1f} tok/s on {target.name} at half of context {limits.ctx}",
            hint=f"ask for {0.98 / best_s:.1f} or less, a smaller --ctx,{_faster_kv_type(inventory, running, limits)} or a smaller model",
        )


def _context_seconds(inventory: ModelInventory, running: DeviceTarget, limits: Limits, kv_type: QuantType) -> float:
    return context_seconds(
        inventory, running, ctx_used=limits.ctx // 2, kv_type=kv_type, weight_bytes=limits.max_weight_bytes
    )


def _faster_kv_type(inventory: ModelInventory, running: DeviceTarget, limits: Limits) -> str:
    """The cache type that is fastest there, as a part of a sentence; empty where it is the one in use. Fewer bytes are no help
    on a processor that has to unpack them."""

    known = [t for t in KV_TYPES if t.is_float or t in running.types]
    legal = [t for t in known if not kv_misfits(inventory.hyper, t)]
    seconds = {t: _context_seconds(inventory, running, limits, t) for t in (limits.kv_type, *legal)}
    best = min(legal, key=lambda t: seconds[t])
    return f" --kv-type {best.name}," if seconds[best] < seconds[limits.kv_type] else ""


def _check_bytes(
    inventory: ModelInventory, target: DeviceTarget, limits: Limits, legal: Mapping[str, Legal], overhead_bytes: int
) -> None:
    smallest = smallest_types(legal)
    weights = weight_bytes(inventory.tensors, smallest)
    used = ", ".join(sorted({t.name for t in smallest.values()}))
    problems, ways = [], []
    if weights > limits.max_weight_bytes:
        needed_bpw = _enough_bpw(weights, inventory.n_params)
        if needed_bpw <= limits.most_bpw:
            ways.append(f"allow --target-bpw {needed_bpw:g} or more")
        else:
            # In the unit of bits.max_bpw, which does not count what stays as it is.
            quantizable, kept = _parts(inventory)
            needed_bpw = _enough_bpw(weights - kept, quantizable)
            ways.append(f"set bits.max_bpw to {needed_bpw:g} or more in a profile of your own")
        problems.append(
            f"{limits.weight_limit}: the smallest legal types need {needed_bpw:g} bits per weight "
            f"({used}, {human_bytes(weights)})"
        )
    if limits.max_file_bytes is not None and weights + overhead_bytes > limits.max_file_bytes:
        limit, needed = limit_and_need(limits.max_file_bytes, weights + overhead_bytes)
        ways.append(f'allow --target-size "{needed}" or more')
        problems.append(
            f"--target-size {limit}: the smallest legal types need a file of {needed} ({used}), "
            f"{human_bytes(weights + overhead_bytes - limits.max_file_bytes)} too much"
        )
    if not problems:
        return
    if any(
        why == EXCLUDED and t.bits_per_weight < entry.types[0].bits_per_weight
        for entry in legal.values()
        for t, why in entry.illegal.items()
    ):
        ways.append("smaller types with --types")
    raise InfeasibleBudgetError("; ".join(problems), hint=", or ".join(ways))


def limit_usages(
    inventory: ModelInventory,
    types: Mapping[str, QuantType],
    target: DeviceTarget,
    limits: Limits,
    file_bytes: int,
) -> tuple[Usage, ...]:
    """What a plan takes of every limit that is in force."""
    weights = weight_bytes(inventory.tensors, types)
    memory = memory_for(inventory, types, target, limits)
    found = [
        Usage(
            limit=limits.weight_limit,
            taken=f"{8 * weights / inventory.n_params:.2f} bits per weight",
            share=weights / limits.max_weight_bytes,
        ),
        Usage(
            limit=f"{target.name}'s {human_bytes(memory.usable_bytes)} of usable memory",
            taken=human_bytes(memory.total_bytes),
            share=memory.total_bytes / memory.usable_bytes,
        ),
    ]
    if limits.max_file_bytes is not None:
        found.append(
            Usage(
                limit=f"--target-size {human_bytes(limits.max_file_bytes)}",
                taken=human_bytes(file_bytes),
                share=file_bytes / max(1, limits.max_file_bytes),
            )
        )
    if limits.max_decode_seconds < float("inf"):
        seconds = decode_seconds(inventory, types, target, ctx_used=limits.ctx // 2, kv_type=limits.kv_type)
        found.append(
            Usage(
                limit=f"--min-decode-tok-s {1 / limits.max_decode_seconds:g}",
                taken=f"{1 / seconds:.1f} tok/s",
                share=seconds / limits.max_decode_seconds,
            )
        )
    return tuple(found)


def memory_for(
    inventory: ModelInventory, types: Mapping[str, QuantType], target: DeviceTarget, limits: Limits
) -> MemoryBudget:
    """Resident memory of a plan."""
    return memory_budget(inventory, types, target, ctx=limits.ctx, kv_type=limits.kv_type)


def fixed_seconds(inventory: ModelInventory, target: DeviceTarget, limits: Limits) -> float:
    """Seconds per token that no allocation changes: the KV cache, float tensors, launches."""
    running = as_run(target, limits.max_weight_bytes)
    context_s = _context_seconds(inventory, running, limits, limits.kv_type)
    kept_s = sum(
        t.source_bytes * seconds_per_byte(QuantType.F16 if t.source_type in FLOAT_TYPES else t.source_type, running)
        for t in inventory.tensors
        if not t.quantizable
    )
    return context_s + kept_s + overhead_seconds(inventory, running)
