"""What differs between the families whose forward pass ramp-edge runs itself, as data."""

from __future__ import annotations

from ramp_edge.records import ArchitectureFacts

ARCHITECTURES: dict[str, ArchitectureFacts] = {
    # Mistral files carry `general.architecture = llama` as well.
    "llama": ArchitectureFacts(name="llama", rope_neox=False),
    "qwen2": ArchitectureFacts(name="qwen2", rope_neox=True),
    "qwen3": ArchitectureFacts(name="qwen3", rope_neox=True),
    "gemma3": ArchitectureFacts(name="gemma3", rope_neox=True, gelu=True, scaled_embedding=True, post_norms=True),
}
"""Architectures with gradients. Converters fold Gemma's norm offset (1 + w) into the stored weight."""


def architecture_facts(architecture: str) -> ArchitectureFacts | None:
    """The family's facts, or None where only libllama can run the model."""
    return ARCHITECTURES.get(architecture)
