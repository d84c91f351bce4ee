"""What is deployed: a set of files with readable names, known by its content.

A release's id is the hash of its list of files, so that the same files are the same release on every board and at any time.

History of release.json:
1: first version.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ramp_edge.errors import UsageError

SCHEMA_VERSION = 1
RECORD_FILE = "release.json"
RELEASE_ID = re.compile(r"[0-9a-f]{16}")
SHA256 = re.compile(r"[0-9a-f]{64}")
_MAX_NAME_BYTES = 200
_READ_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalFile:
    """A file here that is to be on the board."""

    path: Path
    size_bytes: int
    sha256: str
    executable: bool = False

    @classmethod
    def of(cls, path: Path, *, executable: bool = False) -> LocalFile:
        """Measured and hashed now. Raises UsageError where it cannot be read."""
        try:
            with path.open("rb") as stream:
                size_bytes = os.fstat(stream.fileno()).st_size
        except OSError as error:
            raise _unreadable(path, error) from error
        return cls(path=path, size_bytes=size_bytes, sha256=sha256_of(path), executable=executable)


@dataclass(frozen=True, kw_only=True, slots=True)
class ReleaseFile:
    """One file of a release."""

    name: str
    """Readable, with slashes: `bin/llama-bench`."""
    sha256: str
    size_bytes: int
    executable: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Release:
    """A set of files."""

    id: str
    files: tuple[ReleaseFile, ...]

    @property
    def size_bytes(self) -> int:
        """Of all its files, equal ones counted once."""
        return sum({file.sha256: file.size_bytes for file in self.files}.values())


def sha256_of(path: Path, limit_bytes: int | None = None) -> str:
    """Hash of a file here, or of its first `limit_bytes`. Raises UsageError where it cannot be read."""
    digest, left = hashlib.sha256(), limit_bytes
    try:
        with path.open("rb") as stream:
            while chunk := stream.read(_READ_BYTES if left is None else min(_READ_BYTES, left)):
                digest.update(chunk)
                left = None if left is None else left - len(chunk)
    except OSError as error:
        raise _unreadable(path, error) from error
    return digest.hexdigest()


def release_of(files: Mapping[str, LocalFile]) -> Release:
    """The release that these files are, by name. Raises UsageError naming every name that cannot be."""
    problems = [problem for name in files if (problem := _name_problem(name))]
    folded: dict[str, str] = {}
    folders = {folder.casefold() for name in files for folder in _folders(name)}
    for name in files:
        if (twin := folded.setdefault(name.casefold(), name)) != name:
            problems.append(f"{twin!r} and {name!r} are the same name to some disks")
        if name.casefold() in folders:
            problems.append(f"{name!r} is a file and a folder")
    if not files:
        problems.append("there is no file to deploy")
    if problems:
        raise UsageError("\n".join(problems))
    return _release(
        ReleaseFile(name=name, sha256=file.sha256, size_bytes=file.size_bytes, executable=file.executable)
        for name, file in files.items()
    )


def release_json(release: Release) -> str:
    """What is written into RECORD_FILE."""
    files = {
        file.name: {"sha256": file.sha256, "size_bytes": file.size_bytes, "executable": file.executable}
        for file in release.files
    }
    return json.dumps({"schema_version": SCHEMA_VERSION, "files": files}, indent=1, ensure_ascii=False) + "\n"


def parse_release(text: bytes) -> Release:
    """The release of a RECORD_FILE that a board handed out. Raises ValueError for anything that we would not have written."""
    data = json.loads(text)
    if not isinstance(data, dict) or data.get("schema_version") != SCHEMA_VERSION:
        raise ValueError(f"it is no list of files of version {SCHEMA_VERSION}")
    listed = data.get("files")
    if not isinstance(listed, dict) or not listed:
        raise ValueError("it lists no files")
    return _release(_parse_file(name, values) for name, values in listed.items())


def folders_of(release: Release) -> tuple[str, ...]:
    """The folders below the release that its names need, outer ones first."""
    return tuple(sorted({folder for file in release.files for folder in _folders(file.name)}))


def _release(files: Iterable[ReleaseFile]) -> Release:
    ordered = tuple(sorted(files, key=lambda file: file.name))
    content = json.dumps([(file.name, file.sha256, file.size_bytes, file.executable) for file in ordered])
    return Release(id=hashlib.sha256(content.encode()).hexdigest()[:16], files=ordered)


def _parse_file(name: str, values: Any) -> ReleaseFile:
    if problem := _name_problem(name):
        raise ValueError(problem)
    if not isinstance(values, dict):
        raise ValueError(f"{name!r} has no facts")
    sha256, size_bytes, executable = (values.get(key) for key in ("sha256", "size_bytes", "executable"))
    if not isinstance(sha256, str) or not SHA256.fullmatch(sha256):
        raise ValueError(f"{name!r} has no sha256")
    if not isinstance(size_bytes, int) or size_bytes < 0 or not isinstance(executable, bool):
        raise ValueError(f"{name!r} has no size")
    return ReleaseFile(name=name, sha256=sha256, size_bytes=size_bytes, executable=executable)


def _folders(name: str) -> list[str]:
    parts = name.split("/")
    return ["/".join(parts[:n]) for n in range(1, len(parts))]


def _name_problem(name: str) -> str | None:
    if name == RECORD_FILE:
        return f"{name!r} is taken: the release keeps its list of files there"
    if not name or any(part in ("", ".", "..") for part in name.split("/")):
        return f"{name!r} cannot be a file's name on the board: it must lead to a place below the release"
    if any(ord(c) < 32 or ord(c) == 127 or "\ud800" <= c <= "\udfff" for c in name):
        return f"{name!r} cannot be a file's name on the board: it holds control characters or is not text"
    if any(len(part.encode()) > _MAX_NAME_BYTES for part in name.split("/")):
        return f"{name[:40]!r}... cannot be a file's name on the board: more than {_MAX_NAME_BYTES} bytes"
    return None


def _unreadable(path: Path, error: OSError) -> UsageError:
    return UsageError(f"{path} cannot be read: {error.strerror}", hint="check that it is there and its permissions")
