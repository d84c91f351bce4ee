"""Small files that measuring needs on the board: below the target's own folder, named by their contents, sent once."""

from __future__ import annotations

import hashlib
import io
import posixpath
import secrets
from pathlib import PurePosixPath

from ramp_edge.device.target import Target
from ramp_edge.errors import BoardStorageError, TargetsFileError

FOLDER = "bench"


def target_folder(target: Target) -> str:
    """The one folder that is touched on the board, absolute. Raises TargetsFileError where it cannot be one."""
    folder = target.spec.folder.removeprefix("~/")
    path = PurePosixPath(target.files.home) / folder
    if ".." in path.parts or len(path.parts) < 2 or path == PurePosixPath(target.files.home):
        raise TargetsFileError(
            f"{target.spec.name}: {target.spec.folder!r} cannot be deploy's folder",
            hint="name a folder of its own: below the home folder, or an absolute path without `..`",
        )
    return str(path)


def put_file(target: Target, data: bytes, stem: str, suffix: str) -> str:
    """Path on the board of a file that holds `data`; what is already there is not sent again.

    Raises BoardStorageError, also where the disk does not give back what was written.
    """
    folder = posixpath.join(target_folder(target), FOLDER)
    path = posixpath.join(folder, f"{stem}-{hashlib.sha256(data).hexdigest()[:16]}{suffix}")
    files = target.files
    if _holds(target, path, data):
        return path
    files.make_folder(folder)
    # Two machines may send the same file at once.
    partial = f"{path}.{secrets.token_hex(4)}.partial"
    files.append(partial, io.BytesIO(data), len(data), 0, lambda _: None)
    files.rename(partial, path)
    if not _holds(target, path, data):
        raise BoardStorageError(f"{target.spec.name}: {path} does not hold what was written to it")
    return path


def _holds(target: Target, path: str, data: bytes) -> bool:
    found = target.files.facts(path)
    if found is None or found.is_folder or found.size_bytes != len(data):
        return False
    return target.files.read(path, len(data) + 1) == data
