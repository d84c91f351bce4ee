"""`--tune N`: measures N changes of the best plan on calibration text with llama.cpp, and allocates anew with what they teach.

What the error table cannot see (layers that make each other's errors better or worse, kernels' rounding) shows in a file's own KL. A change is one
tensor in another type; all other tensors are copied from the plan's file, so that a measurement costs its evaluation and little more.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ramp_edge.allocate.tuning import (
    Change,
    MeasuredChange,
    common_factor,
    corrected,
    neighbours,
    worth_measuring,
)
from ramp_edge.calibrate.text import TextWindows
from ramp_edge.codec.types import QuantType
from ramp_edge.emit.layout import MetadataItem
from ramp_edge.evaluate.evaluator import ReferenceLogits, divergence_by_token, reference_logits
from ramp_edge.events import EventBus
from ramp_edge.model.gguf_file import GgufTensors
from ramp_edge.model.output_head import read_output_head
from ramp_edge.pipeline.calibration import cache_root
from ramp_edge.pipeline.candidates import Problem, knapsack
from ramp_edge.pipeline.emission import Emitter
from ramp_edge.pipeline.record import TuningRecord
from ramp_edge.pipeline.workspace import TUNING_WORK, Workspace
from ramp_edge.records import TUNED_ORIGIN, Allocation

Float64 = npt.NDArray[np.float64]
TUNING_WINDOWS = 8
"""Calibration windows that a change is measured on, the last ones: those that judged folds among them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tuned:
    """The plan that came of it, and its account."""

    plan: Allocation | None
    """None where nothing better was found."""
    record: TuningRecord


class Tuning:
    """Measures changes of one plan; finished measurements survive a stop."""

    def __init__(
        self,
        problem: Problem,
        emitter: Emitter,
        tensors: GgufTensors,
        text: TextWindows,
        metadata: Mapping[str, MetadataItem],
        workspace: Workspace,
        threads: int,
        events: EventBus,
    ) -> None:
        self._problem, self._emitter, self._tensors, self._text = problem, emitter.silent(), tensors, text
        self._metadata, self._workspace, self._threads, self._events = metadata, workspace, threads, events

    def improve(self, plans: list[Allocation], n_changes: int) -> tuple[list[Allocation], TuningRecord | None]:
        """`plans` with the tuned form of their first before them, where it is better; that one's table and emitter must be those given here."""
        if not n_changes:
            return plans, None
        tuned = self.run(plans[0], n_changes)
        return (plans if tuned.plan is None else [tuned.plan, *plans]), tuned.record

    def run(self, plan: Allocation, n_changes: int) -> Tuned:
        """Measure up to `n_changes` changes of `plan`; its types come with the problem's own table."""
        problem = self._problem
        sizes = {name: {t: entry.size_bytes(t) for t in entry.types} for name, entry in problem.legal.items()}
        changes = worth_measuring(neighbours(problem.table, sizes, plan.types), n_changes)
        reference = self._reference()
        # The base's name holds the plan: a stopped tuning of another one left another file.
        base = self._workspace.path(f"tuning-{self._key(plan)[:12]}.gguf")
        other = self._workspace.path("tuning-change.gguf")
        # The plan's file and its own measurement come on top of the changes.
        with self._events.stage("tune", total=len(changes) + 1, unit="measurements") as stage:
            before = self._base(base, plan, reference)
            stage.advance()
            found = self._load(plan)
            measured = []
            for change in changes:
                key = f"{change.tensor} {change.quant_type.name}"
                if key not in found:
                    found[key] = self._measure(other, base, plan, change, before, reference)
                    self._save(plan, found)
                measured.append(MeasuredChange(change=change, kl=found[key][0], std_error=found[key][1]))
                stage.advance()
        better = knapsack(replace(problem, table=corrected(problem.table, plan.types, measured)))
        types = better[0].types if better else plan.types
        tuned = self._judged(plan, types, measured, other, base, before, reference)
        for file in (base, other):
            file.unlink(missing_ok=True)
        return tuned

    def _reference(self) -> ReferenceLogits:
        windows = self._text.calibration[-TUNING_WINDOWS:]
        inventory = self._problem.inventory
        return reference_logits(
            inventory.path,
            windows.reshape(-1),
            n_ctx=windows.shape[1],
            n_windows=len(windows),
            head=read_output_head(self._tensors),
            cache_dir=cache_root() / "reference",
            model_sha256=inventory.sha256,
            threads=self._threads,
            events=self._events,
        )[1]

    def _base(self, path: Path, plan: Allocation, reference: ReferenceLogits) -> Float64:
        if not path.exists():
            self._emitter.write(path, plan.types, self._metadata)
        return divergence_by_token(path, reference, threads=self._threads)

    def _written(self, path: Path, base: Path, plan: Allocation, types: Mapping[str, QuantType]) -> Path:
        """The file of `types`, with everything of `base` that stays."""
        held = GgufTensors(base)
        ready = {name: held.raw(name) for name, kind in types.items() if kind is plan.types[name]}
        self._emitter.write(path, types, self._metadata, ready)
        return path

    def _measure(
        self, path: Path, base: Path, plan: Allocation, change: Change, before: Float64, reference: ReferenceLogits
    ) -> tuple[float, float]:
        types = {**plan.types, change.tensor: change.quant_type}
        return self._difference(path, base, plan, types, before, reference)

    def _difference(
        self,
        path: Path,
        base: Path,
        plan: Allocation,
        types: Mapping[str, QuantType],
        before: Float64,
        reference: ReferenceLogits,
    ) -> tuple[float, float]:
        """(mean, standard error) of KL with `types` less that of the plan, token by token."""
        written = self._written(path, base, plan, types)
        return _paired(divergence_by_token(written, reference, threads=self._threads) - before)

    def _judged(
        self,
        plan: Allocation,
        types: dict[str, QuantType],
        measured: list[MeasuredChange],
        path: Path,
        base: Path,
        before: Float64,
        reference: ReferenceLogits,
    ) -> Tuned:
        """The new types, where they measure better than the old ones on the text of the tuning."""
        changed = sum(types[name] is not kind for name, kind in plan.types.items())
        difference = (0.0, 0.0)
        if changed:
            difference = self._difference(path, base, plan, types, before, reference)
        record = TuningRecord(
            measured_changes=len(measured),
            n_tokens=len(before),
            common_factor=common_factor(measured),
            tensors_changed=changed,
            kl_before=float(before.mean()),
            kl_after=float(before.mean()) + difference[0],
            difference_std_error=difference[1],
        )
        if not difference[0] < 0.0:
            return Tuned(plan=None, record=record)
        tuned = replace(plan, origin=TUNED_ORIGIN, types=types, predicted_kl=self._problem.predicted_kl(types))
        return Tuned(plan=tuned, record=record)

    def _key(self, plan: Allocation) -> str:
        types = sorted((name, kind.name) for name, kind in plan.types.items())
        return hashlib.sha256(json.dumps([types, plan.folded]).encode()).hexdigest()

    def _load(self, plan: Allocation) -> dict[str, tuple[float, float]]:
        saved = self._workspace.load(TUNING_WORK)
        if saved is None or saved["plan"] != self._key(plan):
            return {}
        return {key: (float(kl), float(error)) for key, (kl, error) in saved["changes"].items()}

    def _save(self, plan: Allocation, found: Mapping[str, tuple[float, float]]) -> None:
        self._workspace.save(TUNING_WORK, {"plan": self._key(plan), "changes": found})


def _paired(differences: Float64) -> tuple[float, float]:
    """(mean, standard error)"""
    return float(differences.mean()), float(differences.std(ddof=1) / math.sqrt(len(differences)))
