"""`ramp-edge runtime`: the pinned llama.cpp, its source for conversion and its tools for this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ramp_edge.errors import UsageError

app = typer.Typer(
    help="The pinned llama.cpp: fetch its source (needed for Hugging Face models), build its tools.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    epilog="Examples:  ramp-edge runtime list  |  ramp-edge runtime fetch  |  ramp-edge runtime build --host",
)
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
SdistOption = Annotated[
    Path | None,
    typer.Option(help="Use this copy of the sdist instead of PyPI.", envvar="RAMP_EDGE_SDIST", show_default=False),
]
ProgressOption = Annotated[str, typer.Option(help="auto, plain or off (on stderr).", envvar="RAMP_EDGE_PROGRESS")]


@app.command("list", epilog="Example:  ramp-edge runtime list --json")
def list_runtimes(as_json: JsonOption = False) -> None:
    """Show the pinned version, and what of it is on this machine."""
    record = _state()
    if as_json:
        typer.echo(json.dumps(record, indent=2))
        return
    typer.echo(f"{record['package']} {record['version']} (llama.cpp {record['commit']})")
    typer.echo(f"  archive  {record['sdist']}, {record['sdist_bytes']} bytes, sha256 {record['sha256']}")
    typer.echo(f"  source   {record['source'] or 'not fetched: ramp-edge runtime fetch'}")
    typer.echo(f"  tools    {record['tools'] or 'not built: ramp-edge runtime build --host'}")


@app.command("fetch", epilog="Example:  ramp-edge runtime fetch --sdist llama_cpp_python-0.3.36.tar.gz")
def fetch_runtime(sdist: SdistOption = None, as_json: JsonOption = False, progress: ProgressOption = "auto") -> None:
    """Fetch llama.cpp's source from PyPI, check its hash and unpack it; offline afterwards."""
    from ramp_edge.cli.progress import attached
    from ramp_edge.runtime.fetch import fetch_source

    with attached(progress) as events:
        folder = fetch_source(events, sdist)
    typer.echo(json.dumps(_state(), indent=2) if as_json else str(folder))


@app.command("build", epilog="Example:  ramp-edge runtime build --host")
def build_runtime(
    host: Annotated[bool, typer.Option("--host", help="Build for this machine.")] = False,
    sdist: SdistOption = None,
    as_json: JsonOption = False,
    progress: ProgressOption = "auto",
) -> None:
    """Build llama-quantize, llama-imatrix, llama-perplexity and llama-bench (a few minutes; needs cmake and C++)."""
    from ramp_edge.cli.progress import attached
    from ramp_edge.runtime.build import build_host_tools

    if not host:
        raise UsageError("nothing to build for", hint="ramp-edge runtime build --host builds for this machine")
    with attached(progress) as events:
        folder = build_host_tools(events, sdist)
    typer.echo(json.dumps(_state(), indent=2) if as_json else str(folder))


def _state() -> dict[str, Any]:
    from ramp_edge.runtime.build import host_tools
    from ramp_edge.runtime.manifest import load_manifest

    manifest = load_manifest()
    tools = host_tools(manifest)
    return {
        "package": manifest.package,
        "version": manifest.version,
        "commit": manifest.llama_cpp.commit,
        "sdist": manifest.sdist.file,
        "sdist_bytes": manifest.sdist.size_bytes,
        "sha256": manifest.sdist.sha256,
        "source": str(manifest.source_folder) if manifest.source_folder.is_dir() else None,
        "tools": str(tools) if tools is not None else None,
    }
