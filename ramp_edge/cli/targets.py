"""`ramp-edge targets`: the user's boards, and whether they answer."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ramp_edge.cli.options import AcceptOption, ConnectTimeoutOption, TargetsFileOption

if TYPE_CHECKING:
    from ramp_edge.device.target import Target, TargetSpec
    from ramp_edge.events import EventBus

app = typer.Typer(
    help="Your boards, as targets.yaml names them: list them, see which answer.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    epilog="Examples:  ramp-edge targets list  |  ramp-edge targets check  |  ramp-edge targets check pi@192.0.2.7",
)
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
_ANSWER_S = 30.0


@app.command("list", epilog="Example:  ramp-edge targets list")
def list_targets(targets_file: TargetsFileOption = None, as_json: JsonOption = False) -> None:
    """List the boards of targets.yaml: address, profile, tags and folder."""
    from ramp_edge.cli.tables import make_table, show
    from ramp_edge.device.targets_file import EXAMPLE, read_targets, targets_path

    path = targets_file or targets_path()
    specs = tuple(read_targets(path).values())
    if as_json:
        typer.echo(json.dumps({"file": str(path), "targets": [_spec_record(spec) for spec in specs]}, indent=2))
        return
    if not specs:
        typer.echo(f"{path} names no board yet. For example:\n\n{EXAMPLE}", nl=False)
        return
    table = make_table("Board", "Address", "Profile", "Tags", "Folder")
    for spec in specs:
        table.add_row(spec.name, spec.address, spec.profile or "", ", ".join(spec.tags), spec.folder)
    show(table)


@app.command("check", epilog="Examples:  ramp-edge targets check  |  ramp-edge targets check lab --timeout 5")
def check_targets(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Boards, tags or addresses; default all.", metavar="TARGET", show_default=False),
    ] = None,
    accept_new_host_key: AcceptOption = False,
    timeout_s: ConnectTimeoutOption = 15.0,
    targets_file: TargetsFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Connect to each board: does it answer, what machine it is, free space, what is deployed there."""
    from ramp_edge.cli.deploy import chosen_targets, outcome_record
    from ramp_edge.cli.tables import make_table, show
    from ramp_edge.device.connect import ConnectOptions, connected
    from ramp_edge.device.fleet import on_all, raise_failures
    from ramp_edge.events import EventBus
    from ramp_edge.units import human_bytes

    options = ConnectOptions(timeout_s=timeout_s, accept_new_host_key=accept_new_host_key)

    def look(spec: TargetSpec, _: EventBus) -> dict[str, Any]:
        with connected(spec, options) as board:
            return _facts(board)

    outcomes = on_all(chosen_targets(names or ["all"], targets_file), look, EventBus())
    if as_json:
        typer.echo(json.dumps({"targets": [outcome_record(outcome) for outcome in outcomes]}, indent=2))
    else:
        table = make_table("Board", "Address", "Answers", "Machine", "Free space", "Release")
        for outcome in outcomes:
            facts = outcome.value or {"machine": "", "free_bytes": None, "release": None}
            free = human_bytes(facts["free_bytes"]) if facts["free_bytes"] is not None else ""
            answers = "yes" if outcome.error is None else "no"
            table.add_row(
                outcome.spec.name, outcome.spec.address, answers, facts["machine"], free, facts["release"] or ""
            )
        show(table)
    raise_failures(outcomes)


def _facts(board: Target) -> dict[str, Any]:
    from ramp_edge.device.store import BoardStore
    from ramp_edge.device.target import printable

    machine = board.run(["uname", "-sm"], timeout_s=_ANSWER_S)
    store = BoardStore(board)
    return {
        "machine": printable(machine.stdout, 60) if machine.exit_code == 0 else "",
        "home": board.files.home,
        "folder": store.root,
        "free_bytes": board.files.free_bytes(board.files.home),
        "release": store.linked(store.current),
    }


def _spec_record(spec: TargetSpec) -> dict[str, Any]:
    return {
        "target": spec.name,
        "address": spec.address,
        "profile": spec.profile,
        "tags": list(spec.tags),
        "folder": spec.folder,
        "exec_prefix": list(spec.exec_prefix),
        "identity_file": None if spec.identity_file is None else str(spec.identity_file),
        "python": spec.python,
    }
