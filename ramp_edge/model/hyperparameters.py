"""The numbers of a model's metadata that budgets and the forward pass need."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from ramp_edge.errors import ModelFileError
from ramp_edge.records import Hyperparameters

# Gemma 3 repeats five sliding-window layers and one full layer (llama.cpp src/models/gemma3.cpp: set_swa_pattern(6)).
_SWA_PERIOD = {"gemma3": 6}
_SWA_ROPE_BASE = 10000.0
MAX_LAYERS = 512
"""libllama aborts the process above it (LLAMA_MAX_LAYERS of llama-hparams.h)."""


class MetadataReader:
    """Typed look-ups of `<architecture>.<key>`; a missing or wrong value names the file and the key."""

    def __init__(self, path: Path, metadata: dict[str, Any], architecture: str) -> None:
        self._path, self._metadata, self._architecture = path, metadata, architecture

    def number(self, key: str, default: float | None = None) -> float:
        """A scalar; per-layer arrays give their largest value."""
        full = f"{self._architecture}.{key}"
        value = self._metadata.get(full)
        if value is None:
            if default is None:
                raise ModelFileError(
                    f"{self._path}: the metadata key {full!r} is missing",
                    hint="convert the original model again with a current llama.cpp",
                )
            return default
        if isinstance(value, list) and value and all(isinstance(v, (int, float)) for v in value):
            value = max(value)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise ModelFileError(
                f"{self._path}: the metadata key {full!r} is {str(value)[:60]!r}, not a number",
                hint="the header is damaged: download or convert the model again",
            )
        return float(value)

    def positive(self, key: str, default: float | None = None) -> float:
        """A number above zero."""
        value = self.number(key, default)
        if value <= 0.0:
            raise ModelFileError(
                f"{self._path}: {self._architecture}.{key} is {value:g}, not above zero",
                hint="the header is damaged: download or convert the model again",
            )
        return value

    def count(self, key: str, default: int | None = None, *, low: int = 1, high: int = 1 << 31) -> int:
        """A whole number within limits."""
        value = self.number(key, default)
        if value != int(value) or not low <= value <= high:
            raise ModelFileError(
                f"{self._path}: {self._architecture}.{key} is {value:.15g}, outside {low} to {high}",
                hint="the header is damaged: download or convert the model again",
            )
        return int(value)


def _swa_layers(metadata: dict[str, Any], architecture: str, n_layer: int) -> tuple[bool, ...]:
    """For each block, whether it uses the sliding window; a file may list the layers or their period itself."""
    if architecture not in _SWA_PERIOD:
        return (False,) * n_layer
    stored = metadata.get(f"{architecture}.attention.sliding_window_pattern")
    if isinstance(stored, list) and len(stored) == n_layer:
        return tuple(bool(value) for value in stored)
    whole = isinstance(stored, int) and not isinstance(stored, bool) and stored > 0
    period = int(stored) if whole else _SWA_PERIOD[architecture]  # type: ignore[arg-type]
    return tuple(layer % period < period - 1 for layer in range(n_layer))


def read_hyperparameters(path: Path, metadata: dict[str, Any], architecture: str, vocab_size: int) -> Hyperparameters:
    """Collect what is needed; raises ModelFileError for a missing or impossible key."""
    read = MetadataReader(path, metadata, architecture)
    n_layer = read.count("block_count", high=MAX_LAYERS)
    n_embd = read.count("embedding_length", high=1 << 20)
    n_head = read.count("attention.head_count", high=1 << 14)
    n_head_kv = read.count("attention.head_count_kv", n_head, high=1 << 14)
    head_dim = read.count("attention.key_length", max(1, n_embd // n_head), high=1 << 14)
    sliding_window = read.count("attention.sliding_window", 0, low=0)
    swa_layers = _swa_layers(metadata, architecture, n_layer) if sliding_window else (False,) * n_layer
    scaling = metadata.get(f"{architecture}.rope.scaling.type")
    # Files without scaling sometimes store a factor of 0.
    factor = read.number("rope.scaling.factor", 1.0) if scaling == "linear" else 1.0
    rope_base = read.positive("rope.freq_base", 10000.0)
    return Hyperparameters(
        context_length=read.count("context_length", high=(1 << 31) - 1),
        n_layer=n_layer,
        n_embd=n_embd,
        n_ff=read.count("feed_forward_length", 4 * n_embd, high=1 << 24),
        n_head=n_head,
        n_head_kv=n_head_kv,
        head_dim_k=head_dim,
        head_dim_v=read.count("attention.value_length", head_dim, high=1 << 14),
        vocab_size=vocab_size,
        norm_eps=read.positive("attention.layer_norm_rms_epsilon", 1e-5),
        rope_base=rope_base,
        rope_dim=read.count("rope.dimension_count", head_dim, high=1 << 14),
        rope_scaling_factor=factor or 1.0,
        sliding_window=sliding_window,
        swa_layers=swa_layers,
        rope_base_swa=read.positive("rope.freq_base_swa", _SWA_ROPE_BASE if any(swa_layers) else rope_base),
    )
