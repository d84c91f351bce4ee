"""Tiny decoders of every family in float32, and libllama's answers for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import pytest
import torch

from ramp_edge.calibrate.decoder import DecoderModel
from ramp_edge.evaluate.llama import LlamaSession
from ramp_edge.model.architecture import architecture_facts
from ramp_edge.model.gguf_file import open_inventory

Tokens = npt.NDArray[np.int32]
Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Decoders:
    """What the tests of this folder need of models."""

    def open(self, path: Path, dtype: torch.dtype = torch.float32) -> DecoderModel:
        inventory, tensors = open_inventory(path)
        facts = architecture_facts(inventory.architecture)
        assert facts is not None
        return DecoderModel(inventory, facts, tensors.load_tensor, dtype)

    def tokens(self, model: DecoderModel, n_sequences: int, length: int, seed: int = 0) -> Tokens:
        """Random ids: every row of the embedding is as likely."""
        shape = (n_sequences, length)
        return np.random.default_rng(seed).integers(0, model.inventory.hyper.vocab_size, shape).astype(np.int32)

    def libllama_logits(self, path: Path, tokens: Tokens) -> Float32:
        """float32 [n, vocab] after each token of one sequence, by libllama itself."""
        with LlamaSession(path, n_ctx=len(tokens), threads=1) as session:
            return session.logits(tokens, 0).copy()


@pytest.fixture(scope="session")
def decoders() -> Decoders:
    return Decoders()


def _rewrite(source: Path, target: Path, keys: Mapping[str, Any], tensors: Mapping[str, Float32]) -> Path:
    """A copy of a GGUF with scalar keys set and float32 tensors added or replaced."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, reader.fields["general.architecture"].contents())
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture" or name in keys:
            continue
        if field.types[0] is gguf.GGUFValueType.ARRAY:
            writer.add_array(name, field.contents())
        else:
            writer.add_key_value(name, field.contents(), field.types[0])
    for name, value in keys.items():
        kind = gguf.GGUFValueType.STRING if isinstance(value, str) else gguf.GGUFValueType.FLOAT32
        writer.add_key_value(name, value, kind)
    for tensor in reader.tensors:
        if tensor.name not in tensors:
            writer.add_tensor(tensor.name, np.array(tensor.data), raw_dtype=tensor.tensor_type)
    for name, values in tensors.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


@pytest.fixture(scope="session")
def rewrite_gguf() -> Callable[..., Path]:
    return _rewrite
