"""Step 6 of a build: allocations within the limits, proposed by several allocators, best prediction first."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ramp_edge.allocate.choices import Legal
from ramp_edge.allocate.knapsack import Item, solve
from ramp_edge.codec.types import QuantType
from ramp_edge.errors import InfeasibleBudgetError
from ramp_edge.pipeline.budget import SPEED_GUARD, Limits, Usage, fixed_seconds, limit_usages, memory_for
from ramp_edge.profile.memory import weight_bytes
from ramp_edge.profile.speed import as_run, decode_seconds, tensor_seconds
from ramp_edge.records import Allocation, DeviceTarget, ErrorTable, ModelInventory
from ramp_edge.units import human_bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """What an allocator sees: the table, the legal types, the limits."""

    inventory: ModelInventory
    target: DeviceTarget
    limits: Limits
    legal: Mapping[str, Legal]
    table: ErrorTable
    file_bytes: Callable[[Mapping[str, QuantType]], int]
    """Exact size of the file of a plan."""

    def predicted_kl(self, types: Mapping[str, QuantType]) -> float:
        """Sum of the table's entries."""
        return sum(self.table.kl[name][quant_type] for name, quant_type in types.items())

    @property
    def running(self) -> DeviceTarget:
        """The device as a model of the limits' bytes meets it, for the seconds of single tensors."""
        return as_run(self.target, self.limits.max_weight_bytes)

    def fits(self, types: Mapping[str, QuantType]) -> bool:
        """True where the plan respects every limit."""
        return all(usage.share <= 1.0 for usage in self.usages(types))

    def usages(self, types: Mapping[str, QuantType], file_bytes: int | None = None) -> tuple[Usage, ...]:
        """What the plan takes of every limit; `file_bytes` where its file is there already."""
        size = self.file_bytes(types) if file_bytes is None else file_bytes
        return limit_usages(self.inventory, types, self.target, self.limits, size)

    def seconds(self, types: Mapping[str, QuantType]) -> float:
        """Predicted seconds per decoded token at half the context."""
        return decode_seconds(
            self.inventory, types, self.target, ctx_used=self.limits.ctx // 2, kv_type=self.limits.kv_type
        )


_ATTEMPTS = 12
Allocator = Callable[[Problem], Sequence[Allocation]]
"""Proposes plans; anything that does not fit is dropped."""


def knapsack(problem: Problem) -> Sequence[Allocation]:
    """The knapsack on the Fisher table, tightened until resident memory fits as well."""
    inventory = problem.inventory
    names = list(problem.legal)
    target = problem.running
    items = [
        Item(
            kl=tuple(problem.table.kl[name][t] for t in entry.types),
            size_bytes=tuple(entry.size_bytes(t) for t in entry.types),
            seconds=tuple(tensor_seconds(entry.tensor, t, target, tied=inventory.tied_embedding) for t in entry.types),
        )
        for name, entry in problem.legal.items()
    ]

    def types_within(max_bytes: int, max_seconds: float) -> dict[str, QuantType] | None:
        plan = solve(items, max_bytes, max_seconds)
        if plan is None:
            return None
        return {name: problem.legal[name].types[c] for name, c in zip(names, plan.choice, strict=True)}

    types = within_limits(problem, types_within)
    if types is None:
        return ()
    return (Allocation(origin="knapsack", types=types, predicted_kl=problem.predicted_kl(types)),)


TypesWithin = Callable[[int, float], dict[str, QuantType] | None]
"""(bytes of the quantizable tensors, seconds per decoded token) -> types, or None where nothing fits."""


def within_limits(problem: Problem, types_within: TypesWithin) -> dict[str, QuantType] | None:
    """Types that respect every limit, by an allocator that knows bytes and seconds: with the speed guard where it can be kept."""
    limits, inventory = problem.limits, problem.inventory
    kept = sum(t.source_bytes for t in inventory.tensors if not t.quantizable)
    room = limits.max_weight_bytes - kept
    seconds = [limits.max_decode_seconds - fixed_seconds(inventory, problem.target, limits)]
    if limits.speed_guard:
        seconds.insert(0, room / (problem.running.bandwidth_effective_bytes_s * SPEED_GUARD))
    found = (_tightened(problem, types_within, room, most) for most in seconds)
    return next((types for types in found if types is not None), None)


def _tightened(problem: Problem, types_within: TypesWithin, room: int, seconds: float) -> dict[str, QuantType] | None:
    """Allocate, then tighten the bytes until file size and resident memory hold as well."""
    limits = problem.limits
    for _ in range(_ATTEMPTS):
        types = types_within(room, seconds)
        if types is None:
            return None
        over = -memory_for(problem.inventory, types, problem.target, limits).free_bytes
        if limits.max_file_bytes is not None:
            over = max(over, problem.file_bytes(types) - limits.max_file_bytes)
        if over <= 0:
            return types
        room = min(room, sum(problem.legal[name].size_bytes(t) for name, t in types.items())) - over
    return None


def uniform(problem: Problem) -> Sequence[Allocation]:
    """One type for every tensor where it is legal, the next larger legal one elsewhere."""
    wanted = sorted({t for entry in problem.legal.values() for t in entry.types}, key=lambda t: t.bits_per_weight)
    plans = []
    for quant_type in wanted:
        types = {}
        for name, entry in problem.legal.items():
            larger = [t for t in entry.types if t.bits_per_weight >= quant_type.bits_per_weight]
            types[name] = quant_type if quant_type in entry.types else (larger or [entry.types[-1]])[0]
        plans.append(
            Allocation(origin=f"uniform:{quant_type.name}", types=types, predicted_kl=problem.predicted_kl(types))
        )
    return plans


def propose(problem: Problem, allocators: Sequence[Allocator]) -> list[Allocation]:
    """All plans that fit, best prediction first, each set of types once. Raises where none fits."""
    seen: set[tuple[tuple[str, QuantType], ...]] = set()
    plans = []
    for allocator in allocators:
        for plan in allocator(problem):
            key = tuple(sorted(plan.types.items()))
            if key not in seen and problem.fits(plan.types):
                seen.add(key)
                plans.append(plan)
    if not plans:
        smallest = {name: entry.types[0] for name, entry in problem.legal.items()}
        over = -memory_for(problem.inventory, smallest, problem.target, problem.limits).free_bytes
        raise InfeasibleBudgetError(
            f"no allocation meets the byte, memory and speed limits together "
            f"(smallest plan: {human_bytes(weight_bytes(problem.inventory.tensors, smallest))} of weights, "
            f"{1 / problem.seconds(smallest):.1f} tok/s, {human_bytes(max(0, over))} over the memory)",
            hint="loosen --min-decode-tok-s or the size, or allow more --types",
        )
    return sorted(plans, key=by_prediction)


def by_prediction(plan: Allocation) -> tuple[float, str]:
    """Sorts the best prediction first."""
    return (plan.predicted_kl if plan.predicted_kl is not None else float("inf"), plan.origin)
