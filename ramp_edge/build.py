"""`ramp-edge build`, readable as its steps: target, model, limits, calibration, candidates, GGUF, evaluation, record.

Every step hands the next a frozen record. Expensive results are cached by content (calibration) or kept in the output's
hidden work folder (candidates), so that a build that was stopped goes on where it was with `--resume`.
"""

from __future__ import annotations

import contextlib
import dataclasses
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ramp_edge import __version__
from ramp_edge.allocate.policy import Policy, load_policy
from ramp_edge.emit.layout import MetadataItem
from ramp_edge.emit.write import output_error, require_space
from ramp_edge.events import EventBus
from ramp_edge.model.gguf_file import GgufTensors, check_finite, file_sha256
from ramp_edge.pipeline.budget import check_feasible, legal_choices, resolve_limits
from ramp_edge.pipeline.calibration import calibrate, prepare_text
from ramp_edge.pipeline.candidates import Allocator, Problem, by_prediction, knapsack, propose, uniform
from ramp_edge.pipeline.emission import Emitter
from ramp_edge.pipeline.features import policy_features
from ramp_edge.pipeline.finalists import Finalist, Finalists, continuation_of, presets_allocator
from ramp_edge.pipeline.folded_model import folded_emitter, search_folds
from ramp_edge.pipeline.model_source import find_model, open_model
from ramp_edge.pipeline.output_folder import (
    MODEL_FILE,
    PARTIAL_RECORD_FILE,
    RECORD_FILE,
    check_inputs,
    check_output,
    check_replaced,
    claimed,
)
from ramp_edge.pipeline.policy import foreseen_table, ramp_allocator
from ramp_edge.pipeline.record import BuildRecord, record_json, to_plain, versions
from ramp_edge.pipeline.recording import build_record
from ramp_edge.pipeline.report import draw_beside, retire_report
from ramp_edge.pipeline.request import EFFORTS, AllocatorChoice, BuildRequest
from ramp_edge.pipeline.texts import cut_texts, read_texts
from ramp_edge.pipeline.tuning import Tuning
from ramp_edge.pipeline.verification import verify_file, verify_stock_file
from ramp_edge.pipeline.workspace import Workspace
from ramp_edge.profile.load import load_target
from ramp_edge.records import Allocation, DeviceTarget, ModelFeatures
from ramp_edge.threads import default_threads


def build(request: BuildRequest, events: EventBus) -> BuildRecord:
    """Compile the model for the device. Raises RampEdgeError subclasses; nothing half-written stays behind."""
    threads = request.threads or default_threads()
    with ThreadPoolExecutor(threads) as pool, contextlib.ExitStack() as held:
        # 1. Device, model and the folder for the result
        target = load_target(request.device)
        check_output(request.output)
        texts = read_texts(request)
        # A file that is none is told before anything expensive.
        policy = None if request.policy_file is None else load_policy(request.policy_file)
        path = find_model(request.model, events)
        check_inputs(request.output, _inputs(request, path, target))
        check_replaced(request.output)
        if not request.dry_run:
            held.enter_context(claimed(request.output))
        source = open_model(path, events, allow_requantize=request.allow_requantize)
        inventory, tensors = source.inventory, source.tensors

        # 2. Limits and texts, checked before anything expensive
        limits = resolve_limits(request, inventory, target, events)
        legal = legal_choices(request, inventory, target, calibrated=True)
        header_bytes = inventory.file_bytes - sum(t.source_bytes for t in inventory.tensors)
        check_feasible(inventory, target, limits, legal, header_bytes)
        given = cut_texts(request, texts, inventory, events)
        check_finite(tensors, inventory, events)

        # 3. Text, moments, then what every type costs every tensor: from Fisher samples, or for the policy from forward passes
        effort = EFFORTS[request.effort]
        text = prepare_text(request, inventory, given, threads, events)
        calibrated = calibrate(
            request, source, legal, text, target.backend, pool, events, table_wanted=request.allocating is not AllocatorChoice.RAMP
        )  # fmt: skip
        features = (
            policy_features(source, calibrated.store, legal, target.backend, effort.search, pool, events)
            if request.allocating.asks_policy
            else None
        )

        # 4. Candidates inside the limits
        emitter = Emitter(inventory, tensors, calibrated.moments, pool, events, effort.search)
        metadata = _own_metadata(target)
        problem = Problem(
            inventory=inventory,
            target=target,
            limits=limits,
            legal=legal,
            table=foreseen_table(features, inventory, policy)
            if features and request.allocating is AllocatorChoice.RAMP
            else calibrated.table,
            file_bytes=lambda types: emitter.layout(types, metadata).file_bytes,
        )
        allocators = _allocators(request, features, policy)
        plans = propose(problem, allocators)

        # 5. Exact changes of the model that lower the predicted KL, and the candidates that they allow
        emitters = {False: emitter}
        fingerprint = request.fingerprint(
            inventory.sha256, text.sha256, str(to_plain(target)), str(sorted(versions().items())),
            "" if policy is None else file_sha256(policy.path),
        )  # fmt: skip
        workspace = (
            None
            if request.dry_run
            else Workspace(request.output, fingerprint, request.settings(), resume=request.resume)
        )
        folding = search_folds(problem, tensors, calibrated, request.folding, effort.search, events, workspace)
        if folding is not None and folding.plan.changes_anything:
            emitters[True] = folded_emitter(emitter, tensors, calibrated.moments, folding)
            plans = _both_kinds(plans, propose(dataclasses.replace(problem, table=folding.table), allocators))
        if workspace is None:  # a dry run
            return build_record(request, problem, text, plans, events, folding)

        # 6. Changes of the best plan, measured where that is asked for; quantize, measure, choose
        n_files = min(len(plans), effort.measured_candidates + 1) + effort.stock_presets
        require_space(workspace.folder, n_files * problem.file_bytes(plans[0].types))
        plans, tuning = Tuning(
            dataclasses.replace(problem, table=folding.table) if folding is not None and plans[0].folded else problem,
            emitters[plans[0].folded],
            tensors,
            text,
            metadata,
            workspace,
            threads,
            events,
        ).improve(plans, request.tune)
        finalists = Finalists(
            request, problem, text, tensors, emitters, calibrated, workspace, metadata, threads, events
        )
        winner = finalists.choose(plans)

        # 7. Verify, let both models speak, move into place
        _verify(winner, tensors, limits.max_file_bytes, events)
        sample = continuation_of(inventory.path, winner.path, request.seed, threads, events)
        record = build_record(request, problem, text, plans, events, folding, winner=winner, finalists=finalists)
        record = dataclasses.replace(
            record,
            continuation=sample,
            stage_seconds=dict(events.stage_seconds),
            tuning=tuning,
        )
        _publish(request.output, winner.path, record)
        workspace.remove()
        draw_beside(request.output / RECORD_FILE, events)
        return record


def _verify(winner: Finalist, tensors: GgufTensors, max_file_bytes: int | None, events: EventBus) -> None:
    """The file against what was planned, whoever wrote it."""
    if winner.layout is not None:
        verify_file(winner.path, winner.layout, tensors, max_file_bytes, events)
    else:
        verify_stock_file(winner.path, winner.allocation.types, max_file_bytes, events)


def _both_kinds(plain: list[Allocation], folded: list[Allocation]) -> list[Allocation]:
    """The best plan of either kind first: measured side by side, they say what folding is worth."""
    marked = [dataclasses.replace(plan, folded=True) for plan in folded]
    return [marked[0], plain[0], *sorted([*marked[1:], *plain[1:]], key=by_prediction)]


def _allocators(request: BuildRequest, features: ModelFeatures | None, policy: Policy | None) -> tuple[Allocator, ...]:
    """Who proposes plans."""
    if request.allocating is AllocatorChoice.PRESET:
        return (presets_allocator,)
    usual = (knapsack, presets_allocator, uniform)
    if features is None:
        return usual
    ramp = ramp_allocator(features, policy)
    return (ramp,) if request.allocating is AllocatorChoice.RAMP else (*usual, ramp)


def _inputs(request: BuildRequest, model: Path, target: DeviceTarget) -> list[tuple[str, Path]]:
    texts = [("--calibration", path) for path in request.calibration]
    if request.eval_text is not None:
        texts.append(("--eval-text", request.eval_text))
    if request.policy_file is not None:
        texts.append(("--policy", request.policy_file))
    return [("the model", model), ("the profile", target.profile_path), *texts]


def _own_metadata(target: DeviceTarget) -> dict[str, MetadataItem]:
    # Fixed widths: the size of a plan must not depend on who proposed it.
    return {
        "ramp_edge.version": __version__,
        "ramp_edge.device": target.name,
        "ramp_edge.allocation": "?" * 32,
        "ramp_edge.folded": 0,
    }


def _publish(output: Path, model: Path, record: BuildRecord) -> None:
    """Model and record appear under their names only when both are complete."""
    partial = output / PARTIAL_RECORD_FILE
    try:
        partial.write_text(record_json(record), encoding="utf-8")
        retire_report(output / RECORD_FILE)
        model.replace(output / MODEL_FILE)
        partial.replace(output / RECORD_FILE)
    except OSError as error:
        raise output_error(output, error) from error
    finally:
        partial.unlink(missing_ok=True)
