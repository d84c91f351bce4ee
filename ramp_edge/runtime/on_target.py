"""What a board needs to build the tools for itself: the part of llama.cpp's source that it compiles, and the commands.

The archive is the same, byte for byte, for the same source and recipe, so that its hash says whether the board has it already.
"""

from __future__ import annotations

import gzip
import hashlib
import tarfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ramp_edge.cache import cached_file
from ramp_edge.errors import RuntimeToolError
from ramp_edge.events import EventBus
from ramp_edge.runtime.commands import compile_command, configure_command
from ramp_edge.runtime.fetch import fetch_source
from ramp_edge.runtime.manifest import BuiltOn, Recipe, RuntimeManifest, load_manifest

_MODIFIED_S = 946_684_800
"""2000-01-01: tar warns about files from 1970."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceArchive:
    """A tar.gz of what the board compiles."""

    path: Path
    size_bytes: int
    sha256: str
    n_files: int


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetBuild:
    """How a board builds a recipe's tools. Paths are the board's."""

    commands: tuple[tuple[str, ...], ...]
    """To be run in order; each a program and its arguments."""
    tools: dict[str, str]
    """Tool -> where it is afterwards."""


def source_files(recipe: Recipe, manifest: RuntimeManifest) -> tuple[str, ...]:
    """What the board compiles, as sorted paths below the fetched source."""
    root = manifest.source_folder
    found = (path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    return tuple(sorted(n for n in found if n.startswith(recipe.source) or not n.startswith(manifest.source.skip)))


def pack_source(
    recipe: Recipe, events: EventBus, sdist: Path | None = None, manifest: RuntimeManifest | None = None
) -> SourceArchive:
    """The archive for an on-target recipe, in the cache. Raises RuntimeToolError, CacheError."""
    manifest = manifest or load_manifest()
    _check_on_target(recipe)
    root = fetch_source(events, sdist, manifest)
    names = source_files(recipe, manifest)
    place = manifest.folder / f"source-{recipe.name}.tar.gz"
    with (
        events.stage(f"pack llama.cpp's source ({recipe.name})", total=len(names), unit="files") as stage,
        cached_file(place) as stream,
        # Neither a name nor a time in the header, or the hash would change.
        gzip.GzipFile(filename="", fileobj=stream, mode="wb", mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as tar,
    ):
        for name in names:
            info = tarfile.TarInfo(name)
            info.size, info.mtime, info.mode = (root / name).stat().st_size, _MODIFIED_S, 0o644
            with (root / name).open("rb") as source:
                tar.addfile(info, source)
            stage.advance()
    data = place.read_bytes()
    return SourceArchive(path=place, size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest(), n_files=len(names))


def target_build(
    recipe: Recipe, *, archive: str, folder: str, jobs: int | str, manifest: RuntimeManifest | None = None
) -> TargetBuild:
    """The commands that build the packed source `archive` in `folder`; both are absolute paths on the board.

    `jobs`: how many compilers at once.
    """
    manifest = manifest or load_manifest()
    _check_on_target(recipe)
    for path in (archive, folder):
        if not PurePosixPath(path).is_absolute():
            raise ValueError(f"{path!r} is not absolute")
    source, build = f"{folder}/source", f"{folder}/build"
    return TargetBuild(
        commands=(
            ("mkdir", "-p", source),
            ("tar", "-xzf", archive, "-C", source),
            configure_command(recipe, manifest, source=source, folder=build),
            compile_command(recipe, folder=build, jobs=jobs),
        ),
        tools={name: f"{build}/bin/{name}" for name in recipe.tools},
    )


def _check_on_target(recipe: Recipe) -> None:
    if recipe.built_on is not BuiltOn.TARGET:
        raise RuntimeToolError(
            f"{recipe.name} is built here, not on the board", hint=f"ramp-edge runtime build {recipe.name}"
        )
