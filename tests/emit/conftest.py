"""The tiny model, its inventory and the metadata that emission keeps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from ramp_edge.codec.ggml import encode
from ramp_edge.codec.types import QuantType
from ramp_edge.emit.layout import Layout, TensorSlot, plan_layout
from ramp_edge.emit.verify import StoredTensor
from ramp_edge.model.gguf_file import GgufTensors, open_inventory
from ramp_edge.records import ModelInventory

OWN = {"ramp_edge.version": "1", "ramp_edge.device": "board", "ramp_edge.count": 7, "ramp_edge.share": 0.5}


@dataclass
class Plan:
    """A layout of one source, and payloads for it from the plain codec."""

    inventory: ModelInventory
    tensors: GgufTensors
    types: dict[str, QuantType]
    own: dict[str, str | int | float] = field(default_factory=lambda: dict(OWN))

    @property
    def pairs(self) -> dict[str, bytes]:
        return {key: self.tensors.metadata_bytes(key) for key in self.tensors.header.metadata}

    @property
    def layout(self) -> Layout:
        return plan_layout(self.inventory, self.types, self.pairs, self.own, self.tensors.header.alignment)

    def payload(self, slot: TensorSlot) -> np.ndarray:
        if slot.name not in self.types:
            return self.tensors.raw(slot.name)
        return encode(slot.quant_type, self.tensors.load_tensor(slot.name), np.ones(slot.shape[0], dtype=np.float32))


def stored(path: Path) -> tuple[list[StoredTensor], dict[str, bytes]]:
    """What `verify_emitted` wants to know of a file."""
    found = GgufTensors(path)
    rows = [
        StoredTensor(name=t.name, shape=t.shape, quant_type=QuantType(t.type_id), size_bytes=t.size_bytes)
        for t in found.header.tensors
    ]
    return rows, {key: found.metadata_bytes(key) for key in found.header.metadata}


@pytest.fixture
def make_plan(tiny_gguf: Path) -> Callable[..., Plan]:
    """types of the quantizable tensors in turn -> Plan; also for another source."""

    def make(*types: QuantType, source: Path = tiny_gguf) -> Plan:
        inventory, tensors = open_inventory(source, allow_requantize=True)
        kinds = types or (QuantType.Q4_K,)
        return Plan(inventory, tensors, {t.name: kinds[i % len(kinds)] for i, t in enumerate(inventory.quantizable)})

    return make


@pytest.fixture
def read_back() -> Callable[[Path], tuple[list[StoredTensor], dict[str, bytes]]]:
    return stored
