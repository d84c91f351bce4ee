"""Metadata values decoded from the bytes that the header check located."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from ramp_edge.model.header import ARRAY, STRING, MetadataEntry

_SCALARS = {
    0: "<B",
    1: "<b",
    2: "<H",
    3: "<h",
    4: "<I",
    5: "<i",
    6: "<f",
    7: "<?",
    10: "<Q",
    11: "<q",
    12: "<d",
}
MetadataValue = bool | int | float | str | list[Any]


def _strings(data: bytes, at: int, count: int) -> list[str]:
    values = []
    for _ in range(count):
        (length,) = struct.unpack_from("<Q", data, at)
        # Tokens may be raw bytes; the replacement shows in text only, emission copies the bytes.
        values.append(data[at + 8 : at + 8 + length].decode("utf-8", errors="replace"))
        at += 8 + length
    return values


def decode_value(entry: MetadataEntry, data: bytes) -> MetadataValue:
    """Value of `entry`; `data` are its bytes from `value_start` to `end`."""
    if entry.kind in _SCALARS:
        value: MetadataValue = struct.unpack(_SCALARS[entry.kind], data)[0]
        return value
    if entry.kind == STRING:
        return data[8:].decode("utf-8")
    assert entry.kind == ARRAY, "the header check lets no other kind pass"
    item, count = struct.unpack_from("<IQ", data)
    if item == STRING:
        return _strings(data, 12, count)
    return list(np.frombuffer(data, dtype=_SCALARS[item].replace("B", "u1").replace("b", "i1"), offset=12).tolist())
