"""The wrapper around libllama: silent, closed, and with an error of ours for every misuse."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ramp_edge.codec import libllama
from ramp_edge.errors import CalibrationError, EvaluationError
from ramp_edge.evaluate.evaluator import read_text
from ramp_edge.evaluate.llama import LlamaSession, LlamaVocabulary


def test_nothing_reaches_stderr(tiny_gguf: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with LlamaSession(tiny_gguf, n_ctx=32, threads=1) as session:
        session.feed(np.arange(8, dtype=np.int32), 0)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kept", [0, 3, 400, 200_000])
def test_a_truncated_file_is_an_error_of_ours(
    tiny_gguf: Path, tmp_path: Path, kept: int, capfd: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(tiny_gguf.read_bytes()[:kept])
    with pytest.raises(EvaluationError, match=r"cannot load .*broken\.gguf: .+"):
        LlamaSession(broken, n_ctx=32)
    assert capfd.readouterr().err == ""


def test_what_libllama_was_doing_is_no_reason() -> None:
    info, error = 2, 4  # enum ggml_log_level of ggml.h
    told = ["llama_model_loader: loaded meta data", "gguf: invalid magic", "print_info: file type   = F16"]
    for level, line in zip((info, error, info), told, strict=True):
        libllama._log.receive(level, f"{line}\n".encode(), None)
    assert libllama.telling_lines(told) == "gguf: invalid magic"
    assert libllama.telling_lines(told[2:]) == "it gave no reason"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="is not a file"):
        LlamaVocabulary(tmp_path / "none.gguf")


@pytest.mark.parametrize("n_ctx", [0, 100_000])
def test_a_context_the_model_does_not_have(tiny_gguf: Path, n_ctx: int) -> None:
    with pytest.raises(EvaluationError, match=f"context of {n_ctx} tokens"):
        LlamaSession(tiny_gguf, n_ctx=n_ctx)
    with LlamaSession(tiny_gguf, n_ctx=100_000, cut_to_model=True) as session:
        assert session.n_ctx == 512


def test_what_would_abort_the_process_raises(tiny_gguf: Path) -> None:
    with pytest.raises(ValueError, match="513 threads"):
        LlamaSession(tiny_gguf, n_ctx=32, threads=513)
    with LlamaSession(tiny_gguf, n_ctx=32, threads=1, max_outputs=4) as session:
        with pytest.raises(ValueError, match="exceed"):
            session.logits(np.arange(5, dtype=np.int32), 0)
        with pytest.raises(ValueError, match="exceed"):
            session.feed(np.arange(33, dtype=np.int32), 0)
        with pytest.raises(EvaluationError, match="token ids reach 100000"):
            session.feed(np.array([1, 100_000], dtype=np.int32), 0)


def test_pieces_of_a_window_equal_the_whole(tiny_gguf: Path) -> None:
    ids = np.arange(20, 52, dtype=np.int32)
    with LlamaSession(tiny_gguf, n_ctx=32, threads=1) as session:
        whole = session.logits(ids, 0).copy()
        session.clear()
        session.feed(ids[:16], 0)
        parts = [session.logits(ids[at : at + 4], at).copy() for at in range(16, 32, 4)]
        session.clear()
        last = session.last_logits(ids, 0).copy()
    assert np.abs(np.concatenate(parts) - whole[16:]).max() < 0.05  # measured 0.006, f16 keys and other kernels
    assert np.abs(last - whole[-1]).max() < 0.05


def test_hidden_states_are_those_of_the_scored_tokens(tiny_gguf: Path) -> None:
    ids = np.arange(20, 36, dtype=np.int32)
    with LlamaSession(tiny_gguf, n_ctx=32, threads=1, with_hidden=True) as session:
        session.feed(ids[:8], 0)
        logits = session.logits(ids[8:], 8).copy()
        hidden = session.hidden(8)
        assert hidden.shape == (8, session.n_embd)
        assert np.linalg.matrix_rank(np.concatenate([hidden, np.ones((1, session.n_embd))])) == 9
    assert logits.shape[0] == 8


def test_closing_twice_is_harmless(tiny_gguf: Path) -> None:
    session = LlamaSession(tiny_gguf, n_ctx=32)
    session.close()
    session.close()
    with LlamaVocabulary(tiny_gguf) as vocabulary:
        vocabulary.close()


def test_tokens_of_text_and_bytes_agree(tiny_gguf: Path) -> None:
    with LlamaVocabulary(tiny_gguf) as vocabulary:
        assert vocabulary.tokenize("café").tolist() == vocabulary.tokenize("café".encode()).tolist()
        assert len(vocabulary.tokenize("")) == 0
        # Text that spells a special token stays text.
        assert vocabulary.n_vocab - 1 not in vocabulary.tokenize("<|endoftext|>").tolist()


def test_a_text_is_read_as_llama_cpp_reads_it(tmp_path: Path) -> None:
    file = tmp_path / "t.txt"
    file.write_bytes(b"caf\xc3\xa9 one\r\ntwo\n\n")
    assert read_text(file) == "café one\r\ntwo\n"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"good " * 2000 + b"\xff", "byte 10000 is 0xFF"),
        (b"cut \xc3", "byte 4 is 0xC3"),
        (b"text " * 2000 + b"\0 more", "binary file, or UTF-16: byte 10000 is NUL"),
        ("UTF-16".encode("utf-16-le"), "byte 1 is NUL"),
    ],
)
def test_what_is_no_text_is_refused_with_its_place(tmp_path: Path, content: bytes, words: str) -> None:
    file = tmp_path / "t.txt"
    file.write_bytes(content)
    with pytest.raises(CalibrationError, match=rf"t\.txt is .*{words}") as caught:
        read_text(file)
    assert "UTF-8" in caught.value.hint


@pytest.mark.parametrize("content", [b"", b" \n\t\n"])
def test_an_empty_text_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "t.txt"
    file.write_bytes(content)
    with pytest.raises(CalibrationError, match="is empty"):
        read_text(file)
    with pytest.raises(CalibrationError, match="cannot be read"):
        read_text(tmp_path / "none.txt")
