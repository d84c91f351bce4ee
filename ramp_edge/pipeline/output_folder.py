"""The folder of a build: what it may replace there, and that one build at a time writes to it.

A build replaces `model.gguf`, `build.json` and `report.html` of an earlier build and nothing else: no file that it reads, and no file that
ramp-edge did not write. The lock is the kernel's (`flock`), so that of a dead process never blocks; where there is none
(Windows, some network file systems) builds are not kept apart.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from ramp_edge.emit.write import output_error
from ramp_edge.errors import OutputError, UsageError
from ramp_edge.pipeline.workspace import FOLDER, LOCK_FILE, holds_work
from ramp_edge.record_files import REPORT_FILE

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

MODEL_FILE = "model.gguf"
RECORD_FILE = "build.json"
PARTIAL_RECORD_FILE = RECORD_FILE + ".partial"
_LOCK_ATTEMPTS = 10


def check_output(output: Path) -> None:
    """Raise where `output` cannot become or stay the folder of a build."""
    existing = next(p for p in (output, *output.absolute().parents) if os.path.lexists(p))
    if not existing.is_dir():
        where = "" if existing == output else f": {existing}"
        raise UsageError(f"-o {output}{where} is a file", hint="give a folder with -o")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise OutputError(
            f"-o {output}: {existing} cannot be written", hint="check its permissions, or choose another folder with -o"
        )
    for name in (MODEL_FILE, RECORD_FILE):
        if (output / name).is_dir():
            raise UsageError(
                f"{output / name} is a folder, and the build writes a file of that name",
                hint="choose another folder with -o",
            )


def check_replaced(output: Path) -> None:
    """Raise UsageError where the files that the build would replace are not those of an earlier build."""
    record, model = output / RECORD_FILE, output / MODEL_FILE
    if os.path.lexists(record) and not _is_build_record(record):
        raise UsageError(
            f"{record} was not written by ramp-edge, and the build would overwrite it",
            hint="choose another folder with -o, or move that file away",
        )
    # Between the two renames of publishing only the partial record is there.
    if os.path.lexists(model) and not record.exists() and not (output / PARTIAL_RECORD_FILE).exists():
        raise UsageError(
            f"{model} has no {RECORD_FILE} beside it, so ramp-edge did not write it; the build would overwrite it",
            hint="choose another folder with -o, or move that file away",
        )


def check_inputs(output: Path, inputs: Iterable[tuple[str, Path]]) -> None:
    """Raise UsageError where writing to `output` would destroy a file that the build reads (`inputs`: what it is, path)."""
    work = (output / FOLDER).resolve()
    for what, path in inputs:
        for name in (MODEL_FILE, RECORD_FILE, REPORT_FILE):
            if _same(path, output / name):
                raise UsageError(
                    f"the build would overwrite {what} {path} with its own {name} in -o {output}",
                    hint="choose another folder with -o",
                )
        if path.resolve().is_relative_to(work):
            raise UsageError(
                f"{what} {path} is in {output / FOLDER}, which the build clears", hint="choose another folder with -o"
            )


@contextlib.contextmanager
def claimed(output: Path) -> Iterator[None]:
    """Make the folder and keep other builds out of it; whatever is empty in the end goes again.

    Raises OutputError where another build is writing there, or where the folder cannot be made.
    """
    made = [p for p in (output / FOLDER, output, *output.parents) if not os.path.lexists(p)]
    lock = _lock(output)
    try:
        yield
    finally:
        if not holds_work(output / FOLDER):
            # While the lock is held: a rival finds it taken, or a new file in a new folder.
            shutil.rmtree(output / FOLDER, ignore_errors=True)
            for folder in made:
                with contextlib.suppress(OSError):  # not empty: the build is there
                    folder.rmdir()
        os.close(lock)


def _same(path: Path, written: Path) -> bool:
    # The name itself too: a link of that name would be replaced, whatever it leads to.
    return path.absolute() == written.absolute() or (path.exists() and written.exists() and path.samefile(written))


def _is_build_record(path: Path) -> bool:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(data, dict) and {"schema_version", "file_sha256"} <= data.keys()


def _lock(output: Path) -> int:
    """An open, locked file with this process's id in it."""
    path = output / FOLDER / LOCK_FILE
    gone: OSError | None = None
    for _ in range(_LOCK_ATTEMPTS):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except FileNotFoundError as error:
            gone = error  # a build that just ended took the folder away
            continue
        except OSError as error:
            raise output_error(path.parent, error) from error
        if not _taken(handle):
            owner = os.read(handle, 32).decode("ascii", errors="replace").strip()
            os.close(handle)
            raise OutputError(
                f"another build is writing to {output}" + (f", started by process {owner}" if owner else ""),
                hint="wait for it, stop it, or choose another folder with -o",
            )
        if _is_at(handle, path):
            os.ftruncate(handle, 0)
            os.write(handle, str(os.getpid()).encode())
            return handle
        os.close(handle)  # locked a file that a build just ended had unlinked
    raise output_error(path.parent, gone or FileNotFoundError("it keeps disappearing")) from gone


def _taken(handle: int) -> bool:
    """Take the lock; False where another process holds it."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True  # a file system without locks
    return True


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False
