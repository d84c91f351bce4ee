"""Step 1 of a build: whatever the user named becomes a GGUF on disk."""

from __future__ import annotations

from pathlib import Path

from ramp_edge.events import EventBus
from ramp_edge.model.source import resolve_model
from ramp_edge.runtime.fetch import fetch_source
from ramp_edge.shipped import cache_dir


def find_model(spec: str | None, events: EventBus) -> Path:
    """The embedded default, a GGUF, or a converted Hugging Face model (the converter is fetched when needed)."""
    return resolve_model(spec, fetch_converter=lambda: fetch_source(events), cache=cache_dir(), events=events)
