"""Unfinished work of a build, kept in a hidden folder of the output, and the rule that resuming never mixes settings.

A build that was stopped before it wrote anything here resumes from the calibration cache alone.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from ramp_edge.beside import written_beside
from ramp_edge.emit.write import output_error
from ramp_edge.errors import ResumeError

FOLDER = ".ramp-edge-build"
LOCK_FILE = "lock"
"""Held by the running build (`output_folder.py`), not part of its work."""

FOLDING_WORK = "folding"
"""Name of the folds that were found."""
TUNING_WORK = "tuning"
"""Name of the changes that --tune has measured."""


def holds_work(folder: Path) -> bool:
    """True where a stopped build left something in `folder` that resuming would use."""
    kept = (folder / f"{name}.json" for name in (FOLDING_WORK, TUNING_WORK))
    return any(file.exists() for file in kept) or any(folder.glob("*.gguf"))


class Workspace:
    """`OUT/.ramp-edge-build`: folds, finished candidates and their measurements. The folder must be claimed already."""

    def __init__(self, output: Path, fingerprint: str, settings: dict[str, object], *, resume: bool) -> None:
        self.folder = output / FOLDER
        note = self.folder / "request.json"
        if resume and note.exists():
            self._check(note, fingerprint, settings)
        else:
            self.remove()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._write(note, {"fingerprint": fingerprint, "settings": settings})
        except OSError as error:
            raise output_error(self.folder, error) from error

    def _check(self, note: Path, fingerprint: str, settings: dict[str, object]) -> None:
        try:
            saved = json.loads(note.read_text())
        except (OSError, ValueError) as error:
            raise ResumeError(f"{note} cannot be read: {error}", hint="run without --resume to start afresh") from error
        if saved.get("fingerprint") != fingerprint:
            old = saved.get("settings", {})
            changed = [f"{k}: {old.get(k)!r} -> {v!r}" for k, v in settings.items() if old.get(k) != v]
            raise ResumeError(
                f"{note.parent.parent} holds an unfinished build with other settings "
                f"({'; '.join(changed) or 'the model, text, profile or version changed'})",
                hint="repeat the old command to resume it, or run without --resume to start afresh",
            )

    def _write(self, path: Path, data: object) -> None:
        with written_beside(path) as partial:
            partial.write_text(json.dumps(data, indent=1))

    def load(self, name: str) -> Any | None:
        """A finished step's result, or None."""
        path = self.folder / f"{name}.json"
        return json.loads(path.read_text()) if path.exists() else None

    def save(self, name: str, data: object) -> None:
        """Keep a finished step's result."""
        self._write(self.folder / f"{name}.json", data)

    def path(self, name: str) -> Path:
        """Place of a file of this build."""
        return self.folder / name

    def remove(self) -> None:
        """Drop everything but the lock."""
        for entry in self.folder.glob("*"):
            if entry.is_dir():
                shutil.rmtree(entry, ignore_errors=True)
            elif entry.name != LOCK_FILE:
                entry.unlink(missing_ok=True)
