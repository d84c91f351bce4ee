"""A strict look at a GGUF header before anything trusts it.

gguf-py's reader allocates what a header promises, and takes 14 s to open a vocabulary of 262,144 tokens. A damaged or
hostile file can promise 2^60 tensors or a string of exabytes, so this walk checks every count and length against the
bytes that are really left. It notes where each key's bytes lie, so that values are decoded on demand and the emitter
can copy metadata byte for byte. Format: GGUF version 2 and 3 (docs/gguf.md of ggml).
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path

from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from ramp_edge.errors import ModelFileError, UnsupportedModelError
from ramp_edge.units import human_bytes

MAX_TENSORS = 1 << 20
MAX_KEYS = 1 << 16
MAX_KEY_BYTES = 1 << 16
MAX_NAME_BYTES = 64 * 4
MAX_DIMS = 4
_SCALAR_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
STRING, ARRAY = 8, 9
_U64 = struct.Struct("<Q")
_HINT = "download or convert the model again; compare its size and sha256 with the source's"


@dataclass(frozen=True, kw_only=True, slots=True)
class HeaderTensor:
    """One entry of the tensor table."""

    name: str
    shape: tuple[int, ...]
    """ggml order: shape[0] is the row length."""
    type_id: int
    offset: int
    """From the start of the data section."""
    size_bytes: int

    @property
    def type_name(self) -> str:
        """ggml's name of the type; files may hold types outside `QuantType`."""
        return str(GGMLQuantizationType(self.type_id).name)


@dataclass(frozen=True, kw_only=True, slots=True)
class MetadataEntry:
    """Where one key-value pair lies in the file."""

    key: str
    kind: int
    """GGUF value type id."""
    start: int
    """First byte of the pair (the key's length)."""
    value_start: int
    """First byte of the value, after its type id."""
    end: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Header:
    """What the check learned."""

    version: int
    metadata: dict[str, MetadataEntry]
    """In file order."""
    tensors: tuple[HeaderTensor, ...]
    data_offset: int
    alignment: int


class _Cursor:
    """Bounded reads of the header; every failure names the file and the place."""

    def __init__(self, buffer: mmap.mmap, path: Path) -> None:
        self.buffer, self.path, self.size, self.at = buffer, path, len(buffer), 0

    def fail(self, what: str) -> ModelFileError:
        return ModelFileError(f"{self.path}: {what} (header byte {self.at})", hint=_HINT)

    def skip(self, count: int, what: str) -> int:
        """Step over `count` bytes; returns where they began."""
        start, left = self.at, self.size - self.at
        if count > left:
            raise self.fail(f"{what} needs {count} bytes, the file has {left} left: truncated or damaged")
        self.at += count
        return start

    def take(self, count: int, what: str) -> bytes:
        start = self.skip(count, what)
        return self.buffer[start : start + count]

    def u32(self, what: str) -> int:
        return int(struct.unpack("<I", self.take(4, what))[0])

    def u64(self, what: str) -> int:
        return int(struct.unpack("<Q", self.take(8, what))[0])

    def text(self, what: str, limit: int) -> str:
        length = self.u64(f"length of {what}")
        if length > limit:
            raise self.fail(f"{what} claims {length} bytes, at most {limit} make sense")
        try:
            return self.take(length, what).decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.fail(f"{what} is not UTF-8") from error


def check_header(path: Path) -> Header:
    """Walk the header of `path`. Raises ModelFileError (damaged) or UnsupportedModelError (big-endian, version 1)."""
    try:
        if path.stat().st_size < 24:
            raise ModelFileError(f"{path}: {path.stat().st_size} bytes are too few for a GGUF header", hint=_HINT)
        with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as buffer:
            return _walk(_Cursor(buffer, path))
    except OSError as error:
        raise ModelFileError(
            f"{path}: cannot be read: {error.strerror or error}", hint="check the path and permissions"
        ) from error


def _walk(cursor: _Cursor) -> Header:
    magic = cursor.take(4, "the magic number")
    if magic != b"GGUF":
        raise ModelFileError(
            f"{cursor.path}: not a GGUF file (it begins with {magic!r}, not b'GGUF')",
            hint="give a .gguf file or a Hugging Face model directory (with config.json)",
        )
    version = cursor.u32("the version")
    if version not in (2, 3):
        if version & 0xFFFF == 0 or version == 1:
            kind = "version 1" if version == 1 else "big-endian"
            raise UnsupportedModelError(
                f"{cursor.path}: a {kind} GGUF",
                hint="convert the original model again with a current llama.cpp",
            )
        raise cursor.fail(f"GGUF version {version} is unknown (2 and 3 are known)")
    n_tensors, n_keys = cursor.u64("the tensor count"), cursor.u64("the key count")
    for count, limit, least, what in (
        (n_tensors, MAX_TENSORS, 24, "tensors"),
        (n_keys, MAX_KEYS, 13, "metadata keys"),
    ):
        if count > limit or count * least > cursor.size:
            raise cursor.fail(f"the header claims {count} {what} in a file of {human_bytes(cursor.size)}")
    metadata, alignment = _walk_metadata(cursor, n_keys)
    entries = _walk_tensors(cursor, n_tensors)
    data_offset = -(-cursor.at // alignment) * alignment
    _check_extents(cursor, entries, data_offset, alignment)
    return Header(
        version=version,
        metadata=metadata,
        tensors=tuple(entries),
        data_offset=data_offset,
        alignment=alignment,
    )


def _walk_metadata(cursor: _Cursor, n_keys: int) -> tuple[dict[str, MetadataEntry], int]:
    alignment = 32
    entries: dict[str, MetadataEntry] = {}
    for index in range(n_keys):
        start = cursor.at
        key = cursor.text(f"metadata key {index}", MAX_KEY_BYTES)
        if not key or key in entries:
            raise cursor.fail(f"metadata key {index} is {'empty' if not key else f'a second {key!r}'}")
        kind = cursor.u32(f"type of {key!r}")
        value_start = cursor.at
        if key == "general.alignment":
            if kind != 4:
                raise cursor.fail(f"general.alignment has value type {kind}, not uint32")
            alignment = cursor.u32(key)
            if alignment == 0 or alignment & (alignment - 1) or alignment > 1 << 20:
                raise cursor.fail(f"general.alignment is {alignment}, not a sensible power of two")
        else:
            _skip_value(cursor, key, kind)
        entries[key] = MetadataEntry(key=key, kind=kind, start=start, value_start=value_start, end=cursor.at)
    return entries, alignment


def _skip_value(cursor: _Cursor, key: str, kind: int) -> None:
    if kind in _SCALAR_BYTES:
        cursor.skip(_SCALAR_BYTES[kind], f"value of {key!r}")
    elif kind == STRING:
        cursor.text(f"value of {key!r}", cursor.size)
    elif kind == ARRAY:
        item, count = cursor.u32(f"item type of {key!r}"), cursor.u64(f"length of {key!r}")
        if item in _SCALAR_BYTES:
            cursor.skip(_SCALAR_BYTES[item] * count, f"array {key!r} of {count} items")
        elif item == STRING:
            _skip_strings(cursor, key, count)
        else:
            raise cursor.fail(f"array {key!r} has items of type {item}, which is unknown or nested")
    else:
        raise cursor.fail(f"{key!r} has the unknown value type {kind}")


def _skip_strings(cursor: _Cursor, key: str, count: int) -> None:
    if count * 8 > cursor.size - cursor.at:
        raise cursor.fail(f"array {key!r} claims {count} strings, more than the file can hold")
    # Vocabularies have a quarter of a million strings: a tight loop over the map, one check each.
    read, buffer, at, size = _U64.unpack_from, cursor.buffer, cursor.at, cursor.size
    for position in range(count):
        if at + 8 > size or (end := at + 8 + read(buffer, at)[0]) > size:
            cursor.at = min(at, size)
            raise cursor.fail(f"{key!r}[{position}] runs past the end of the file")
        at = end
    cursor.at = at


def _walk_tensors(cursor: _Cursor, n_tensors: int) -> list[HeaderTensor]:
    entries: list[HeaderTensor] = []
    names: set[str] = set()
    for index in range(n_tensors):
        name = cursor.text(f"name of tensor {index}", MAX_NAME_BYTES)
        if not name or name in names:
            raise cursor.fail(f"tensor {index} has {'no name' if not name else f'the name {name!r} a second time'}")
        names.add(name)
        n_dims = cursor.u32(f"dimensions of {name!r}")
        if not 1 <= n_dims <= MAX_DIMS:
            raise cursor.fail(f"tensor {name!r} has {n_dims} dimensions (1 to {MAX_DIMS} are possible)")
        shape = tuple(cursor.u64(f"shape of {name!r}") for _ in range(n_dims))
        type_id, offset = cursor.u32(f"type of {name!r}"), cursor.u64(f"offset of {name!r}")
        try:
            block_size, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(type_id)]
        except (ValueError, KeyError):
            raise cursor.fail(f"tensor {name!r} has the unknown type {type_id}") from None
        elements = 1
        for size in shape:
            elements *= size
        if min(shape) == 0 or elements >= 1 << 48:
            raise cursor.fail(f"tensor {name!r} has the impossible shape {list(shape)}")
        if shape[0] % block_size:
            raise cursor.fail(f"tensor {name!r}: rows of {shape[0]} do not divide into blocks of {block_size}")
        size_bytes = elements // block_size * block_bytes
        entries.append(HeaderTensor(name=name, shape=shape, type_id=type_id, offset=offset, size_bytes=size_bytes))
    return entries


def _check_extents(cursor: _Cursor, entries: list[HeaderTensor], data_offset: int, alignment: int) -> None:
    room = cursor.size - data_offset
    end = 0
    for entry in sorted(entries, key=lambda e: e.offset):
        if entry.offset % alignment:
            raise cursor.fail(f"tensor {entry.name!r} starts at {entry.offset}, not a multiple of {alignment}")
        if entry.offset < end:
            raise cursor.fail(f"tensor {entry.name!r} overlaps the one before it")
        end = entry.offset + entry.size_bytes
        if end > room:
            raise ModelFileError(
                f"{cursor.path}: truncated: tensor {entry.name!r} ends {human_bytes(end - room)} past the end of the file "
                f"(file {human_bytes(cursor.size)})",
                hint=_HINT,
            )
