"""Stream a planned GGUF to disk: beside its place, synced, then renamed."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ramp_edge.emit.layout import Layout, TensorSlot
from ramp_edge.errors import ArtifactMismatchError, OutputError
from ramp_edge.events import EventBus
from ramp_edge.units import human_bytes

Payload = Callable[[TensorSlot], npt.NDArray[np.uint8]]
"""Bytes of one tensor, [n_rows, row_bytes] or flat."""


def require_space(folder: Path, needed_bytes: int) -> None:
    """Raise OutputError where the disk under `folder` has less than `needed_bytes` free."""
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise OutputError(
            f"{folder} has {human_bytes(free)} free, {human_bytes(needed_bytes)} are needed",
            hint="free some space or choose another folder with -o",
        )


def output_error(path: Path, error: OSError) -> OutputError:
    """The user's view of a failed write."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        what = "the disk is full" if error.errno == errno.ENOSPC else "the limit of the disk or the user is reached"
        return OutputError(
            f"{what} while writing {path}; nothing half-written is left behind",
            hint="free some space, then run the same command with --resume",
        )
    return OutputError(f"cannot write {path}: {error.strerror or error}", hint="check the folder and its permissions")


def write_gguf(path: Path, layout: Layout, payload: Payload, events: EventBus) -> None:
    """Write `layout` with one tensor in memory at a time. Raises OutputError; the old file stays until success."""
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        require_space(path.parent, layout.file_bytes)
        with partial.open("wb") as stream, events.stage("write", total=len(layout.slots), unit="tensors") as stage:
            stream.write(layout.header)
            for slot in layout.slots:
                data = np.ascontiguousarray(payload(slot)).view(np.uint8)
                if data.nbytes != slot.size_bytes:
                    raise ArtifactMismatchError(
                        f"tensor {slot.name!r}: {data.nbytes} bytes of {slot.quant_type.name} where the plan "
                        f"has {slot.size_bytes}"
                    )
                stream.write(data.tobytes())
                stream.write(b"\0" * (-slot.size_bytes % layout.alignment))
                stage.advance()
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
    except OSError as error:
        raise output_error(path, error) from error
    finally:
        # Cleaning up must not hide why writing failed (a file where the folder should be makes both fail).
        with contextlib.suppress(OSError):
            partial.unlink()
