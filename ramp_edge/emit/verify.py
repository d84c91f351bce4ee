"""Read an emitted file back and compare everything with the plan. llama.cpp's silent fallbacks taught this."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ramp_edge.codec.types import QuantType
from ramp_edge.emit.layout import Layout
from ramp_edge.errors import ArtifactMismatchError


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredTensor:
    """A tensor as the reader found it in the emitted file."""

    name: str
    shape: tuple[int, ...]
    quant_type: QuantType
    size_bytes: int


def verify_emitted(
    path: Path,
    layout: Layout,
    stored: Sequence[StoredTensor],
    kept_metadata: Mapping[str, bytes],
    stored_metadata: Mapping[str, bytes],
    max_file_bytes: int | None,
) -> None:
    """Raise ArtifactMismatchError listing every difference between the plan and the file."""
    problems = []
    size = path.stat().st_size
    if size != layout.file_bytes:
        problems.append(f"the file has {size} bytes, the plan {layout.file_bytes}")
    if max_file_bytes is not None and size > max_file_bytes:
        problems.append(f"the file has {size} bytes, the budget {max_file_bytes}")
    found = {t.name: t for t in stored}
    for slot in layout.slots:
        tensor = found.pop(slot.name, None)
        if tensor is None:
            problems.append(f"tensor {slot.name!r} is missing")
        elif (tensor.quant_type, tensor.shape, tensor.size_bytes) != (slot.quant_type, slot.shape, slot.size_bytes):
            problems.append(
                f"tensor {slot.name!r} is {tensor.quant_type.name} {list(tensor.shape)} ({tensor.size_bytes} bytes), "
                f"planned {slot.quant_type.name} {list(slot.shape)} ({slot.size_bytes} bytes)"
            )
    problems.extend(f"tensor {name!r} was not planned" for name in found)
    problems.extend(
        f"metadata {key!r} was not kept" for key, data in kept_metadata.items() if stored_metadata.get(key) != data
    )
    if problems:
        raise ArtifactMismatchError(
            f"{path} does not read back as planned:\n  " + "\n  ".join(problems[:20]),
            hint="this is a bug or a failing disk: run the command again; if it stays, report it with build.json",
        )
