"""Build llama.cpp's tools from the fetched source, for this machine or for a board: once, and on from where it stopped."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ramp_edge.cache import cache_error, make_cache_folder
from ramp_edge.errors import RuntimeToolError
from ramp_edge.events import EventBus
from ramp_edge.runtime.built import BuiltRuntime, build_folder, ready_runtime, write_stamp
from ramp_edge.runtime.commands import Compilers, compile_command, configure_command, find_compilers
from ramp_edge.runtime.elf import read_elf
from ramp_edge.runtime.fetch import fetch_source
from ramp_edge.runtime.manifest import HOST_RECIPE, BuiltOn, Recipe, RuntimeManifest, load_manifest
from ramp_edge.runtime.recipes import host_recipe
from ramp_edge.threads import default_threads

try:
    import fcntl
except ImportError:  # no such lock on this system
    fcntl = None  # type: ignore[assignment]

_NINJA_STEP = re.compile(r"^\[(\d+)/(\d+)\]")
_MAKE_STEP = re.compile(r"^\[\s*(\d+)%\]")
_FOREIGN_VARIABLES = frozenset({"CC", "CXX", "CFLAGS", "CXXFLAGS", "CPPFLAGS", "LDFLAGS"})
"""They speak of this machine; the tools of a board are made by the recipe alone."""


def host_folder(manifest: RuntimeManifest) -> Path:
    """Build folder of this machine's tools; other flags get another one."""
    return build_folder(host_recipe(manifest), manifest)


def host_tools(manifest: RuntimeManifest) -> Path | None:
    """Folder of this machine's finished tools, or None where they are missing, unfinished or changed since."""
    built = ready_runtime(host_recipe(manifest), manifest)
    return built.folder if built is not None else None


def build_host_tools(events: EventBus, sdist: Path | None = None, manifest: RuntimeManifest | None = None) -> Path:
    """Folder with the manifest's tools for this machine; raises as `build_runtime` does."""
    manifest = manifest or load_manifest()
    return build_runtime(host_recipe(manifest), events, sdist, manifest).folder


def build_runtime(
    recipe: Recipe, events: EventBus, sdist: Path | None = None, manifest: RuntimeManifest | None = None
) -> BuiltRuntime:
    """The recipe's tools, from the cache where they are finished there.

    Raises RuntimeToolError with the compiler's own words, where a compiler is missing, or where the recipe is built on the
    board; CacheError where the cache takes nothing.
    """
    manifest = manifest or load_manifest()
    if recipe.built_on is BuiltOn.TARGET:
        raise RuntimeToolError(
            f"{recipe.name} is built on the board itself, not here",
            hint="ramp-edge deploy sends the source and builds it",
        )
    if (ready := ready_runtime(recipe, manifest)) is not None:
        return ready
    cmake = shutil.which("cmake")
    if cmake is None:
        raise RuntimeToolError(
            "cmake is not on the PATH", hint="pip install cmake ninja, or install them with the system"
        )
    compilers = find_compilers(recipe)
    source = fetch_source(events, sdist, manifest)
    folder = build_folder(recipe, manifest)
    make_cache_folder(folder)
    try:
        with _alone_in(folder, events):
            if (ready := ready_runtime(recipe, manifest)) is None:
                _configure_and_compile(recipe, manifest, cmake, compilers, source, events)
                _check_programs(recipe, folder)
                write_stamp(recipe, manifest)
                ready = ready_runtime(recipe, manifest)
    except OSError as error:
        raise cache_error(folder, error) from error
    if ready is None:
        raise RuntimeToolError(f"{folder / 'bin'} changed while it was built", hint="run the same command again")
    return ready


@contextmanager
def _alone_in(folder: Path, events: EventBus) -> Iterator[None]:
    """Wait for another process that builds in the same folder. The kernel ends the lock of one that died."""
    with (folder / "lock").open("w") as handle:
        if fcntl is not None:
            # OSError: a file system without locks.
            with contextlib.suppress(OSError):
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    events.note(f"another process builds in {folder}: waiting for it")
                    fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _configure_and_compile(
    recipe: Recipe,
    manifest: RuntimeManifest,
    cmake: str,
    compilers: Compilers | None,
    source: Path,
    events: EventBus,
) -> None:
    folder = build_folder(recipe, manifest)
    log = folder / "build.log"
    environment = dict(os.environ)
    if recipe.name != HOST_RECIPE:
        environment = {name: value for name, value in environment.items() if name not in _FOREIGN_VARIABLES}
    configure = configure_command(
        recipe,
        manifest,
        source=str(source),
        folder=str(folder),
        cmake=cmake,
        generator="Ninja" if shutil.which("ninja") else None,
        compilers=compilers,
    )
    build = compile_command(recipe, folder=str(folder), jobs=default_threads(), cmake=cmake)
    with log.open("w", encoding="utf-8") as stream:
        with events.stage(f"configure llama.cpp ({recipe.name})"):
            _run(configure, stream.write, log, environment)
        with events.stage(f"compile llama.cpp's tools ({recipe.name})", total=100, unit="%") as stage:
            done = 0

            def watch(line: str) -> None:
                nonlocal done
                stream.write(line)
                percent = compile_percent(line)
                if percent > done:
                    stage.advance(percent - done)
                    done = percent

            _run(build, watch, log, environment)


def _check_programs(recipe: Recipe, folder: Path) -> None:
    missing = [name for name in recipe.tools if not (folder / "bin" / name).is_file()]
    if missing:
        raise RuntimeToolError(
            f"the build left no {', '.join(missing)} in {folder / 'bin'}", hint=f"see {folder / 'build.log'}"
        )
    if recipe.system != "linux":
        return
    for name in recipe.tools:
        program = folder / "bin" / name
        facts = read_elf(program)
        if facts.machine not in recipe.machines or not facts.is_static:
            raise RuntimeToolError(
                f"{program} is a {'static' if facts.is_static else 'dynamic'} program for {facts.machine}; "
                f"{recipe.name} needs a static one for {recipe.machines[0]}",
                hint=f"the compiler is not the one that the recipe means, or ignores its flags: see {folder / 'build.log'}",
            )


def compile_percent(line: str) -> int:
    """How far a build is, by a line of its output; 0 where the line does not say."""
    if match := _NINJA_STEP.match(line):
        return 100 * int(match.group(1)) // max(1, int(match.group(2)))
    match = _MAKE_STEP.match(line)
    return int(match.group(1)) if match else 0


def _run(command: Sequence[str], each_line: Callable[[str], object], log: Path, environment: dict[str, str]) -> None:
    errors: list[str] = []
    try:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", env=environment
        )
    except OSError as error:
        raise RuntimeToolError(f"{command[0]} cannot be started: {error.strerror or error}") from error
    with process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                each_line(line)
                if "error" in line.lower() and not _NINJA_STEP.match(line):
                    errors.append(line.strip())
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        reason = errors[0] if errors else f"exit status {process.returncode}"
        raise RuntimeToolError(
            f"building llama.cpp's tools failed: {reason}",
            hint=f"the whole output is in {log}; a C++17 compiler and cmake 3.14 or later are needed",
        )
