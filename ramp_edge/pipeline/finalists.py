"""Steps 7 and 8 of a build: quantize the few best plans, measure them beside the best stock preset, keep the winner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ramp_edge.allocate.presets import Preset, stock_presets
from ramp_edge.calibrate.text import TextWindows
from ramp_edge.codec.libllama_quantize import quantize_preset
from ramp_edge.emit.layout import Layout, MetadataItem
from ramp_edge.errors import RuntimeToolError, UnsupportedModelError
from ramp_edge.evaluate.evaluator import ReferenceLogits, evaluate_model, reference_logits
from ramp_edge.evaluate.generate import generate
from ramp_edge.events import EventBus
from ramp_edge.model.gguf_file import GgufTensors, file_sha256
from ramp_edge.model.output_head import read_output_head
from ramp_edge.pipeline.calibration import Calibrated, cache_root
from ramp_edge.pipeline.candidates import Problem
from ramp_edge.pipeline.emission import Emitter
from ramp_edge.pipeline.policy import ORIGIN as POLICY_ORIGIN
from ramp_edge.pipeline.record import CandidateRecord, Continuation, evaluation_from, to_plain
from ramp_edge.pipeline.request import EFFORTS, WINDOW_TOKENS, AllocatorChoice, BuildRequest
from ramp_edge.pipeline.workspace import Workspace
from ramp_edge.quantize.table import Moments
from ramp_edge.records import TUNED_ORIGIN, Allocation, EvaluationResult, ModelInventory, Role, plan_label

PROMPTS = ("The old man looked at the sea and", "Once upon a time")
CONTINUATION_TOKENS = 24


def _preset_name(finalist: Finalist) -> str:
    return finalist.allocation.origin.removeprefix("preset:")


def label_of(plan: Allocation) -> str:
    """How progress and records call a plan."""
    return plan_label(plan.origin, folded=plan.folded)


def preset_plans(problem: Problem) -> list[Preset]:
    """Stock presets of this model whose types are all legal here, with their predicted KL (under error feedback)."""
    try:
        presets = stock_presets(problem.inventory)
    except (UnsupportedModelError, RuntimeToolError):
        # Without presets the other allocators still stand; the measurement step says so.
        return []
    return [p for p in presets if all(p.allocation.types[n] in entry.types for n, entry in problem.legal.items())]


def presets_allocator(problem: Problem) -> Sequence[Allocation]:
    """The stock presets' types, to be quantized with error feedback."""
    return [
        Allocation(
            origin=p.allocation.origin,
            types=p.allocation.types,
            predicted_kl=problem.predicted_kl(p.allocation.types),
        )
        for p in preset_plans(problem)
    ]


def candidate_of(problem: Problem, plan: Allocation, *, chosen: bool = False) -> CandidateRecord:
    """The record of a plan that nothing was measured of."""
    return CandidateRecord(
        origin=plan.origin,
        codec="feedback",
        file_bytes=problem.file_bytes(plan.types),
        predicted_kl=plan.predicted_kl,
        predicted_decode_tok_s=1.0 / problem.seconds(plan.types),
        evaluation=None,
        chosen=chosen,
        folded=plan.folded,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Finalist:
    """A quantized file with its measurement."""

    allocation: Allocation
    codec: str
    path: Path
    layout: Layout | None
    """None for a stock preset's file, which llama.cpp laid out."""
    evaluation: EvaluationResult | None

    @property
    def measured_kl(self) -> float:
        """Mean KL, or infinity where nothing was measured."""
        found = None if self.evaluation is None else self.evaluation.mean_kl
        return float("inf") if found is None else found


class Finalists:
    """Quantizes and measures; each finished file and measurement survives a stop."""

    def __init__(
        self,
        request: BuildRequest,
        problem: Problem,
        text: TextWindows,
        tensors: GgufTensors,
        emitters: Mapping[bool, Emitter],
        calibrated: Calibrated,
        workspace: Workspace,
        metadata: Mapping[str, MetadataItem],
        threads: int,
        events: EventBus,
    ) -> None:
        self._request, self._problem, self._text, self._tensors = request, problem, text, tensors
        self._emitters, self._calibrated, self._workspace = emitters, calibrated, workspace
        self._metadata, self._threads, self._events = metadata, threads, events
        self._effort = EFFORTS[request.effort]
        self.reference: EvaluationResult | None = None
        self._logits: ReferenceLogits | None = None
        self.finalists: list[Finalist] = []

    def choose(self, plans: Sequence[Allocation]) -> Finalist:
        """Measure and return the one with the least KL; `plans` come in the order in which they are worth it."""
        self._run_reference()
        best = plans[0].predicted_kl or 0.0
        # A plan predicted far behind the best is not worth minutes of measuring.
        worth = [p for p in plans if (p.predicted_kl or 0.0) <= 2.0 * best + 1e-12]
        # What --tune found is measured besides: the others say what it is worth.
        measured = worth[: self._effort.measured_candidates + (plans[0].origin == TUNED_ORIGIN)]
        for index, plan in enumerate([*measured, *self._policy_besides(plans, measured)]):
            self.finalists.append(self._ours(index, plan))
        self.finalists.extend(self._stock_finalists())
        ranked = sorted(self.finalists, key=lambda f: (f.measured_kl, f.codec))
        # Stock presets are measured whether or not they may be taken: the comparison needs one.
        barred = {id(f): why for f in ranked if (why := self._why_not(f))}
        winner = next(f for f in ranked if id(f) not in barred)
        for better in ranked[: ranked.index(winner)]:
            self._events.warn(
                f"the stock preset {_preset_name(better)} measured better but may not be taken: {barred[id(better)]}"
            )
        if winner.layout is None:
            self._events.warn(
                f"the stock preset {_preset_name(winner)} measured better than every allocation of ours; it is what you get"
            )
        return winner

    def _policy_besides(self, plans: Sequence[Allocation], measured: Sequence[Allocation]) -> list[Allocation]:
        """With --allocator best the policy's plan is measured whatever the table thinks of it, folded where the best plan is."""
        if self._request.allocating is not AllocatorChoice.BEST or any(p.origin == POLICY_ORIGIN for p in measured):
            return []
        return [p for p in plans if p.origin == POLICY_ORIGIN and p.folded == plans[0].folded][:1]

    def _why_not(self, finalist: Finalist) -> str:
        """Why the user's limits exclude a stock preset, or nothing. Our own plans were checked when they were proposed."""
        if finalist.layout is not None:
            return ""
        types = finalist.allocation.types
        for name, entry in self._problem.legal.items():
            if types[name] not in entry.types:
                return (
                    f"{name} is {types[name].name}, {entry.illegal.get(types[name], 'which the device does not run')}"
                )
        usages = self._problem.usages(types, finalist.path.stat().st_size)
        return next((f"it has {u.taken}, which {u.limit} forbids" for u in usages if u.share > 1.0), "")

    def _eval_tokens(self) -> npt.NDArray[np.int32]:
        if not len(self._text.held_out):
            self._events.warn(
                "the calibration text is too short to hold any of it out: KL is measured on calibration windows; "
                "give --eval-text for an honest figure"
            )
            return self._text.calibration[: self._effort.evaluation_windows].reshape(-1)
        return self._text.held_out.reshape(-1)

    def _run_reference(self) -> None:
        inventory = self._problem.inventory
        size = min(WINDOW_TOKENS, inventory.hyper.context_length)
        tokens = self._eval_tokens()
        self.reference, self._logits = reference_logits(
            inventory.path,
            tokens,
            n_ctx=size,
            n_windows=min(self._effort.evaluation_windows, len(tokens) // size),
            head=read_output_head(self._tensors),
            cache_dir=cache_root() / "reference",
            model_sha256=inventory.sha256,
            threads=self._threads,
            events=self._events,
        )

    def _measure(self, key: str, path: Path, label: str) -> EvaluationResult:
        sha256 = file_sha256(path)
        saved = self._workspace.load(key)
        if saved is not None and saved["sha256"] == sha256:
            found = evaluation_from(saved["evaluation"])
            assert found is not None
            return found
        result = evaluate_model(path, reference=self._logits, label=label, threads=self._threads, events=self._events)
        self._workspace.save(key, {"sha256": sha256, "evaluation": to_plain(result)})
        return result

    def _ours(self, index: int, plan: Allocation) -> Finalist:
        path = self._workspace.path(f"candidate-{index}.gguf")
        metadata = {
            **self._metadata, "ramp_edge.allocation": plan.origin[:32].ljust(32), "ramp_edge.folded": int(plan.folded)
        }  # fmt: skip
        emitter = self._emitters[plan.folded]
        layout = emitter.layout(plan.types, metadata) if path.exists() else emitter.write(path, plan.types, metadata)
        return Finalist(
            allocation=plan,
            codec="feedback",
            path=path,
            layout=layout,
            evaluation=self._measure(f"candidate-{index}", path, label_of(plan)),
        )

    def _stock_finalists(self) -> list[Finalist]:
        """Stock presets of no more bytes than our best plan, as `llama-quantize` makes them with an importance matrix."""
        ours = max(f.path.stat().st_size for f in self.finalists)
        rivals = [p for p in self._rivals() if p.file_bytes(self._problem.inventory) <= ours + 4096]
        out = []
        for preset in rivals[-self._effort.stock_presets :] if self._effort.stock_presets else []:
            path = self._workspace.path(f"preset-{preset.name}.gguf")
            if not path.exists():
                with self._events.stage(f"quantize stock {preset.name}"):
                    quantize_preset(
                        self._problem.inventory.path,
                        path,
                        preset.name,
                        imatrix=imatrix_of(self._problem.inventory, self._calibrated.moments),
                        allow_requantize=self._request.allow_requantize,
                        threads=self._threads,
                    )
            if path.stat().st_size > ours:
                continue
            label = f"stock {preset.name}"
            evaluation = self._measure(f"preset-{preset.name}", path, label)
            out.append(
                Finalist(allocation=preset.allocation, codec="stock", path=path, layout=None, evaluation=evaluation)
            )
        return out

    def _rivals(self) -> list[Preset]:
        try:
            return list(stock_presets(self._problem.inventory))
        except (UnsupportedModelError, RuntimeToolError) as error:
            self._events.warn(f"no stock preset to compare with: {error.message}")
            return []

    def records(self, winner: Finalist, plans: Sequence[Allocation]) -> tuple[CandidateRecord, ...]:
        """Everything that was considered, measured ones first."""
        measured = [
            CandidateRecord(
                origin=f.allocation.origin,
                codec=f.codec,
                file_bytes=f.path.stat().st_size,
                predicted_kl=f.allocation.predicted_kl,
                predicted_decode_tok_s=1.0 / self._problem.seconds(f.allocation.types),
                evaluation=f.evaluation,
                chosen=f is winner,
                folded=f.allocation.folded,
            )
            for f in self.finalists
        ]
        known = {label_of(f.allocation) for f in self.finalists if f.codec == "feedback"}
        rest = [candidate_of(self._problem, p) for p in plans if label_of(p) not in known]
        return (*measured, *rest)


def imatrix_of(inventory: ModelInventory, moments: Moments) -> dict[str, npt.NDArray[np.float32]]:
    """Mean squared inputs of each tensor but the embedding and the head, which llama.cpp never weighs: float32 [n_cols]."""
    diagonals: dict[str, npt.NDArray[np.float32]] = {}
    by_site: dict[str, npt.NDArray[np.float32]] = {}
    for tensor in inventory.quantizable:
        site = moments.site(tensor)
        if site is None or tensor.role in (Role.TOKEN_EMBD, Role.OUTPUT):
            continue
        if site not in by_site:
            by_site[site] = np.ascontiguousarray(np.diagonal(moments.load(site)))
        diagonals[tensor.name] = by_site[site]
    return diagonals


def continuation_of(reference: Path, emitted: Path, seed: int, threads: int, events: EventBus) -> Continuation:
    """A short greedy continuation by both models; also proves that libllama loads the file and generates."""
    prompt = PROMPTS[seed % len(PROMPTS)]
    with events.stage("generate", total=2, unit="models") as stage:
        texts = []
        for path in (reference, emitted):
            texts.append(generate(path, prompt, n_tokens=CONTINUATION_TOKENS, seed=seed, threads=threads))
            stage.advance()
    return Continuation(prompt=prompt, reference=texts[0], emitted=texts[1])
