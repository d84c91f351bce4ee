"""An order of the residual stream for one model and its types: searched on some rows, judged by the real codec on others."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ramp_edge.calibrate.workers import batch_workers
from ramp_edge.codec.types import QuantType
from ramp_edge.events import EventBus
from ramp_edge.fold.apply import reordered
from ramp_edge.fold.judge import Ratio, paired_ratio
from ramp_edge.fold.ordering import OrderView, search_order
from ramp_edge.pipeline.fold_costs import Basis, FoldCosts, Sample

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Types = Mapping[str, QuantType]
SourceCosts = Callable[[Sample, QuantType, Basis], Float64]

ORDER_ROWS = 12
"""Rows of each matrix in the blocks that a search looks at: it serves them all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgedOrder:
    """An order and what it does to all that read the residual stream, in KL on held-out activations."""

    order: Int64
    """[n_embd]: the source's channel at each place."""
    kl_before: float
    kl_after: float
    kl_noise: float
    """Standard error of the difference."""
    ratios: dict[str, dict[QuantType, float]]
    """Of each reader's cost, in its own type; of what belongs to no layer in all its types."""


def residual_readers(costs: FoldCosts, types: Types) -> dict[str, list[str]]:
    """Quantized matrices whose columns are the residual stream's channels, by site."""
    readers: dict[str, list[str]] = {}
    for tensor in costs.inventory.quantizable:
        site = costs.site(tensor)
        if site is not None and reordered(site) and not types[tensor.name].is_float:
            readers.setdefault(site, []).append(tensor.name)
    return readers


def judged_order(
    costs: FoldCosts, types: Types, readers: Mapping[str, Sequence[str]], source: SourceCosts, events: EventBus
) -> JudgedOrder:
    """`source` gives a tensor's costs as the model file has it."""
    with events.stage("order channels", total=2 * len(readers) + 1, unit="sites") as stage:
        views = []
        for site, names in readers.items():
            price = costs.basis(site, None).factor.price()
            views += [_view(costs, costs.sample(name), types[name], price) for name in names]
            stage.advance()
        order = search_order(views)
        stage.advance()

        def judge(site: str) -> dict[str, dict[QuantType, Ratio]]:
            # Factors are large: one site's at a time for each core.
            plain, ordered = costs.basis(site, None), costs.basis(site, order)
            found = {}
            for name in readers[site]:
                sample = costs.sample(name)
                # What is in no group is measured in all its types here.
                wanted = (types[name],) if sample.tensor.layer is not None else costs.types(name)
                found[name] = {
                    t: paired_ratio(source(sample, t, plain), costs.weight_costs(sample, t, ordered)) for t in wanted
                }
            return found

        ratios: dict[str, dict[QuantType, Ratio]] = {}
        with batch_workers() as pool:
            for found in pool.map(judge, readers):
                ratios.update(found)
                stage.advance()
    kl = {name: costs.weight_kl(name, types[name]) for name in ratios}
    own = {name: ratios[name][types[name]] for name in ratios}
    return JudgedOrder(
        order=order,
        kl_before=sum(kl.values()),
        kl_after=sum(kl[name] * own[name].value for name in ratios),
        kl_noise=math.sqrt(sum((kl[name] * own[name].noise) ** 2 for name in ratios)),
        ratios={name: {t: r.value for t, r in row.items()} for name, row in ratios.items()},
    )


def _view(costs: FoldCosts, sample: Sample, quant_type: QuantType, price: Float32) -> OrderView:
    step = 1 if sample.tensor.layer is None else max(1, len(sample.rows) // ORDER_ROWS)
    # Copies, or every sample would stay whole.
    return OrderView(
        rows=sample.rows[::step].copy(),
        row_weights=sample.row_weights[::step].copy(),
        price=price,
        kl=costs.weight_kl(sample.name, quant_type),
    )
