"""Damaged and hostile headers: our errors with names and numbers, never a crash, a hang or much memory."""

from __future__ import annotations

import struct
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ramp_edge.errors import ModelFileError, RampEdgeError, UnsupportedModelError
from ramp_edge.model.gguf_file import GgufTensors, open_inventory
from ramp_edge.model.header import check_header

FUZZ = settings(
    deadline=None,
    max_examples=300,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
EXTREMES = [
    0,
    1,
    2,
    3,
    8,
    9,
    0x7F,
    0xFF,
    0xFFFF,
    1 << 31,
    (1 << 32) - 1,
    1 << 40,
    1 << 60,
    (1 << 63) - 1,
    (1 << 64) - 1,
]


@pytest.fixture(scope="session")
def tiny_bytes(tiny_gguf: Path) -> bytes:
    return tiny_gguf.read_bytes()


@pytest.fixture(scope="session")
def header_end(tiny_gguf: Path) -> int:
    return check_header(tiny_gguf).data_offset


def exercise(data: bytes) -> None:
    """Everything that opening does, and every value the file holds. Raises what a user would see."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mutated.gguf"
        path.write_bytes(data)
        inventory, tensors = open_inventory(path, allow_requantize=True)
        for key in tensors.header.metadata:
            tensors.metadata(key)
        for info in inventory.tensors:
            tensors.load_tensor(info.name, 0, 1)


def only_our_errors(data: bytes) -> None:
    start_s = time.perf_counter()
    try:
        exercise(data)
    except RampEdgeError as error:
        assert "mutated.gguf" in str(error)
    assert time.perf_counter() - start_s < 5.0  # 0.02 s


def test_the_unmutated_file_opens(tiny_bytes: bytes) -> None:
    exercise(tiny_bytes)


@FUZZ
@given(data=st.data())
def test_mutated_bytes_end_in_our_errors_or_success(tiny_bytes: bytes, header_end: int, data: st.DataObject) -> None:
    mutated = bytearray(tiny_bytes)
    for _ in range(data.draw(st.integers(1, 8))):
        mutated[data.draw(st.integers(0, header_end - 1))] = data.draw(st.integers(0, 255))
    only_our_errors(bytes(mutated))


@FUZZ
@given(data=st.data())
def test_extreme_numbers_end_in_our_errors_or_success(tiny_bytes: bytes, header_end: int, data: st.DataObject) -> None:
    mutated = bytearray(tiny_bytes)
    code = data.draw(st.sampled_from(["<I", "<Q"]))
    at = data.draw(st.integers(0, header_end - 9))
    struct.pack_into(code, mutated, at, data.draw(st.sampled_from(EXTREMES)) & ((1 << 8 * struct.calcsize(code)) - 1))
    only_our_errors(bytes(mutated))


@FUZZ
@given(data=st.data())
def test_removed_and_inserted_bytes_end_in_our_errors_or_success(
    tiny_bytes: bytes, header_end: int, data: st.DataObject
) -> None:
    at, count = data.draw(st.integers(0, header_end - 1)), data.draw(st.integers(0, 64))
    extra = data.draw(st.binary(max_size=64))
    only_our_errors(tiny_bytes[:at] + extra + tiny_bytes[at + count :])


@FUZZ
@given(data=st.binary(max_size=400))
@example(b"")
@example(b"GGUF")
def test_random_bytes_after_the_magic(data: bytes) -> None:
    only_our_errors(data)
    only_our_errors(b"GGUF\x03\0\0\0" + data)


def test_every_truncation_is_named(tiny_bytes: bytes, header_end: int, tmp_path: Path) -> None:
    path = tmp_path / "cut.gguf"
    lengths = [*range(0, 64), *range(64, header_end, 997), header_end, header_end + 1, len(tiny_bytes) - 1]
    for length in lengths:
        path.write_bytes(tiny_bytes[:length])
        with pytest.raises(ModelFileError) as caught:
            open_inventory(path)
        assert "cut.gguf" in caught.value.message
    # Data cut short names the tensor and how much is missing.
    with pytest.raises(ModelFileError, match=r"truncated: tensor '\S+' ends 1 B past the end"):
        open_inventory(path)


def _header(n_tensors: int, n_keys: int, body: bytes = b"", version: int = 3, fill: int = 4096) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, n_tensors, n_keys) + body + b"\0" * fill


def _text(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def _tensor(name: str, shape: list[int], type_id: int = 0, offset: int = 0) -> bytes:
    return _text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, type_id, offset)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (_header(1 << 60, 0), "1152921504606846976 tensors"),
        (_header(0, 1 << 62), "4611686018427387904 metadata keys"),
        (_header(1 << 19, 0), "524288 tensors"),
        (_header(0, 1, struct.pack("<Q", 1 << 61)), "2305843009213693952 bytes"),
        (_header(0, 1, _text("k") + struct.pack("<I", 99)), "unknown value type 99"),
        (_header(0, 1, _text("k") + struct.pack("<IIQ", 9, 4, 1 << 61)), "array 'k' of 2305843009213693952 items"),
        (_header(0, 1, _text("k") + struct.pack("<IIQ", 9, 8, 1 << 61)), "claims 2305843009213693952 strings"),
        (_header(0, 1, _text("k") + struct.pack("<IIQ", 9, 9, 1)), "unknown or nested"),
        (_header(0, 1, _text("general.alignment") + struct.pack("<II", 4, 3)), "general.alignment is 3"),
        (_header(0, 1, _text("general.alignment") + struct.pack("<II", 4, 0)), "general.alignment is 0"),
        (_header(0, 2, 2 * (_text("k") + struct.pack("<II", 4, 3))), "a second 'k'"),
        (_header(1, 0, _tensor("t", [])), "0 dimensions"),
        (_header(1, 0, _text("t") + struct.pack("<I", 1 << 31)), "2147483648 dimensions"),
        (_header(1, 0, _tensor("t", [1 << 40, 1 << 40])), r"impossible shape \[1099511627776, 1099511627776\]"),
        (_header(1, 0, _tensor("t", [4, 0])), r"impossible shape \[4, 0\]"),
        (_header(1, 0, _tensor("t", [1 << 30])), r"tensor 't' ends 4.29 GB past the end"),
        (_header(1, 0, _tensor("t", [32], 77)), "unknown type 77"),
        (_header(1, 0, _tensor("t", [100], 12)), "rows of 100 do not divide into blocks of 256"),
        (_header(1, 0, _tensor("t", [32], 0, 7)), "starts at 7, not a multiple of 32"),
        (_header(1, 0, _tensor("t", [32], 0, (1 << 64) - 32)), "past the end of the file"),
        (_header(2, 0, _tensor("t", [32]) + _tensor("t", [32], 0, 128)), "the name 't' a second time"),
        (_header(2, 0, _tensor("t", [32]) + _tensor("u", [32], 0, 32)), "'u' overlaps"),
        (_header(1, 0, _tensor("", [32])), "has no name"),
        (_header(0, 0, version=7), "version 7"),
    ],
)
def test_absurd_claims_are_named_at_once(tmp_path: Path, data: bytes, words: str) -> None:
    path = tmp_path / "absurd.gguf"
    path.write_bytes(data)
    tracemalloc.start()
    try:
        with pytest.raises(ModelFileError, match=words) as caught:
            open_inventory(path)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "absurd.gguf" in caught.value.message
    assert peak_bytes < 2_000_000  # 0.1 MB


@pytest.mark.parametrize(
    ("version", "words"), [(struct.pack(">I", 3), "big-endian"), (struct.pack("<I", 1), "version 1")]
)
def test_old_and_big_endian_files_are_refused_by_name(tmp_path: Path, version: bytes, words: str) -> None:
    path = tmp_path / "other.gguf"
    path.write_bytes(b"GGUF" + version + b"\0" * 64)
    with pytest.raises(UnsupportedModelError, match=words):
        open_inventory(path)


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="No such file"):
        check_header(tmp_path / "absent.gguf")
    with pytest.raises(ModelFileError, match=r"cannot be read|too few"):
        check_header(tmp_path)


def test_values_equal_gguf_pys(tiny_gguf: Path) -> None:
    import gguf

    tensors, reader = GgufTensors(tiny_gguf), gguf.GGUFReader(tiny_gguf)
    theirs = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    ours = {key: tensors.metadata(key) for key in tensors.header.metadata}
    assert ours == theirs
    assert [t.name for t in tensors.header.tensors] == [t.name for t in reader.tensors]
    for tensor in reader.tensors:
        assert (tensors.raw(tensor.name).reshape(-1) == tensor.data.reshape(-1).view("uint8")).all()


def test_every_metadata_type_is_decoded(tmp_path: Path) -> None:
    import gguf

    values: dict[str, tuple[Callable[..., None], object]] = {}
    writer = gguf.GGUFWriter(tmp_path / "all.gguf", "llama")
    for name, value in (
        ("uint8", 200), ("int8", -5), ("uint16", 60000), ("int16", -300), ("uint32", 1 << 31), ("int32", -(1 << 31)),
        ("float32", 0.5), ("bool", True), ("string", "Grüße"), ("uint64", 1 << 63), ("int64", -(1 << 63)),
        ("float64", 1e300), ("array", ["a", "", "ü"]),
    ):  # fmt: skip
        getattr(writer, f"add_{name}")(f"x.{name}", value)
        values[f"x.{name}"] = value  # type: ignore[assignment]
    writer.add_array("x.numbers", [1, -2, 3])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    tensors = GgufTensors(tmp_path / "all.gguf")
    assert {key: tensors.metadata(key) for key in values} == values
    assert tensors.metadata("x.numbers") == [1, -2, 3]
    assert tensors.metadata("x.absent") is None
