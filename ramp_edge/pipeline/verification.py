"""Step 7b of a build: the emitted file read back, tensor by tensor, key by key."""

from __future__ import annotations

from pathlib import Path

from ramp_edge.emit.layout import OWN_PREFIX, REPLACED_KEYS, Layout
from ramp_edge.emit.verify import StoredTensor, verify_emitted
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
