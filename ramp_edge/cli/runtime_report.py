"""What `ramp-edge runtime` shows: the state of the pinned llama.cpp and of every recipe, and how a recipe is built."""

from __future__ import annotations

import shlex
import shutil
from typing import Any

import typer

from ramp_edge.runtime.build import host_tools
from ramp_edge.runtime.built import build_folder, ready_runtime
from ramp_edge.runtime.commands import compile_command, configure_command, named_compilers
from ramp_edge.runtime.manifest import BuiltOn, Recipe, RuntimeManifest, load_manifest
from ramp_edge.runtime.on_target import target_build
from ramp_edge.runtime.recipes import needs_of
from ramp_edge.threads import default_threads
from ramp_edge.units import human_bytes

_FOLDER, _CORES = "/FOLDER", "CORES"
"""Stand for what only the board knows, in the plan of a recipe that is built there."""


def runtime_state(manifest: RuntimeManifest | None = None) -> dict[str, Any]:
    """What is pinned, and what of it is on this machine."""
    manifest = manifest or load_manifest()
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
        "recipes": [recipe_state(recipe, manifest) for recipe in manifest.recipes],
    }


def recipe_state(recipe: Recipe, manifest: RuntimeManifest) -> dict[str, Any]:
    """A recipe in full, and its tools where they are built here."""
    here = recipe.built_on is BuiltOn.HOST
    built = ready_runtime(recipe, manifest) if here else None
    tools = built.tools if built is not None else {}
    return {
        "recipe": recipe.name,
        "boards": recipe.boards,
        "system": recipe.system,
        "machines": list(recipe.machines),
        "backend": recipe.backend,
        "isa": list(recipe.isa),
        "built_on": recipe.built_on.value,
        "compiler_package": recipe.compiler.package if recipe.compiler else None,
        "needs": [{"command": need.command, "how": need.how} for need in recipe.needs],
        "flags": list(manifest.flags_of(recipe)),
        "commands": [list(command) for command in _commands(recipe, manifest)],
        "folder": str(build_folder(recipe, manifest) / "bin") if here else None,
        "built": built is not None,
        "size_bytes": built.size_bytes if built is not None else None,
        "tools": {
            name: {"size_bytes": tools[name].size_bytes, "sha256": tools[name].sha256} if name in tools else None
            for name in recipe.tools
        },
    }


def print_recipes(recipes: list[dict[str, Any]]) -> None:
    """A line for each recipe, and one for its boards."""
    width = max(len(recipe["recipe"]) for recipe in recipes)
    for recipe in recipes:
        typer.echo(f"  {recipe['recipe']:<{width}}  {_short_state(recipe)}")
        typer.echo(f"  {'':<{width}}  {recipe['boards']} ({', '.join((recipe['backend'], *recipe['isa']))})")


def print_plan(recipe: Recipe, manifest: RuntimeManifest) -> None:
    """What `runtime build` would do, line by line."""
    typer.echo(f"{recipe.name}: {recipe.boards}")
    typer.echo(f"  runs on   {needs_of(recipe)}")
    typer.echo(f"  built on  {'the board, at deploy' if recipe.built_on is BuiltOn.TARGET else 'this machine'}")
    if recipe.compiler is not None:
        command = f"{recipe.compiler.prefix}g++"
        missing = "" if shutil.which(command) else " (not here)"
        typer.echo(f"  compiler  {command}, Debian package {recipe.compiler.package}{missing}")
    for need in recipe.needs:
        typer.echo(f"  needs     {need.command} on the board: {need.how}")
    typer.echo(f"  tools     {', '.join(recipe.tools)}")
    typer.echo("  commands")
    for words in _commands(recipe, manifest):
        typer.echo(f"    {shlex.join(words)}")


def _commands(recipe: Recipe, manifest: RuntimeManifest) -> tuple[tuple[str, ...], ...]:
    if recipe.built_on is BuiltOn.TARGET:
        plan = target_build(recipe, archive=f"{_FOLDER}/source.tar.gz", folder=_FOLDER, jobs=_CORES, manifest=manifest)
        return plan.commands
    folder = str(build_folder(recipe, manifest))
    return (
        configure_command(
            recipe, manifest, source=str(manifest.source_folder), folder=folder, compilers=named_compilers(recipe)
        ),
        compile_command(recipe, folder=folder, jobs=default_threads()),
    )


def _short_state(recipe: dict[str, Any]) -> str:
    if recipe["built_on"] == BuiltOn.TARGET.value:
        return "the board builds it, at ramp-edge deploy"
    if not recipe["built"]:
        return f"not built: ramp-edge runtime build {recipe['recipe']}"
    return f"built, {len(recipe['tools'])} tools, {human_bytes(recipe['size_bytes'])}: {recipe['folder']}"
