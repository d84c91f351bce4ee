"""Build llama.cpp's own tools for this machine from the fetched source, once; a stopped build goes on where it was."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

from ramp_edge.cache import cache_error, cached_file, make_cache_folder
from ramp_edge.errors import RuntimeToolError
from ramp_edge.events import EventBus
from ramp_edge.runtime.fetch import fetch_source
from ramp_edge.runtime.manifest import RuntimeManifest, load_manifest

_NINJA_STEP = re.compile(r"^\[(\d+)/(\d+)\]")
_MAKE_STEP = re.compile(r"^\[\s*(\d+)%\]")
_STAMP = "built.json"


def host_folder(manifest: RuntimeManifest) -> Path:
    """Build folder of these flags; other flags get another one."""
    key = hashlib.sha256("\n".join(manifest.build.flags).encode()).hexdigest()[:8]
    return manifest.folder / f"host-{key}"


def host_tools(manifest: RuntimeManifest) -> Path | None:
    """Folder of the finished tools, or None where they are missing, unfinished or changed since."""
    folder = host_folder(manifest)
    try:
        stamp = json.loads((folder / _STAMP).read_text(encoding="utf-8"))
        built = {name: (folder / "bin" / name).stat().st_size for name in manifest.build.tools}
    except (OSError, ValueError):
        return None
    return folder / "bin" if stamp == built else None


def build_host_tools(events: EventBus, sdist: Path | None = None, manifest: RuntimeManifest | None = None) -> Path:
    """Folder with the manifest's tools for this machine.

    Raises RuntimeToolError with the compiler's own words, or CacheError where the cache takes nothing.
    """
    manifest = manifest or load_manifest()
    if (ready := host_tools(manifest)) is not None:
        return ready
    cmake = shutil.which("cmake")
    if cmake is None:
        raise RuntimeToolError(
            "cmake is not on the PATH", hint="pip install cmake ninja, or install them with the system"
        )
    source = fetch_source(events, sdist, manifest)
    folder = host_folder(manifest)
    make_cache_folder(folder)
    try:
        _configure_and_compile(cmake, source, folder, manifest, events)
    except OSError as error:
        raise cache_error(folder, error) from error
    missing = [name for name in manifest.build.tools if not (folder / "bin" / name).is_file()]
    if missing:
        raise RuntimeToolError(
            f"the build left no {', '.join(missing)} in {folder / 'bin'}", hint=f"see {folder / 'build.log'}"
        )
    built = {name: (folder / "bin" / name).stat().st_size for name in manifest.build.tools}
    with cached_file(folder / _STAMP) as stamp:
        stamp.write(json.dumps(built).encode("utf-8"))
    return folder / "bin"


def _configure_and_compile(cmake: str, source: Path, folder: Path, manifest: RuntimeManifest, events: EventBus) -> None:
    log = folder / "build.log"
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    with log.open("w", encoding="utf-8") as stream:
        with events.stage("configure llama.cpp"):
            _run([cmake, "-S", str(source), "-B", str(folder), *generator, *manifest.build.flags], stream.write, log)
        with events.stage("compile llama.cpp's tools", total=100, unit="%") as stage:
            done = 0

            def watch(line: str) -> None:
                nonlocal done
                stream.write(line)
                percent = _percent(line)
                if percent > done:
                    stage.advance(percent - done)
                    done = percent

            jobs = str(os.cpu_count() or 1)
            _run([cmake, "--build", str(folder), "-j", jobs, "--target", *manifest.build.tools], watch, log)


def _percent(line: str) -> int:
    if match := _NINJA_STEP.match(line):
        return 100 * int(match.group(1)) // max(1, int(match.group(2)))
    match = _MAKE_STEP.match(line)
    return int(match.group(1)) if match else 0


def _run(command: list[str], each_line: object, log: Path) -> None:
    assert callable(each_line)
    errors: list[str] = []
    try:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
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
