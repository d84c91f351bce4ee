"""Files that would make libllama abort, or fail without a word, are refused before it sees them."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from ramp_edge.errors import ModelFileError
from ramp_edge.model.gguf_file import open_inventory
from ramp_edge.model.header import check_header
from ramp_edge.model.runnable import check_runnable


def lie(source: Path, target: Path, key: str, value: float, kind: str = "<I") -> Path:
    """A copy with one number of its metadata changed in place."""
    data = bytearray(source.read_bytes())
    struct.pack_into(kind, data, check_header(source).metadata[f"llama.{key}"].value_start, value)
    target.write_bytes(data)
    return target


def test_a_model_and_a_quantized_one_may_run(
    tiny_gguf: Path, make_tiny_gguf: Callable[..., Path], tmp_path: Path
) -> None:
    assert check_runnable(tiny_gguf).path == tiny_gguf
    check_runnable(make_tiny_gguf(tmp_path / "q.gguf", dtype="q4_0"))


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("block_count", 1_048_576, r"llama\.block_count is 1048576, outside 1 to 512"),
        ("block_count", 513, r"block_count is 513"),
        ("block_count", 0, r"block_count is 0"),
        ("context_length", 0, r"context_length is 0"),
        ("context_length", 1 << 31, r"context_length is 2147483648"),
        ("attention.head_count", 0, r"head_count is 0"),
        ("attention.head_count_kv", 3, "4 heads cannot share 3 key-value heads"),
        ("rope.dimension_count", 7, "rope dimension 7 in heads of 64"),
    ],
)
def test_numbers_that_abort_libllama(tiny_gguf: Path, tmp_path: Path, key: str, value: int, words: str) -> None:
    with pytest.raises(ModelFileError, match=words):
        check_runnable(lie(tiny_gguf, tmp_path / "lie.gguf", key, value))


def test_a_norm_that_aborts_libllama(tiny_gguf: Path, tmp_path: Path) -> None:
    path = lie(tiny_gguf, tmp_path / "lie.gguf", "attention.layer_norm_rms_epsilon", float("nan"), "<f")
    with pytest.raises(ModelFileError, match="layer_norm_rms_epsilon"):
        check_runnable(path)


def test_other_families_are_judged_by_their_layers_alone(tiny_gguf: Path, tmp_path: Path) -> None:
    path = tmp_path / "other.gguf"
    path.write_bytes(tiny_gguf.read_bytes().replace(b"llama", b"zzama"))
    check_runnable(path)
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, check_header(path).metadata["zzama.attention.head_count"].value_start, 0)
    path.write_bytes(data)
    check_runnable(path)
    struct.pack_into("<I", data, check_header(path).metadata["zzama.block_count"].value_start, 600)
    path.write_bytes(data)
    with pytest.raises(ModelFileError, match=r"zzama\.block_count is 600"):
        check_runnable(path)


@pytest.mark.parametrize("key", ["model", "tokens"])
def test_a_model_without_tokenizer_says_so_in_build_too(tiny_gguf: Path, tmp_path: Path, key: str) -> None:
    path = tmp_path / "bare.gguf"
    whole = f"tokenizer.ggml.{key}".encode()
    path.write_bytes(tiny_gguf.read_bytes().replace(whole, whole[:-1] + b"x"))
    for opener in (check_runnable, open_inventory):
        with pytest.raises(ModelFileError, match=rf"no tokenizer: the metadata lacks tokenizer\.ggml\.{key}"):
            opener(path)  # type: ignore[operator]


@pytest.mark.parametrize("kept", [0, 3, 400, 200_000])
def test_truncated_files(tiny_gguf: Path, tmp_path: Path, kept: int) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(tiny_gguf.read_bytes()[:kept])
    with pytest.raises(ModelFileError, match=r"cut\.gguf"):
        check_runnable(path)
