"""libllama's log: errors and warnings are reasons, the rest is not; pieces of a line belong together."""

from __future__ import annotations

from pathlib import Path

import pytest

from ramp_edge.codec.libllama import _Log, captured_log, libllama, telling_lines

DEBUG, INFO, WARN, ERROR, CONTINUES = 1, 2, 3, 4, 5  # enum ggml_log_level of ggml.h


def test_levels_and_pieces() -> None:
    log = _Log()
    for level, text in (
        (DEBUG, b"debug\n"),
        (INFO, b"loading ... "),
        (CONTINUES, b"done\n"),
        (WARN, b"a warning\n"),
        (ERROR, b"an error of "),
        (CONTINUES, b"two pieces\n"),
    ):
        log.receive(level, text, None)
    assert list(log.recent) == ["loading ... done", "a warning", "an error of two pieces"]
    assert list(log.faults) == ["a warning", "an error of two pieces"]


def test_a_file_that_is_no_model_gives_libllama_s_own_reason(tmp_path: Path) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"GGUF" + bytes(20))
    library = libllama()
    with captured_log() as lines:
        model = library.llama_model_load_from_file(str(path).encode(), library.llama_model_default_params())
    assert not model
    reason = telling_lines(lines)
    assert "broken.gguf" in reason or "error" in reason.lower() or "fail" in reason.lower()


@pytest.mark.parametrize("lines", [[], ["print_info: file format = GGUF V3"]])
def test_what_libllama_was_doing_is_no_reason(lines: list[str]) -> None:
    assert telling_lines(lines) == "it gave no reason"
