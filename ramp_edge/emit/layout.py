"""The exact layout of the file to be written, known before a byte of it exists.

Metadata of the source is copied byte for byte; only `general.file_type`, `general.quantization_version` and the
`ramp_edge.*` keys are ours. So the size of a plan is arithmetic, and a budget can be met to the byte.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

from ramp_edge.codec.types import QuantType
from ramp_edge.records import ModelInventory

_STRING, _UINT32, _FLOAT32 = 8, 4, 6
OWN_PREFIX = "ramp_edge."
REPLACED_KEYS = frozenset({"general.file_type", "general.quantization_version"})
MetadataItem = str | int | float

# llama.cpp's llama_ftype ids (include/llama.h) of the file whose dominant type is the key.
_FILE_TYPES = {
    QuantType.F32: 0,
    QuantType.F16: 1,
    QuantType.Q4_0: 2,
    QuantType.Q4_1: 3,
    QuantType.Q8_0: 7,
    QuantType.Q5_0: 8,
    QuantType.Q5_1: 9,
    QuantType.Q2_K: 10,
    QuantType.Q3_K: 12,
    QuantType.Q4_K: 15,
    QuantType.Q5_K: 17,
    QuantType.Q6_K: 18,
    QuantType.IQ2_XXS: 19,
    QuantType.IQ2_XS: 20,
    QuantType.IQ3_XXS: 23,
    QuantType.IQ1_S: 24,
    QuantType.IQ4_NL: 25,
    QuantType.IQ3_S: 26,
    QuantType.IQ2_S: 28,
    QuantType.IQ4_XS: 30,
    QuantType.IQ1_M: 31,
    QuantType.BF16: 32,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorSlot:
    """Where one tensor goes."""

    name: str
    shape: tuple[int, ...]
    quant_type: QuantType
    offset: int
    """From the start of the data section."""
    size_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """Header bytes and slots; `file_bytes` is the exact size."""

    header: bytes
    slots: tuple[TensorSlot, ...]
    alignment: int
    file_bytes: int


def file_type_of(inventory: ModelInventory, types: Mapping[str, QuantType]) -> int:
    """llama_ftype of the type that holds most weights outside the vocabulary matrices."""
    weights: dict[QuantType, int] = {}
    for tensor in inventory.quantizable:
        # Vocabulary matrices dominate small models and would name the file after themselves.
        counted = tensor.n_elements if tensor.layer is not None else tensor.n_elements // 1000
        weights[types[tensor.name]] = weights.get(types[tensor.name], 0) + counted
    return _FILE_TYPES[max(weights, key=lambda t: (weights[t], t.value))]


def _packed_string(text: str) -> bytes:
    data = text.encode("utf-8")
    return struct.pack("<Q", len(data)) + data


def _pair(key: str, value: MetadataItem) -> bytes:
    head = _packed_string(key)
    if isinstance(value, str):
        return head + struct.pack("<I", _STRING) + _packed_string(value)
    if isinstance(value, int):
        return head + struct.pack("<II", _UINT32, value)
    return head + struct.pack("<If", _FLOAT32, value)


def plan_layout(
    inventory: ModelInventory,
    types: Mapping[str, QuantType],
    source_pairs: Mapping[str, bytes],
    own_metadata: Mapping[str, MetadataItem],
    alignment: int,
) -> Layout:
    """Lay out the file. `source_pairs` are the source's key-value pairs as raw bytes, in order."""
    pairs = [data for key, data in source_pairs.items() if key not in REPLACED_KEYS and not key.startswith(OWN_PREFIX)]
    pairs.append(_pair("general.quantization_version", 2))
    pairs.append(_pair("general.file_type", file_type_of(inventory, types)))
    pairs.extend(_pair(key, value) for key, value in own_metadata.items())
    header = b"GGUF" + struct.pack("<IQQ", 3, len(inventory.tensors), len(pairs)) + b"".join(pairs)
    slots = []
    offset = 0
    table = []
    for tensor in inventory.tensors:
        quant_type = types.get(tensor.name, tensor.source_type)
        size_bytes = quant_type.row_bytes(tensor.n_cols) * tensor.n_rows
        slots.append(
            TensorSlot(
                name=tensor.name, shape=tensor.shape, quant_type=quant_type, offset=offset, size_bytes=size_bytes
            )
        )
        table.append(
            _packed_string(tensor.name)
            + struct.pack(f"<I{len(tensor.shape)}QIQ", len(tensor.shape), *tensor.shape, int(quant_type), offset)
        )
        offset += -(-size_bytes // alignment) * alignment
    header += b"".join(table)
    header += b"\0" * (-len(header) % alignment)
    return Layout(header=header, slots=tuple(slots), alignment=alignment, file_bytes=len(header) + offset)
