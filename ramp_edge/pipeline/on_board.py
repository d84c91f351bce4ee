"""Where a deployed build lies on a board: below the target's folder, `current` is the release in use, `releases` has all.

A release is a folder with `model.gguf`, `build.json` and the runtime's programs in `bin`.
"""

from __future__ import annotations

import json
import posixpath

from ramp_edge.device.target import Target
from ramp_edge.device.work_files import target_folder
from ramp_edge.errors import BoardMismatchError, BoardStorageError
from ramp_edge.pipeline.bench_sources import BenchSource
from ramp_edge.pipeline.output_folder import MODEL_FILE, RECORD_FILE

CURRENT = "current"
RELEASES = "releases"
RUNTIMES = "runtimes"
"""What the board built for itself, a folder each; finished where it holds STAMP."""
STAMP = "built"
BIN = "bin"
_RECORD_LIMIT_BYTES = 64 << 20


def deployed_model(target: Target, source: BenchSource) -> str:
    """Path of that very file on the board, in the release in use or an earlier one. Raises BoardMismatchError."""
    folder = target_folder(target)
    releases = [posixpath.join(folder, RELEASES, name) for name in target.files.names(posixpath.join(folder, RELEASES))]
    for release in (posixpath.join(folder, CURRENT), *releases):
        model = posixpath.join(release, MODEL_FILE)
        found = target.files.facts(model)
        if found is None or found.size_bytes != source.file_bytes:
            continue
        if _recorded_sha256(target, release) == source.sha256:
            return model
    raise BoardMismatchError(
        f"{source.file} is not on {target.spec.name}: no release in {folder} has sha256 {source.sha256[:16]}...",
        hint=f"ramp-edge deploy {source.file.parent} --target {target.spec.name}",
    )


def deployed_tools(target: Target) -> str:
    """Folder of the runtime's programs on the board: those that were sent, else those that it built for itself."""
    folder, files = target_folder(target), target.files
    sent = posixpath.join(folder, CURRENT, BIN)
    if files.facts(sent) is None:
        for name in files.names(posixpath.join(folder, RUNTIMES)):
            built = posixpath.join(folder, RUNTIMES, name)
            if files.facts(posixpath.join(built, STAMP)) is not None:
                return built_tools(built)
    return sent


def built_tools(folder: str) -> str:
    """Folder of the programs that a board built in `folder`, one of RUNTIMES (`runtime/on_target.py` puts them there)."""
    return posixpath.join(folder, "build", BIN)


def _recorded_sha256(target: Target, release: str) -> str | None:
    try:
        data = json.loads(target.files.read(posixpath.join(release, RECORD_FILE), _RECORD_LIMIT_BYTES))
    except (BoardStorageError, ValueError):
        return None
    value = data.get("file_sha256") if isinstance(data, dict) else None
    return value if isinstance(value, str) else None
