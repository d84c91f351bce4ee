"""Step 8 of a build: everything that is known of it, gathered into its record."""

from __future__ import annotations

from ramp_edge.calibrate.text import TextWindows
from ramp_edge.events import EventBus
from ramp_edge.model.gguf_file import file_sha256
from ramp_edge.pipeline.budget import memory_for
from ramp_edge.pipeline.candidates import Problem
from ramp_edge.pipeline.finalists import Finalist, Finalists, candidate_of, presets_allocator
from ramp_edge.pipeline.folded_model import folding_record
from ramp_edge.pipeline.folding import Folded
from ramp_edge.pipeline.output_folder import MODEL_FILE
from ramp_edge.pipeline.record import BuildRecord, CandidateRecord, TensorRecord, to_plain, versions
from ramp_edge.pipeline.request import BuildRequest
from ramp_edge.profile.memory import weight_bytes
from ramp_edge.records import Allocation


def _best_preset(problem: Problem, records: tuple[CandidateRecord, ...], limit_bytes: int) -> CandidateRecord | None:
    """The stock preset to stand beside: the best measured one, the winner itself where that is it, else the best
    predicted one of no more bytes."""
    stock = [r for r in records if r.codec == "stock"]
    if stock:
        return next((r for r in stock if r.chosen), None) or min(
            stock, key=lambda r: float("inf") if r.measured_kl is None else r.measured_kl
        )
    # Where no preset was a candidate (the policy was asked alone), it still is what to compare with.
    presets = [r for r in records if r.origin.startswith("preset:")] or [
        candidate_of(problem, p) for p in presets_allocator(problem)
    ]
    smaller = [r for r in presets if r.file_bytes <= limit_bytes]
    return min(smaller, key=lambda r: r.predicted_kl or 0.0) if smaller else None


def build_record(
    request: BuildRequest,
    problem: Problem,
    text: TextWindows,
    plans: list[Allocation],
    events: EventBus,
    folding: Folded | None,
    winner: Finalist | None = None,
    finalists: Finalists | None = None,
) -> BuildRecord:
    """The record of a plan (a dry run) or of the measured winner, without what both models say after a prompt."""
    inventory, target, limits = problem.inventory, problem.target, problem.limits
    plan = winner.allocation if winner is not None else plans[0]
    types = plan.types
    table = folding.table if folding is not None and plan.folded else problem.table
    file_bytes = winner.path.stat().st_size if winner is not None else problem.file_bytes(types)
    if finalists is not None and winner is not None:
        candidates = finalists.records(winner, plans)
    else:
        candidates = tuple(candidate_of(problem, p, chosen=p is plan) for p in plans)
    return BuildRecord(
        settings=request.settings(),
        dry_run=request.dry_run,
        versions=versions(),
        model={
            "name": inventory.display_name,
            "path": str(inventory.path),
            "architecture": inventory.architecture,
            "sha256": inventory.sha256,
            "file_bytes": inventory.file_bytes,
            "parameters": inventory.n_params,
            "tied_embedding": inventory.tied_embedding,
            "ctx": limits.ctx,
            "kv_type": limits.kv_type.name,
        },
        device=to_plain(target),
        calibration={
            "source": text.source,
            "windows": list(text.calibration.shape),
            "tokens_sha256": text.sha256,
            "evaluation": str(request.eval_text) if request.eval_text else f"held-out windows of: {text.source}",
            "seed": request.seed,
        },
        origin=plan.origin,
        limit=max(problem.usages(types, file_bytes), key=lambda usage: usage.share).limit,
        file_name=MODEL_FILE if winner is not None else None,
        file_bytes=file_bytes,
        file_sha256=file_sha256(winner.path) if winner is not None else None,
        bits_per_weight=8 * weight_bytes(inventory.tensors, types) / inventory.n_params,
        memory=memory_for(inventory, types, target, limits),
        predicted_decode_tok_s=1.0 / problem.seconds(types),
        predicted_kl=plan.predicted_kl,
        reference=finalists.reference if finalists is not None else None,
        evaluation=winner.evaluation if winner is not None else None,
        best_preset=_best_preset(problem, candidates, file_bytes),
        candidates=candidates,
        tensors=tuple(
            TensorRecord(
                name=t.name,
                role=t.role.value,
                shape=t.shape,
                type=types.get(t.name, t.source_type).name,
                size_bytes=types.get(t.name, t.source_type).row_bytes(t.n_cols) * t.n_rows,
                predicted_kl=table.kl.get(t.name, {}).get(types[t.name]) if t.quantizable else None,
                kept_reason=t.kept_reason,
                illegal_types={k.name: v for k, v in problem.legal[t.name].illegal.items()} if t.quantizable else {},
            )
            for t in inventory.tensors
        ),
        continuation=None,
        warnings=tuple(events.warnings),
        stage_seconds=dict(events.stage_seconds),
        folding=None if folding is None else folding_record(request.folding.value, folding, candidates),
    )
