"""Step 1 of a build: whatever the user named becomes a GGUF on disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ramp_edge.errors import UnsupportedModelError
from ramp_edge.events import EventBus
from ramp_edge.model.architecture import ARCHITECTURES, architecture_facts
from ramp_edge.model.gguf_file import GgufTensors, open_inventory
from ramp_edge.model.source import resolve_model
from ramp_edge.records import ArchitectureFacts, ModelInventory
from ramp_edge.runtime.fetch import fetch_source
from ramp_edge.shipped import cache_dir


def find_model(spec: str | None, events: EventBus) -> Path:
    """The embedded default, a GGUF, or a converted Hugging Face model (the converter is fetched when needed)."""
    return resolve_model(spec, fetch_converter=lambda: fetch_source(events), cache=cache_dir(), events=events)


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceModel:
    """The model to be quantized: what its header says, how its blocks compute, its weights."""

    inventory: ModelInventory
    facts: ArchitectureFacts
    tensors: GgufTensors


def open_model(path: Path, events: EventBus, *, allow_requantize: bool = False) -> SourceModel:
    """Read the header. Raises UnsupportedModelError for what ramp-edge cannot calibrate, ModelFileError for what is no model."""
    inventory, tensors = open_inventory(path, allow_requantize=allow_requantize, events=events)
    facts = architecture_facts(inventory.architecture)
    if facts is None:
        raise UnsupportedModelError(
            f"{inventory.path.name}: architecture {inventory.architecture!r} has no gradient pass in ramp-edge "
            f"(it has: {', '.join(ARCHITECTURES)}; Mistral files are 'llama')",
            hint="forward-only calibration still serves it, with llama.cpp's own tools: `ramp-edge runtime build --host`, then "
            "`llama-imatrix -m MODEL -f TEXT -o imatrix.gguf` and `llama-quantize --imatrix imatrix.gguf MODEL OUT Q4_K_M`",
        )
    return SourceModel(inventory=inventory, facts=facts, tensors=tensors)
