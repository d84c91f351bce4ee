"""A tiny reference, a coarser copy of it, and text for both."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from ramp_edge.codec.libllama_quantize import quantize_preset
from ramp_edge.evaluate.evaluator import tokenize_text
from ramp_edge.model.gguf_file import GgufTensors
from ramp_edge.model.output_head import read_output_head
from ramp_edge.records import OutputHead

TEXT = "A small board reads a page of words, and writes the next one while it waits for rain; café, 42. " * 60


@pytest.fixture(scope="session")
def text() -> str:
    return TEXT


@pytest.fixture(scope="session")
def tokens(tiny_gguf: Path) -> npt.NDArray[np.int32]:
    return tokenize_text(tiny_gguf, TEXT)


@pytest.fixture(scope="session")
def coarse_gguf(tiny_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model as Q4_0."""
    path = tmp_path_factory.mktemp("coarse") / "tiny-q4_0.gguf"
    quantize_preset(tiny_gguf, path, "Q4_0", threads=1)
    return path


@pytest.fixture(scope="session")
def head(tiny_gguf: Path) -> OutputHead:
    found = read_output_head(GgufTensors(tiny_gguf))
    assert found is not None
    return found
