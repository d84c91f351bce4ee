"""Sliding windows and defaults, as llama.cpp reads them (src/models/gemma3.cpp, src/llama-model.cpp)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ramp_edge.model.hyperparameters import read_hyperparameters
from ramp_edge.records import Hyperparameters


def read(architecture: str, **values: Any) -> Hyperparameters:
    base = {"block_count": 8, "context_length": 512, "embedding_length": 256, "attention.head_count": 4}
    metadata = {f"{architecture}.{key.replace('__', '.')}": value for key, value in {**base, **values}.items()}
    return read_hyperparameters(Path("m.gguf"), metadata, architecture, 100)


def test_gemma_has_five_windows_then_one_full_layer() -> None:
    hyper = read("gemma3", attention__sliding_window=128, rope__freq_base=1e6)
    assert hyper.swa_layers == (True, True, True, True, True, False, True, True)
    assert (hyper.rope_base, hyper.rope_base_swa) == (1e6, 1e4)
    assert read("gemma3", attention__sliding_window=128, rope__freq_base_swa=5e4).rope_base_swa == 5e4


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        (2, (True, False) * 4),
        (1, (False,) * 8),
        ([True] * 7 + [False], (True,) * 7 + (False,)),
        ([True], (True, True, True, True, True, False, True, True)),
    ],
)
def test_a_stored_pattern_goes_first(pattern: object, expected: tuple[bool, ...]) -> None:
    hyper = read("gemma3", attention__sliding_window=64, attention__sliding_window_pattern=pattern)
    assert hyper.swa_layers == expected


def test_without_a_window_every_layer_is_full() -> None:
    assert not any(read("gemma3").swa_layers)
    # llama.cpp's Llama graph has no window, whatever a Mistral file stores.
    assert not any(read("llama", attention__sliding_window=4096).swa_layers)


def test_defaults() -> None:
    hyper = read("llama")
    assert (hyper.n_head_kv, hyper.head_dim_k, hyper.rope_dim, hyper.rope_base) == (4, 64, 64, 1e4)
    assert hyper.rope_scaling_factor == 1.0
    scaled = read("llama", rope__scaling__type="linear", rope__scaling__factor=8.0)
    assert scaled.rope_scaling_factor == 8.0
    assert read("llama", rope__scaling__type="linear", rope__scaling__factor=0.0).rope_scaling_factor == 1.0
