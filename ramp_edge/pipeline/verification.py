"""Step 7b of a build: the emitted file read back, tensor by tensor, key by key."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ramp_edge.codec.types import QuantType
from ramp_edge.emit.layout import OWN_PREFIX, REPLACED_KEYS, Layout
from ramp_edge.emit.verify import StoredTensor, verify_emitted
from ramp_edge.errors import ArtifactMismatchError
from ramp_edge.events import EventBus
from ramp_edge.model.gguf_file import GgufTensors


def verify_file(path: Path, layout: Layout, source: GgufTensors, max_file_bytes: int | None, events: EventBus) -> None:
    """Raise ArtifactMismatchError where the file differs from the plan or lost metadata of the source."""
    with events.stage("verify", total=len(layout.slots), unit="tensors") as stage:
        emitted = GgufTensors(path)
        stored = [
            StoredTensor(
                name=entry.name,
                shape=entry.shape,
                quant_type=emitted.quant_type(entry.name),
                size_bytes=entry.size_bytes,
            )
            for entry in emitted.header.tensors
        ]
        kept = {
            key: source.metadata_bytes(key)
            for key in source.header.metadata
            if key not in REPLACED_KEYS and not key.startswith(OWN_PREFIX)
        }
        found = {key: emitted.metadata_bytes(key) for key in emitted.header.metadata if key in kept}
        verify_emitted(path, layout, stored, kept, found, max_file_bytes)
        stage.advance(len(layout.slots))


def verify_stock_file(path: Path, types: Mapping[str, QuantType], max_file_bytes: int | None, events: EventBus) -> None:
    """Raise ArtifactMismatchError where libllama's file has other types than its dry run said, or is too large."""
    with events.stage("verify", total=len(types), unit="tensors") as stage:
        emitted = GgufTensors(path)
        stored = {entry.name: emitted.quant_type(entry.name) for entry in emitted.header.tensors}
        problems = [
            f"tensor {name!r} is {stored[name].name if name in stored else 'missing'}, planned {quant_type.name}"
            for name, quant_type in types.items()
            if stored.get(name) is not quant_type
        ]
        size = path.stat().st_size
        if max_file_bytes is not None and size > max_file_bytes:
            problems.append(f"the file has {size} bytes, the budget {max_file_bytes}")
        if problems:
            raise ArtifactMismatchError(
                f"{path}, quantized by libllama, is not as planned:\n  " + "\n  ".join(problems[:20]),
                hint="--effort fast does without stock presets; please report it with the model's name",
            )
        stage.advance(len(types))
