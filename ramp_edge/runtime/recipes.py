"""Which recipe makes the tools for a board: the one that uses the most of what the board has and needs nothing else."""

from __future__ import annotations

import difflib
import platform
from collections.abc import Collection

from ramp_edge.errors import RuntimeToolError
from ramp_edge.runtime.manifest import HOST_RECIPE, BuiltOn, Recipe, RuntimeManifest, load_manifest


def recipe_for(
    *,
    isa: Collection[str],
    backend: str,
    system: str | None = None,
    machine: str | None = None,
    manifest: RuntimeManifest | None = None,
) -> Recipe:
    """The most capable recipe that runs on a board.

    `isa` and `backend` are a device profile's; `system` and `machine` are `uname -s` and `uname -m` of the board, None where
    only its profile is known. Raises RuntimeToolError naming what the board has and what each recipe needs.
    """
    recipes = (manifest or load_manifest()).recipes
    having = frozenset(word.lower() for word in isa)
    fitting = [r for r in recipes if _runs_on(r, having, backend, system, machine)]
    if not fitting:
        has = f"{_place(system, (machine,) if machine else ())}, backend {backend}, {', '.join(sorted(having)) or 'no isa'}"
        needs = "".join(f"\n  {r.name}: {needs_of(r)}" for r in recipes)
        raise RuntimeToolError(
            f"no recipe makes llama.cpp's tools for this board; it has: {has}; the recipes need:{needs}",
            hint="give the instruction sets in the profile's processor.isa as `ramp-edge devices show` lists them; a 64-bit "
            "system is needed; docs/runtimes.md says how to add a recipe",
        )
    # Of two that use as much, the later one: they are listed from plain to special.
    return max(enumerate(fitting), key=lambda item: (len(item[1].isa), item[0]))[1]


def recipe_named(name: str, manifest: RuntimeManifest | None = None) -> Recipe:
    """The recipe of that name, `host` included. Raises RuntimeToolError naming those that exist."""
    manifest = manifest or load_manifest()
    known = {recipe.name: recipe for recipe in (host_recipe(manifest), *manifest.recipes)}
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name.lower(), known, n=1)
    raise RuntimeToolError(
        f"no recipe is called {name!r}: there is {', '.join(known)}",
        hint=f"did you mean {near[0]}?" if near else "ramp-edge runtime list shows which boards each is for",
    )


def host_recipe(manifest: RuntimeManifest) -> Recipe:
    """This machine's own tools, as the recipe that `build` in the manifest is."""
    return Recipe(
        name=HOST_RECIPE,
        boards="This machine",
        system=None,
        machines=(platform.machine(),),
        backend="cpu",
        built_on=BuiltOn.HOST,
        flags=manifest.build.flags,
        tools=manifest.build.tools,
    )


def needs_of(recipe: Recipe) -> str:
    """For people: what a board must have."""
    return f"{_place(recipe.system, recipe.machines)}, backend {recipe.backend}, {', '.join(recipe.isa)}"


def _runs_on(recipe: Recipe, isa: frozenset[str], backend: str, system: str | None, machine: str | None) -> bool:
    return (
        recipe.backend == backend
        and (system is None or recipe.system == system.lower())
        and (machine is None or machine.lower() in recipe.machines)
        and isa.issuperset(recipe.isa)
    )


def _place(system: str | None, machines: tuple[str, ...]) -> str:
    return f"{system or 'any system'} on {' or '.join(machines) or 'any machine'}"
