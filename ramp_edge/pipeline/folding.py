"""Folding between allocation and quantization: an order for the residual stream, scales for each group, kept where they pay.

Models of the cost propose (`fold/ordering.py`, `fold/scales.py`); the real codec under error feedback judges, in the type that the
allocation gave, on activations that no moment has seen (`fold_costs.py`). What is kept changes the error table, the table changes the
allocation, and groups whose types changed are searched again until nothing does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from ramp_edge.calibrate.workers import batch_workers
from ramp_edge.codec.types import QuantType
from ramp_edge.events import EventBus
from ramp_edge.fold.apply import reordered
from ramp_edge.fold.groups import FoldGroup, fold_groups
from ramp_edge.fold.judge import CERTAINTY, UNCHANGED, is_gain, paired_ratio
from ramp_edge.fold.ordering import BLOCK_COLS
from ramp_edge.fold.plan import FoldPlan, GroupOutcome
from ramp_edge.fold.scales import ScaleTerm, search_scales
from ramp_edge.pipeline.fold_costs import Basis, FoldCosts, Sample
from ramp_edge.pipeline.fold_order import judged_order, residual_readers
from ramp_edge.records import ErrorTable

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Types = Mapping[str, QuantType]

ROUNDS = 3
RESIDUAL = "residual stream"
NEAR_TYPES = 3
"""Types of fewer and of more bits than the chosen one in which a kept change is measured."""
_SCALE_COLS = {QuantType.Q6_K: 16, QuantType.Q3_K: 16, QuantType.Q2_K: 16, QuantType.IQ2_XS: 16, QuantType.IQ2_S: 16}
"""Columns that share a scale, where not 32."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Folded:
    """What folding came to."""

    plan: FoldPlan
    groups: tuple[FoldGroup, ...]
    outcomes: tuple[GroupOutcome, ...]
    table: ErrorTable
    """Predicted KL after folding."""
    rounds: int


@dataclass(frozen=True, kw_only=True, slots=True)
class _Found:
    """One group's result. Ratios are to the source as it was, by tensor."""

    outcome: GroupOutcome
    scales: Float32 | None = None
    weights: Mapping[str, dict[QuantType, float]] = field(default_factory=dict)
    activations: Mapping[str, dict[int, float]] = field(default_factory=dict)


class Folding:
    """Searches one model's folds for one allocation problem."""

    def __init__(
        self,
        costs: FoldCosts,
        allocate: Callable[[ErrorTable], Types | None],
        events: EventBus,
        *,
        always: bool = False,
        scales: bool = True,
    ) -> None:
        """`scales`: False leaves it at the order, to tell what each is worth."""
        self._scales = scales
        self._costs, self._allocate, self._events = costs, allocate, events
        self._always = always
        self.groups = fold_groups(costs.inventory)
        self._order: Int64 | None = None
        self._weights: dict[str, dict[QuantType, float]] = {}
        self._activations: dict[str, dict[int, float]] = {}
        self._source_costs: dict[tuple[str, QuantType, int], Float64] = {}

    def run(self) -> Folded | None:
        """Search, judge, allocate anew, until the types settle; None where nothing can be allocated."""
        types = self._allocate(self._costs.table)
        if types is None:
            return None
        outcomes = [self._try_order(types)]
        scales: dict[str, Float32] = {}
        by_group = {
            g.name: GroupOutcome(group=g.name, kept=False, reason=g.reason) for g in self.groups if g.reason is not None
        }
        todo = [g for g in self.groups if g.reason is None]
        rounds = 0
        while todo and rounds < ROUNDS:
            rounds += 1
            with self._events.stage(f"fold {rounds}", total=len(todo), unit="groups") as stage, batch_workers() as pool:
                for found in pool.map(lambda group, now=types: self._try_group(group, now), todo):
                    name = found.outcome.group
                    by_group[name] = found.outcome
                    scales.pop(name, None)
                    if found.scales is not None:
                        scales[name] = found.scales
                    self._weights.update(found.weights)
                    self._activations.update(found.activations)
                    stage.advance()
            anew = self._allocate(self._table())
            if anew is None:
                break
            changed = {name for name, t in anew.items() if t is not types[name]}
            types = anew
            todo = [g for g in self.groups if g.reason is None and changed.intersection(g.readers)]
        outcomes += [by_group[g.name] for g in self.groups]
        plan = FoldPlan(order=self._order, scales=scales)
        return Folded(plan=plan, groups=self.groups, outcomes=tuple(outcomes), table=self._table(), rounds=rounds)

    def _table(self) -> ErrorTable:
        return self._costs.with_ratios(self._weights, self._activations)

    def _source(self, sample: Sample, quant_type: QuantType, basis: Basis) -> Float64:
        """Costs of the tensor as the source has it, measured once."""
        key = (sample.name, quant_type, len(sample.judged_rows))
        if key not in self._source_costs:
            self._source_costs[key] = self._costs.weight_costs(sample, quant_type, basis)
        return self._source_costs[key]

    def _outcome(self, name: str, before: float, after: float, noise: float, spread: float | None) -> GroupOutcome:
        kept = self._always or is_gain(before, after, noise)
        if kept:
            reason = "as --fold always asks" if self._always else "it lowers held-out error"
        elif after < before:
            reason = f"the gain is within {CERTAINTY:g} standard errors"
        else:
            reason = "no gain on held-out activations"
        return GroupOutcome(
            group=name, kept=kept, reason=reason, kl_before=before, kl_after=after, kl_noise=noise, scale_spread=spread
        )

    # The order of the residual stream: all that read it are judged together.

    def _try_order(self, types: Types) -> GroupOutcome:
        costs, width = self._costs, self._costs.inventory.hyper.n_embd
        if width % BLOCK_COLS:
            return GroupOutcome(
                group=RESIDUAL, kept=False, reason=f"{width} channels are no whole blocks of {BLOCK_COLS}"
            )
        readers = residual_readers(costs, types)
        if not readers:
            return GroupOutcome(group=RESIDUAL, kept=False, reason="nothing that reads it is quantized")
        found = judged_order(costs, types, readers, self._source, self._events)
        outcome = self._outcome(RESIDUAL, found.kl_before, found.kl_after, found.kl_noise, None)
        if outcome.kept:
            self._order = found.order
            self._weights = dict(found.ratios)
        return outcome

    # The scales of one group.

    def _try_group(self, group: FoldGroup, types: Types) -> _Found:
        costs = self._costs
        readers = [n for n in group.readers if n in types and not types[n].is_float]
        if not self._scales and self._order is None:
            return _Found(outcome=GroupOutcome(group=group.name, kept=False, reason="scales are not wanted"))
        if not readers:
            reason = "nothing that reads it is quantized"
            return _Found(outcome=GroupOutcome(group=group.name, kept=False, reason=reason))
        samples = {name: costs.sample(name) for name in readers}
        source = costs.basis(group.name, None)
        plain = source if self._order is None or not reordered(group.name) else costs.basis(group.name, self._order)
        terms = [self._term(samples[n], types[n], plain) for n in readers]
        # Only groups whose scales are their columns' own have columns in another order.
        scales = plain.unplaced(search_scales(group, terms, plain.factor.price(), costs.energy(plain)))
        columns = group.columns(scales)
        folded = replace(plain, scales=columns, factor=plain.factor.scaled(plain.placed(columns)))

        source_errors = costs.rounding_errors_sq(source)
        plain_errors = source_errors if plain is source else costs.rounding_errors_sq(plain)
        rounded = ((source, source_errors), (plain, plain_errors), (folded, costs.rounding_errors_sq(folded)))
        before = after = variance = 0.0
        activations: dict[str, list[dict[int, Float64]]] = {}
        for name in readers:
            t, sample = types[name], samples[name]
            first, second = costs.weight_costs(sample, t, plain), costs.weight_costs(sample, t, folded)
            ratio = paired_ratio(first, second)
            weight = costs.weight_kl(name, t)
            if plain is not source:
                weight *= paired_ratio(self._source(sample, t, source), first).value
            by_basis = [costs.activation_costs(sample, basis, errors) for basis, errors in rounded]
            block = costs.block(t)
            act, act_ratio = costs.activation_kl(name, t), UNCHANGED
            if block in by_basis[0]:
                act *= paired_ratio(by_basis[0][block], by_basis[1][block]).value
                act_ratio = paired_ratio(by_basis[1][block], by_basis[2][block])
            before += weight + act
            after += weight * ratio.value + act * act_ratio.value
            variance += (weight * ratio.noise) ** 2 + (act * act_ratio.noise) ** 2
            activations[name] = by_basis
        outcome = self._outcome(group.name, before, after, math.sqrt(variance), float(scales.max() / scales.min()))
        if not self._scales:
            outcome = replace(outcome, kept=False, reason="scales are not wanted")
        final, place = (folded, 2) if outcome.kept else (plain, 1)
        if final is source:
            return _Found(outcome=outcome, weights={n: {} for n in readers}, activations={n: {} for n in readers})
        return _Found(
            outcome=outcome,
            scales=scales if outcome.kept else None,
            weights={n: self._all_types(samples[n], types[n], source, final) for n in readers},
            activations={
                n: {block: paired_ratio(before, by[place][block]).value for block, before in by[0].items()}
                for n, by in activations.items()
            },
        )

    def _all_types(self, sample: Sample, chosen: QuantType, source: Basis, final: Basis) -> dict[QuantType, float]:
        """What the change does in every type that the allocation may choose: measured where it may be soon, in the types next to
        the chosen one by bits; the others take the ratio of the nearest that was measured."""
        types = sorted(self._costs.types(sample.name), key=lambda t: (t.bits_per_weight, t))
        place = types.index(chosen)
        near = types[max(0, place - NEAR_TYPES) : place + NEAR_TYPES + 1]
        few = replace(sample, judged_rows=sample.judged_rows[::4], judged_weights=sample.judged_weights[::4])
        measured = {
            t: paired_ratio(self._source(few, t, source), self._costs.weight_costs(few, t, final)).value for t in near
        }
        return {t: measured[min(near, key=lambda n: abs(n.bits_per_weight - t.bits_per_weight))] for t in types}

    def _term(self, sample: Sample, quant_type: QuantType, basis: Basis) -> ScaleTerm:
        return ScaleTerm(
            rows=basis.placed(sample.rows),
            row_weights=sample.row_weights,
            block_cols=_SCALE_COLS.get(quant_type, 32),
            weight_kl=self._costs.weight_kl(sample.name, quant_type),
            activation_block=self._costs.block(quant_type),
            activation_kl=self._costs.activation_kl(sample.name, quant_type),
            sensitivity=basis.placed(sample.sensitivity()),
        )
