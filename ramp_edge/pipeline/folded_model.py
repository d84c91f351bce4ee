"""A model after folding, ready to be quantized and written like any other, and what a build tells of the folding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from ramp_edge.codec.types import QuantType
from ramp_edge.events import EventBus
from ramp_edge.fold.apply import FoldedTensors, folded_moments
from ramp_edge.fold.groups import FoldGroup, fold_groups
from ramp_edge.fold.plan import FoldPlan
from ramp_edge.model.gguf_file import GgufTensors
from ramp_edge.model.header import Header
from ramp_edge.pipeline.calibration import Calibrated
from ramp_edge.pipeline.candidates import Problem, knapsack
from ramp_edge.pipeline.emission import Emitter
from ramp_edge.pipeline.fold_costs import FoldCosts
from ramp_edge.pipeline.fold_store import folded_from_plain, folded_to_plain
from ramp_edge.pipeline.folding import RESIDUAL, Folded, Folding
from ramp_edge.pipeline.record import CandidateRecord, FoldingRecord
from ramp_edge.pipeline.request import Fold
from ramp_edge.pipeline.workspace import FOLDING_WORK, Workspace
from ramp_edge.quantize.search import Search
from ramp_edge.quantize.table import Moments
from ramp_edge.records import TUNED_ORIGIN, ErrorTable, ModelInventory, comparable_origins


class FoldedModel(FoldedTensors):
    """Tensors after folding, with the source's header and metadata."""

    def __init__(
        self, source: GgufTensors, inventory: ModelInventory, plan: FoldPlan, groups: Sequence[FoldGroup]
    ) -> None:
        super().__init__(source, inventory, plan, groups)
        self._file = source

    @property
    def header(self) -> Header:
        """The source's."""
        return self._file.header

    def metadata_bytes(self, key: str) -> bytes:
        """The source's key-value pair."""
        return self._file.metadata_bytes(key)


def search_folds(
    problem: Problem,
    tensors: GgufTensors,
    calibrated: Calibrated,
    mode: Fold,
    search: Search,
    events: EventBus,
    workspace: Workspace | None,
) -> Folded | None:
    """Folds for the problem's limits, those that `workspace` kept where it did; None where none are wanted, nothing can be
    allocated or no text is left to judge with."""
    if mode is Fold.OFF:
        return None
    if workspace is not None and (saved := workspace.load(FOLDING_WORK)) is not None:
        return folded_from_plain(saved, fold_groups(problem.inventory))
    if not calibrated.held_out_windows:
        events.warn("the calibration text is too short to judge folds on a part of it: channels stay as they are")
        return None
    costs = FoldCosts(problem.inventory, tensors, calibrated, problem.target.backend, search)

    def allocate(table: ErrorTable) -> dict[str, QuantType] | None:
        plans = knapsack(replace(problem, table=table))
        return plans[0].types if plans else None

    folded = Folding(costs, allocate, events, always=mode is Fold.ALWAYS).run()
    if workspace is not None and folded is not None:
        workspace.save(FOLDING_WORK, folded_to_plain(folded))
    return folded


def folded_emitter(plain: Emitter, tensors: GgufTensors, moments: Moments, folded: Folded) -> Emitter:
    """Writes plans of the folded model as `plain` writes those of the source."""
    model = FoldedModel(tensors, plain.inventory, folded.plan, folded.groups)
    load = folded_moments(moments.load, folded.plan, folded.groups)
    return plain.for_model(model, Moments(site=moments.site, load=load))


def folding_record(mode: str, folded: Folded, candidates: Sequence[CandidateRecord]) -> FoldingRecord:
    """The account of a build's folding; the best candidate of either kind, as it was allocated, stands for its kind."""
    ours = [c for c in candidates if c.codec == "feedback" and c.origin != TUNED_ORIGIN]
    origins = comparable_origins([(c.origin, c.folded) for c in ours if c.measured_kl is not None]) or {
        c.origin for c in ours
    }

    def best(wanted: bool, value: Callable[[CandidateRecord], float | None]) -> float | None:
        found = (value(c) for c in ours if c.folded is wanted and c.origin in origins)
        return min((v for v in found if v is not None), default=None)

    tried = [o for o in folded.outcomes if o.group != RESIDUAL]
    return FoldingRecord(
        mode=mode,
        rounds=folded.rounds,
        groups_tried=len(tried),
        groups_kept=sum(o.kept for o in tried),
        reordered=folded.plan.order is not None,
        predicted_kl_unfolded=best(False, lambda c: c.predicted_kl),
        predicted_kl_folded=best(True, lambda c: c.predicted_kl),
        measured_kl_unfolded=best(False, lambda c: c.measured_kl),
        measured_kl_folded=best(True, lambda c: c.measured_kl),
        groups=folded.outcomes,
    )
