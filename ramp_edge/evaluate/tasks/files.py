"""Finds a task's file in the folder that the user gave."""

from __future__ import annotations

import bz2
from fnmatch import fnmatchcase
from pathlib import Path

from ramp_edge.errors import TaskDataError
from ramp_edge.evaluate.tasks.definitions import TaskDefinition


def find_task_files(folder: Path, tasks: tuple[TaskDefinition, ...]) -> dict[str, Path]:
    """Task name -> its file in `folder` or a direct subfolder. Raises TaskDataError naming all that is missing."""
    try:
        near = sorted(folder.iterdir())
        far = sorted(file for sub in near if sub.is_dir() and not sub.is_symlink() for file in sub.iterdir())
    except OSError as error:
        raise TaskDataError(
            f"the task folder {folder} cannot be read: {error.strerror or error}",
            hint="name the folder of the task files with --task-data or RAMP_EDGE_TASK_DATA",
        ) from error
    found: dict[str, Path] = {}
    missing: list[str] = []
    for task in tasks:
        file = _first_match(task, near) or _first_match(task, far)
        if file is None:
            missing.append(f"{task.name} ({' or '.join(task.file_patterns)})")
        else:
            found[task.name] = file
    if missing:
        raise TaskDataError(
            f"{folder} and its subfolders have no file for {'; '.join(missing)}",
            hint="copy the files there, give another --task-data, or leave these tasks out of --tasks",
        )
    return found


def _first_match(task: TaskDefinition, files: list[Path]) -> Path | None:
    for pattern in task.file_patterns:
        matches = [file for file in files if fnmatchcase(file.name, pattern) and file.is_file()]
        if len(matches) > 1:
            raise TaskDataError(
                f"several files could be {task.name}: {', '.join(str(file) for file in matches)}",
                hint=f"leave one that matches {pattern}",
            )
        if matches:
            return matches[0]
    return None


def read_bytes(path: Path) -> tuple[bytes, bytes]:
    """A file's bytes as they are, and unpacked where its name ends in .bz2. Raises TaskDataError."""
    try:
        raw = path.read_bytes()
        return raw, bz2.decompress(raw) if path.suffix == ".bz2" else raw
    except OSError as error:
        raise TaskDataError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, EOFError) as error:
        raise TaskDataError(f"{path} is not a whole bzip2 file: {error}", hint="download it again") from error
