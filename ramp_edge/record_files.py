"""Finding and opening the JSON records of builds, benches and task evaluations: which kind a file is, and whether this version reads it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

BUILD_FILE, BENCH_FILE = "build.json", "bench.json"
BOARD_BENCH_FILES = "bench-*.json"
"""Of a bench of several boards at once."""
REPORT_FILE = "report.html"
"""Beside them, drawn from all of a folder."""
_MOST_BYTES = 1 << 28


class RecordKind(str, Enum):
    """What a record tells of."""

    BUILD = "a build record"
    BENCH = "a bench record"
    TASKS = "a task evaluation"


SCHEMA_VERSIONS = {RecordKind.BUILD: 1, RecordKind.BENCH: 1, RecordKind.TASKS: 1}
"""The version of each kind that is read."""
_SIGNS = {
    RecordKind.BUILD: {"tensors", "file_bytes"},
    RecordKind.BENCH: {"facts_before", "models"},
    RecordKind.TASKS: {"tasks", "average"},
}
"""Fields that tell the kind."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordFile:
    """A record as it lies on the disk; its fields are not checked yet."""

    path: Path
    kind: RecordKind
    data: dict[str, Any]


def record_paths(path: Path) -> tuple[Path, ...]:
    """The records that a path means: itself, or of a folder its build.json and every bench.json. Raises ValueError for none."""
    if not path.is_dir():
        return (path,)
    files = (path / BUILD_FILE, path / BENCH_FILE, *sorted(path.glob(BOARD_BENCH_FILES)))
    found = tuple(file for file in files if file.is_file())
    if not found:
        raise ValueError(f"{path} holds neither {BUILD_FILE} nor {BENCH_FILE}")
    return found


def open_record(path: Path) -> RecordFile:
    """Read one file. Raises ValueError that names it where it is no record, or one of another version."""
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError(f"{path}: {path.stat().st_size} bytes are too many for a record")
        data: Any = json.loads(path.read_bytes())
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    for kind, fields in _SIGNS.items():
        if isinstance(data, dict) and fields <= data.keys():
            found, version = data.get("schema_version"), SCHEMA_VERSIONS[kind]
            if found != version:
                raise ValueError(f"{path}: {kind.value} of schema version {found!r}, this ramp-edge reads {version}")
            return RecordFile(path=path, kind=kind, data=data)
    raise ValueError(f"{path} is no record of a build, a bench or a task evaluation")
