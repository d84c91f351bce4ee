"""How files get into the cache: whole or not at all, whatever stops the process or the machine.

Two builds may share a cache, so unfinished files carry the process's number. A rename alone is not enough: after a power cut
the name can be there without its bytes, so these are synced first.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ramp_edge.errors import CacheError

_ABANDONED_SECONDS = 3600.0
"""Nothing takes this long between two writes: an unfinished file this old belongs to a process that was killed."""


def make_cache_folder(folder: Path) -> None:
    """Make `folder` and those above it. Raises CacheError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cache_error(folder, error) from error


@contextmanager
def cached_file(path: Path) -> Iterator[BinaryIO]:
    """A stream whose bytes appear at `path` once they are all on the disk; nothing stays behind on failure.

    Raises CacheError where the disk refuses.
    """
    make_cache_folder(path.parent)
    partial = partial_path(path)
    try:
        with partial.open("wb") as stream:
            yield stream
        publish(partial, path)
    except OSError as error:
        raise cache_error(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def partial_path(path: Path) -> Path:
    """Where this process writes what will become `path`."""
    return path.with_name(f"{path.name}.{os.getpid()}.partial")


def publish(partial: Path, path: Path) -> None:
    """Sync a finished file, then give it its name. Raises CacheError."""
    try:
        with partial.open("rb+") as stream:
            os.fsync(stream.fileno())
        partial.replace(path)
    except OSError as error:
        raise cache_error(path, error) from error


def remove_abandoned(folder: Path) -> None:
    """Delete the unfinished files that killed processes left in `folder`."""
    for partial in folder.glob("*.partial"):
        with contextlib.suppress(OSError):
            if time.time() - partial.stat().st_mtime > _ABANDONED_SECONDS:
                partial.unlink()


def cache_error(path: Path, error: OSError) -> CacheError:
    """The user's view of a failed write to the cache."""
    reason = error.strerror or str(error)
    # numpy's short writes carry no errno; only a full disk makes them.
    if error.errno is None or error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        reason = f"the disk is full or its limit reached ({reason})"
    return CacheError(f"the cache cannot be written: {path}: {reason}")
