"""The runtime that a board gets: built here and sent with the model, or sent as source and built on the board."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from dataclasses import dataclass

from ramp_edge.device.release import LocalFile
from ramp_edge.device.target import Target, printable
from ramp_edge.device.work_files import put_file, target_folder
from ramp_edge.errors import BoardToolError, DeadlineError
from ramp_edge.events import EventBus
from ramp_edge.pipeline.on_board import RUNTIMES, STAMP, built_tools
from ramp_edge.records import DeviceTarget
from ramp_edge.runtime.build import build_runtime, compile_percent
from ramp_edge.runtime.built import BuiltRuntime
from ramp_edge.runtime.manifest import BuiltOn, Recipe, RuntimeManifest, load_manifest
from ramp_edge.runtime.on_target import pack_source, target_build
from ramp_edge.runtime.recipes import recipe_for

ASK_TIMEOUT_S = 30.0
STEP_TIMEOUT_S = 600.0
SILENCE_TIMEOUT_S = 1800.0
"""One CUDA file can take a small board many minutes, and says nothing meanwhile."""
_LAST_LINES = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class BoardRuntime:
    """llama.cpp's programs for one board."""

    recipe: Recipe
    files: dict[str, LocalFile]
    """Name on the board -> file here; empty where the board builds them itself."""


def board_recipe(target: Target, device: DeviceTarget, manifest: RuntimeManifest | None = None) -> Recipe:
    """The recipe for this board: what its profile promises, on the system and machine that it says it is.

    Behind an `exec_prefix` (an emulator, a container) the profile alone decides. Raises RuntimeToolError.
    """
    system = machine = None
    if not target.spec.exec_prefix:
        system, machine = (_said(target, ["uname", flag]) for flag in ("-s", "-m"))
    return recipe_for(isa=device.isa, backend=device.backend, system=system, machine=machine, manifest=manifest)


def board_runtime(
    target: Target, device: DeviceTarget, events: EventBus, manifest: RuntimeManifest | None = None
) -> BoardRuntime:
    """The programs, built now where they are not in the cache. Raises RuntimeToolError, CacheError."""
    manifest = manifest or load_manifest()
    recipe = board_recipe(target, device, manifest)
    if recipe.built_on is BuiltOn.TARGET:
        return BoardRuntime(recipe=recipe, files={})
    # Several boards may want the same recipe at the same time: the build waits for itself.
    return BoardRuntime(recipe=recipe, files=runtime_files(build_runtime(recipe, events, manifest=manifest)))


def runtime_files(built: BuiltRuntime) -> dict[str, LocalFile]:
    """The finished programs by the names that they have on the board."""
    return {
        f"bin/{name}": LocalFile(path=tool.path, size_bytes=tool.size_bytes, sha256=tool.sha256, executable=True)
        for name, tool in built.tools.items()
    }


def build_on_board(target: Target, recipe: Recipe, events: EventBus, manifest: RuntimeManifest | None = None) -> str:
    """Folder of the programs on the board, built there from the source unless they are there already.

    Raises BoardToolError with the compiler's last words, DeadlineError, ConnectionFailedError, BoardStorageError.
    """
    manifest = manifest or load_manifest()
    archive = pack_source(recipe, events, manifest=manifest)
    key = f"{recipe.name}-{archive.sha256[:12]}"
    folder = posixpath.join(target_folder(target), RUNTIMES, key)
    stamp = posixpath.join(folder, STAMP)
    if target.files.facts(stamp) is None:
        _check_needs(target, recipe)
        place = put_file(target, archive.path.read_bytes(), "source", ".tar.gz")
        jobs = _said(target, ["getconf", "_NPROCESSORS_ONLN"])
        build = target_build(
            recipe, archive=place, folder=folder, jobs=jobs if jobs.isdigit() else 1, manifest=manifest
        )
        target.files.make_folder(folder)
        *steps, compile_step = build.commands
        with events.stage(f"configure llama.cpp on {target.spec.name}"):
            for step in steps:
                done = target.run(step, timeout_s=STEP_TIMEOUT_S)
                if done.exit_code:
                    raise _failed(target, step, done.error_text)
        _compile(target, compile_step, events)
        marked = target.run(["touch", stamp], timeout_s=ASK_TIMEOUT_S)
        if marked.exit_code:
            raise _failed(target, ("touch", stamp), marked.error_text)
    tools = built_tools(folder)
    missing = [name for name in recipe.tools if target.files.facts(posixpath.join(tools, name)) is None]
    if missing:
        target.files.remove(stamp)
        raise BoardToolError(
            f"{target.spec.name}: no {' and no '.join(missing)} in {folder}",
            hint="run the same command again: it builds them",
        )
    return tools


def _check_needs(target: Target, recipe: Recipe) -> None:
    """Before anything is unpacked: half an hour later is too late to learn that nvcc is missing."""
    missing = []
    for need in recipe.needs:
        if target.run(["sh", "-c", 'command -v "$1"', "sh", need.command], timeout_s=ASK_TIMEOUT_S).exit_code:
            missing.append(need)
    if missing:
        raise BoardToolError(
            f"{target.spec.name}: {recipe.name} is built on the board, which has no {', no '.join(n.command for n in missing)}",
            hint="; ".join(f"{need.command}: {need.how}" for need in missing),
        )


def _compile(target: Target, command: Sequence[str], events: EventBus) -> None:
    last: list[str] = []
    with (
        events.stage(f"compile llama.cpp on {target.spec.name}", total=100, unit="%") as stage,
        target.start(["sh", "-c", 'exec "$@" 2>&1', "sh", *command]) as running,
    ):
        done = 0
        try:
            while (line := running.read_line(SILENCE_TIMEOUT_S)) is not None:
                text = printable(line)
                last = [*last[1 - _LAST_LINES :], text]
                percent = compile_percent(text)
                if percent > done:
                    stage.advance(percent - done)
                    done = percent
        except DeadlineError:
            said = f"compiling on {target.spec.name} said nothing for {SILENCE_TIMEOUT_S:.0f} s"
            raise DeadlineError(said, hint="the same command goes on where it stopped") from None
        result = running.result(ASK_TIMEOUT_S)
    if result.exit_code:
        raise _failed(target, command, "\n  ".join(["", *last]))


def _failed(target: Target, command: Sequence[str], said: str) -> BoardToolError:
    return BoardToolError(
        f"{target.spec.name}: {command[0]} failed: {said}",
        hint="cmake 3.14 or later, a C++17 compiler and, for CUDA, nvcc are needed on the board; the same command goes on "
        "where it stopped",
    )


def _said(target: Target, argv: Sequence[str]) -> str:
    return target.run(argv, timeout_s=ASK_TIMEOUT_S).stdout.decode("ascii", "replace").strip()
