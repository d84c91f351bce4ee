"""`ramp-edge runtime`: the pinned llama.cpp, its source for conversion and its tools for this machine and for boards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ramp_edge.cli.options import ProgressOption
from ramp_edge.errors import RuntimeToolError, UsageError

if TYPE_CHECKING:
    from ramp_edge.runtime.manifest import Recipe

app = typer.Typer(
    help="The pinned llama.cpp: fetch its source (needed for Hugging Face models), build its tools for this machine and for boards.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    epilog="Examples:  ramp-edge runtime list  |  ramp-edge runtime fetch  |  ramp-edge runtime build --for raspberry-pi-5",
)
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
SdistOption = Annotated[
    Path | None,
    typer.Option(help="Use this copy of the sdist instead of PyPI.", envvar="RAMP_EDGE_SDIST", show_default=False),
]


@app.command("list", epilog="Example:  ramp-edge runtime list --json")
def list_runtimes(
    check: Annotated[bool, typer.Option("--check", help="Compare what is built with its hashes as well.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show the pinned version, and every recipe: for which boards, where it is built, and whether it is."""
    from ramp_edge.cli.runtime_report import print_recipes, runtime_state
    from ramp_edge.runtime.built import altered_tools, ready_runtime
    from ramp_edge.runtime.manifest import load_manifest
    from ramp_edge.runtime.recipes import host_recipe

    manifest = load_manifest()
    record = runtime_state(manifest)
    if as_json:
        typer.echo(json.dumps(record, indent=2))
    else:
        typer.echo(f"{record['package']} {record['version']} (llama.cpp {record['commit']})")
        typer.echo(f"  archive  {record['sdist']}, {record['sdist_bytes']} bytes, sha256 {record['sha256']}")
        typer.echo(f"  source   {record['source'] or 'not fetched: ramp-edge runtime fetch'}")
        typer.echo(f"  tools    {record['tools'] or 'not built: ramp-edge runtime build --host'}\n")
        print_recipes(record["recipes"])
    if check:
        built = [b for r in (host_recipe(manifest), *manifest.recipes) if (b := ready_runtime(r, manifest))]
        altered = [str(b.tools[name].path) for b in built for name in altered_tools(b)]
        if altered:
            raise RuntimeToolError(
                f"changed since they were built: {', '.join(altered)}",
                hint="delete them; ramp-edge runtime build makes them again",
            )


@app.command("fetch", epilog="Example:  ramp-edge runtime fetch --sdist llama_cpp_python-0.3.36.tar.gz")
def fetch_runtime(sdist: SdistOption = None, as_json: JsonOption = False, progress: ProgressOption = "auto") -> None:
    """Fetch llama.cpp's source from PyPI, check its hash and unpack it; offline afterwards."""
    from ramp_edge.cli.progress import attached
    from ramp_edge.cli.runtime_report import runtime_state
    from ramp_edge.runtime.fetch import fetch_source

    with attached(progress) as events:
        folder = fetch_source(events, sdist)
    typer.echo(json.dumps(runtime_state(), indent=2) if as_json else str(folder))


@app.command(
    "build",
    epilog="Examples:  ramp-edge runtime build --host  |  ramp-edge runtime build --for raspberry-pi-5  |  "
    "ramp-edge runtime build aarch64-dotprod --dry-run",
)
def build_tools(
    recipe: Annotated[
        str | None, typer.Argument(help="A recipe that `runtime list` shows.", show_default=False)
    ] = None,
    host: Annotated[bool, typer.Option("--host", help="Build for this machine.")] = False,
    device: Annotated[
        str | None, typer.Option("--for", help="Build for the board of this device profile.", show_default=False)
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show flags and commands, build nothing.")] = False,
    sdist: SdistOption = None,
    as_json: JsonOption = False,
    progress: ProgressOption = "auto",
) -> None:
    """Build llama.cpp's tools for this machine or for a board (a few minutes; needs cmake and a C++ compiler).

    For this machine: llama-quantize, llama-imatrix, llama-perplexity and llama-bench. For a board: llama-bench,
    llama-perplexity and llama-completion, cross-compiled where needed; a board with a GPU builds them for itself at deploy.
    """
    from ramp_edge.cli.progress import attached
    from ramp_edge.cli.runtime_report import print_plan, recipe_state, runtime_state
    from ramp_edge.runtime.build import build_runtime
    from ramp_edge.runtime.manifest import BuiltOn, load_manifest

    manifest = load_manifest()
    chosen = _chosen_recipe(recipe, device, host=host)
    if dry_run:
        if as_json:
            typer.echo(json.dumps(recipe_state(chosen, manifest), indent=2))
        else:
            print_plan(chosen, manifest)
        return
    if chosen.built_on is BuiltOn.TARGET:
        state = recipe_state(chosen, manifest)
        text = f"{chosen.name} is built on the board itself, at `ramp-edge deploy`: there is nothing to do here"
        typer.echo(json.dumps(state, indent=2) if as_json else text)
        return
    with attached(progress) as events:
        built = build_runtime(chosen, events, sdist, manifest)
    if as_json:
        typer.echo(json.dumps(runtime_state(manifest) if host else recipe_state(chosen, manifest), indent=2))
    else:
        typer.echo(str(built.folder))


def _chosen_recipe(name: str | None, device: str | None, *, host: bool) -> Recipe:
    from ramp_edge.profile.load import load_target
    from ramp_edge.runtime.manifest import HOST_RECIPE
    from ramp_edge.runtime.recipes import recipe_for, recipe_named

    if (given := (name is not None) + (device is not None) + host) != 1:
        raise UsageError(
            "build for one thing at a time" if given else "nothing to build for",
            hint="ramp-edge runtime build --host builds for this machine, --for raspberry-pi-5 for that board; "
            "ramp-edge runtime list shows the recipes",
        )
    if device is not None:
        target = load_target(device)
        return recipe_for(isa=target.isa, backend=target.backend)
    return recipe_named(HOST_RECIPE if name is None else name)
