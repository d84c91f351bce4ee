"""The finished tools of a recipe: where they are, and that they are still what was built.

The stamp is written last, so a folder without one is unfinished. Sizes are compared whenever the tools are asked for; the
hashes, which are slower, on demand.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ramp_edge.cache import cached_file
from ramp_edge.errors import RuntimeToolError
from ramp_edge.runtime.manifest import Recipe, RuntimeManifest, load_manifest

STAMP = "built.json"
SCHEMA_VERSION = 2
"""1 had no version field: tool name -> size in bytes. It is still read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolFile:
    """One of llama.cpp's programs."""

    path: Path
    size_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class BuiltRuntime:
    """All tools of a recipe."""

    recipe: str
    folder: Path
    """Holds the tools and nothing else."""
    tools: dict[str, ToolFile]
    commit: str
    """llama.cpp's."""

    @property
    def size_bytes(self) -> int:
        return sum(tool.size_bytes for tool in self.tools.values())


def build_folder(recipe: Recipe, manifest: RuntimeManifest) -> Path:
    """Build folder of these flags; other flags get another one."""
    key = hashlib.sha256("\n".join(manifest.flags_of(recipe)).encode()).hexdigest()[:8]
    return manifest.folder / f"{recipe.name}-{key}"


def ready_runtime(recipe: Recipe, manifest: RuntimeManifest | None = None) -> BuiltRuntime | None:
    """The finished tools, or None where they are missing, unfinished or changed since."""
    manifest = manifest or load_manifest()
    folder = build_folder(recipe, manifest)
    try:
        stamp = json.loads((folder / STAMP).read_text(encoding="utf-8"))
        tools = _tools_of(stamp, folder / "bin")
        present = {name: tool.path.stat().st_size == tool.size_bytes for name, tool in tools.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    if set(present) != set(recipe.tools) or not all(present.values()):
        return None
    return BuiltRuntime(recipe=recipe.name, folder=folder / "bin", tools=tools, commit=manifest.llama_cpp.commit)


def write_stamp(recipe: Recipe, manifest: RuntimeManifest) -> None:
    """Say that the tools in the build folder are finished. Raises CacheError."""
    folder = build_folder(recipe, manifest)
    tools = {name: _described(folder / "bin" / name) for name in recipe.tools}
    record = {
        "schema_version": SCHEMA_VERSION,
        "recipe": recipe.name,
        "commit": manifest.llama_cpp.commit,
        "tools": {name: {"size_bytes": tool.size_bytes, "sha256": tool.sha256} for name, tool in tools.items()},
    }
    with cached_file(folder / STAMP) as stream:
        stream.write(json.dumps(record, indent=2).encode("utf-8"))


def altered_tools(built: BuiltRuntime) -> tuple[str, ...]:
    """Names of the tools that are no longer what was built, by their hashes. Raises RuntimeToolError."""
    try:
        return tuple(name for name, tool in built.tools.items() if _sha256(tool.path) != tool.sha256)
    except OSError as error:
        raise RuntimeToolError(f"{error.filename}: {error.strerror or error}") from error


def _tools_of(stamp: Any, folder: Path) -> dict[str, ToolFile]:
    if "schema_version" not in stamp:
        # The first version wrote no hashes: what is there now is taken as what was built, as long as the sizes agree.
        return {
            name: ToolFile(path=folder / name, size_bytes=size, sha256=_sha256(folder / name))
            for name, size in stamp.items()
        }
    if stamp["schema_version"] != SCHEMA_VERSION:
        raise ValueError("written by another version")
    return {
        name: ToolFile(path=folder / name, size_bytes=tool["size_bytes"], sha256=tool["sha256"])
        for name, tool in stamp["tools"].items()
    }


def _described(path: Path) -> ToolFile:
    return ToolFile(path=path, size_bytes=path.stat().st_size, sha256=_sha256(path))


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
