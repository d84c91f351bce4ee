"""`ramp-edge deploy`: a build to one or several boards, back to the build before, or a check of what is there."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ramp_edge.cli.options import AcceptOption, BoardsOption, ConnectTimeoutOption, ProgressOption, TargetsFileOption
from ramp_edge.errors import RampEdgeError, UsageError

if TYPE_CHECKING:
    from ramp_edge.device.deploy import KeptRelease
    from ramp_edge.device.fleet import BoardOutcome
    from ramp_edge.device.release import LocalFile
    from ramp_edge.device.target import Target, TargetSpec
    from ramp_edge.events import EventBus
    from ramp_edge.records import DeviceTarget

DEPLOY_EXAMPLES = (
    "Examples:  ramp-edge deploy out --target pi@192.0.2.7  |  ramp-edge deploy out --target lab --target attic  |  "
    "ramp-edge deploy --target kitchen-pi --rollback"
)


def deploy_command(
    output: Annotated[
        Path | None, typer.Argument(help="A folder that `ramp-edge build` wrote.", metavar="OUT", show_default=False)
    ] = None,
    target: BoardsOption = None,
    runtime: Annotated[
        str,
        typer.Option(help="auto: with llama.cpp's programs for the board, built first where they are not; or none."),
    ] = "auto",
    rollback: Annotated[bool, typer.Option("--rollback", help="Switch back to the release before.")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Read everything on the board and compare hashes.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be sent; change nothing.")] = False,
    accept_new_host_key: AcceptOption = False,
    timeout_s: ConnectTimeoutOption = 15.0,
    targets_file: TargetsFileOption = None,
    progress: ProgressOption = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Send a build to boards over SSH: only what is not there, checked there, switched in one step, the release before kept."""
    work = _chosen_work(output, runtime, rollback=rollback, verify=verify, dry_run=dry_run)
    from ramp_edge.cli.progress import attached
    from ramp_edge.device.connect import ConnectOptions, connected
    from ramp_edge.device.fleet import on_all, raise_failures

    specs = chosen_targets(target, targets_file)
    options = ConnectOptions(timeout_s=timeout_s, accept_new_host_key=accept_new_host_key)

    def on_board(spec: TargetSpec, events: EventBus) -> dict[str, Any]:
        with connected(spec, options) as board:
            return work(board, events)

    with attached(progress) as events:
        outcomes = on_all(specs, on_board, events)
    if as_json:
        typer.echo(json.dumps({"targets": [outcome_record(outcome) for outcome in outcomes]}, indent=2))
    else:
        _show(outcomes)
    raise_failures(outcomes)


def chosen_targets(wanted: Sequence[str] | None, targets_file: Path | None) -> tuple[TargetSpec, ...]:
    """The boards that `--target` names. Raises UsageError where it names none, TargetsFileError."""
    from ramp_edge.device.targets_file import select_targets

    if not wanted:
        raise UsageError("no board is named", hint="--target kitchen-pi, --target user@host[:port] or --target all")
    if targets_file is not None and not targets_file.is_file():
        raise UsageError(f"--targets-file {targets_file} does not exist")
    return select_targets(wanted, targets_file)


def outcome_record(outcome: BoardOutcome[dict[str, Any]]) -> dict[str, Any]:
    """A board's part of the JSON."""
    record: dict[str, Any] = {
        "target": outcome.spec.name,
        "address": outcome.spec.address,
        "seconds": round(outcome.seconds, 3),
        "error": None if outcome.error is None else error_record(outcome.error),
    }
    return record | (outcome.value or {})


def error_record(error: RampEdgeError) -> dict[str, Any]:
    """An error as JSON."""
    return {
        "class": type(error).__name__,
        "exit_code": error.exit_code,
        "message": error.message,
        "hint": error.hint,
    }


def _chosen_work(
    output: Path | None, runtime: str, *, rollback: bool, verify: bool, dry_run: bool
) -> Callable[[Target, EventBus], dict[str, Any]]:
    """What is to be done on each board, with everything that can be checked here checked."""
    if rollback + verify + dry_run > 1:
        raise UsageError("--rollback, --verify and --dry-run cannot be combined")
    if rollback or verify:
        if output is not None:
            raise UsageError(
                f"--{'rollback' if rollback else 'verify'} is about what is on the board: leave {output} out"
            )
        return _rollback if rollback else _verify
    if output is None:
        raise UsageError("no build is named", hint="ramp-edge deploy OUT --target T")
    if runtime not in ("auto", "none"):
        raise UsageError(f"--runtime {runtime!r}: auto or none")
    from ramp_edge.pipeline.deployable import files_of_build

    files = files_of_build(output)

    def work(board: Target, events: EventBus) -> dict[str, Any]:
        device = _device_for(board, output) if runtime == "auto" else None
        return (_planned if dry_run else _deployed)(board, files, device, events)

    return work


def _device_for(board: Target, output: Path) -> DeviceTarget | None:
    """What decides the runtime: the board's own profile, else the one that it was built for; None where none is sent."""
    from ramp_edge.pipeline.deployable import device_of_build
    from ramp_edge.profile.load import load_target

    if board.spec.is_local and not board.spec.exec_prefix:
        # This machine has its own tools: ramp-edge runtime build --host.
        return None
    return load_target(board.spec.profile) if board.spec.profile is not None else device_of_build(output)


def _deployed(
    board: Target, files: Mapping[str, LocalFile], device: DeviceTarget | None, events: EventBus
) -> dict[str, Any]:
    from ramp_edge.device.deploy import deploy
    from ramp_edge.pipeline.board_runtime import board_runtime, build_on_board
    from ramp_edge.runtime.manifest import BuiltOn

    runtime = None if device is None else board_runtime(board, device, events)
    done = deploy(board, {**files, **({} if runtime is None else runtime.files)}, events)
    if runtime is not None and runtime.recipe.built_on is BuiltOn.TARGET:
        build_on_board(board, runtime.recipe, events)
    return {
        "runtime": None if runtime is None else runtime.recipe.name,
        "result": "already there" if done.was_current and not done.sent_bytes else "deployed",
        "release": done.release.id,
        "folder": done.folder,
        "sent_bytes": done.sent_bytes,
        "there_bytes": done.there_bytes,
    }


def _planned(
    board: Target, files: Mapping[str, LocalFile], device: DeviceTarget | None, events: EventBus
) -> dict[str, Any]:
    from ramp_edge.device.deploy_plan import plan_deploy
    from ramp_edge.pipeline.board_runtime import board_recipe, runtime_files
    from ramp_edge.runtime.built import ready_runtime

    recipe = None if device is None else board_recipe(board, device)
    built = None if recipe is None else ready_runtime(recipe)
    if recipe is not None and built is None:
        events.note(f"{board.spec.name}: the runtime {recipe.name} is not built yet and not counted")
    plan = plan_deploy(board, {**files, **({} if built is None else runtime_files(built))})
    return {
        "runtime": None if recipe is None else recipe.name,
        "result": "already there" if plan.is_current and not plan.send_bytes else "would be deployed",
        "release": plan.release.id,
        "folder": plan.root,
        "sent_bytes": plan.send_bytes,
        "there_bytes": plan.there_bytes,
        "free_bytes": plan.free_bytes,
    }


def _rollback(board: Target, _: EventBus) -> dict[str, Any]:
    from ramp_edge.device.deploy import rollback

    return {"result": "rolled back", **_kept(rollback(board))}


def _verify(board: Target, events: EventBus) -> dict[str, Any]:
    from ramp_edge.device.deploy import verify

    kept = verify(board, events)
    current = next((item for item in kept if item.is_current), None)
    facts = _kept(current) if current is not None else {}
    return {"result": f"whole: {len(kept)} release{'s' if len(kept) != 1 else ''}", **facts}


def _kept(kept: KeptRelease) -> dict[str, Any]:
    return {"release": kept.release.id, "folder": kept.folder, "there_bytes": kept.release.size_bytes}


def _show(outcomes: Sequence[BoardOutcome[dict[str, Any]]]) -> None:
    from ramp_edge.cli.tables import make_table, show
    from ramp_edge.units import human_bytes, human_seconds

    def size(facts: Mapping[str, Any], key: str) -> str:
        return human_bytes(facts[key]) if facts.get(key) is not None else ""

    shown = [outcome for outcome in outcomes if outcome.value is not None]
    if not shown:
        return
    planned = any("free_bytes" in (outcome.value or {}) for outcome in shown)
    table = make_table(
        "Board",
        "Result",
        "Runtime",
        "To send" if planned else "Sent",
        "There already",
        *(["Free"] if planned else ["Time"]),
        "Folder",
    )
    for outcome in outcomes:
        facts = outcome.value
        if facts is None:
            table.add_row(
                outcome.spec.name, "failed", "", "", "", "" if planned else human_seconds(outcome.seconds), ""
            )
            continue
        last = size(facts, "free_bytes") if planned else human_seconds(outcome.seconds)
        folder = facts.get("folder", "")
        table.add_row(
            outcome.spec.name,
            facts["result"],
            facts.get("runtime") or "",
            size(facts, "sent_bytes"),
            size(facts, "there_bytes"),
            last,
            folder,
        )
    show(table)
