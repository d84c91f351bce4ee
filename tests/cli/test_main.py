"""The entry point: Ctrl-C says what it leaves, and a stdout that takes nothing is an error of ours."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO

import pytest

SCRIPT = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
sys.argv[0] = "ramp-edge"
from ramp_edge.cli.main import main
main()
"""


def start(*args: str | Path, cwd: Path, stdout: int | IO[str], **variables: str) -> subprocess.Popen[str]:
    environment = {k: v for k, v in os.environ.items() if k not in ("RAMP_EDGE_DEVICE", "RAMP_EDGE_DEBUG")}
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *map(str, args)], stdout=stdout, stderr=subprocess.PIPE, text=True, cwd=cwd,
        env={**environment, "RAMP_EDGE_CACHE": str(cwd / "cache"), **variables},
    )  # fmt: skip


def test_an_interrupted_build_names_resume(tiny_gguf: Path, tmp_path: Path) -> None:
    with start("build", tiny_gguf, "-d", "raspberry-pi-5", cwd=tmp_path, stdout=subprocess.DEVNULL) as build:
        assert build.stderr is not None
        while not build.stderr.readline().startswith("write calibration text"):
            assert build.poll() is None
        build.send_signal(signal.SIGINT)
        told = build.stderr.read()
    assert build.returncode == 130
    assert told.splitlines()[-1] == "ramp-edge: interrupted; the same command with --resume goes on where it was"
    assert "Traceback" not in told


def test_an_interrupted_run_has_nothing_to_resume(tiny_gguf: Path, tmp_path: Path) -> None:
    with start("run", tiny_gguf, "-p", "the board", "-n", "400", cwd=tmp_path, stdout=subprocess.PIPE) as run:
        assert run.stdout is not None and run.stderr is not None
        run.stdout.read(1)
        run.send_signal(signal.SIGINT)
        run.stdout.read()
        told = run.stderr.read()
    assert (run.returncode, told) == (130, "ramp-edge: interrupted\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("verb", ["devices list", "inspect --json", "--help"])
def test_a_full_stdout_is_no_bug_of_ours(tiny_gguf: Path, tmp_path: Path, verb: str, unbuffered: str) -> None:
    args: list[str | Path] = [*verb.split(), *([tiny_gguf] if "inspect" in verb else [])]
    with (
        Path("/dev/full").open("w") as full,
        start(*args, cwd=tmp_path, stdout=full, PYTHONUNBUFFERED=unbuffered) as process,
    ):
        assert process.stderr is not None
        told = process.stderr.read()
    assert process.returncode == 13
    assert told.startswith("ramp-edge: error: stdout cannot be written: No space left on device\n  -> ")
    assert len(told.splitlines()) == 2


def test_a_closed_pipe_is_quiet(tiny_gguf: Path, tmp_path: Path) -> None:
    with start("inspect", tiny_gguf, "--json", cwd=tmp_path, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        told = process.stderr.read()
    assert told == ""


@pytest.mark.parametrize("verb", ["build -d raspberry-pi-5", "run -p x", "eval --text t.txt"])
@pytest.mark.parametrize("threads", ["0", "513", "100000"])
def test_threads_that_would_crash_ggml_are_refused(tiny_gguf: Path, tmp_path: Path, verb: str, threads: str) -> None:
    with start(*verb.split(), tiny_gguf, "--threads", threads, cwd=tmp_path, stdout=subprocess.PIPE) as process:
        assert process.stderr is not None
        told = process.stderr.read()
    assert process.returncode == 2
    assert "Invalid value for '--threads'" in told


@pytest.mark.parametrize("verb", ["run -p x", "eval --text t.txt", "eval --text t.txt --reference broken.gguf"])
def test_what_aborts_libllama_is_refused_before(tiny_gguf: Path, tmp_path: Path, verb: str) -> None:
    data = tiny_gguf.read_bytes()
    at = data.index(b"llama.block_count") + len(b"llama.block_count") + 4
    (tmp_path / "broken.gguf").write_bytes(data[:at] + (1_048_576).to_bytes(4, "little") + data[at + 4 :])
    (tmp_path / "t.txt").write_text("the board reads " * 300)
    model = tiny_gguf if "--reference" in verb else tmp_path / "broken.gguf"
    with start(*verb.split(), model, cwd=tmp_path, stdout=subprocess.PIPE) as process:
        assert process.stderr is not None
        told = process.stderr.read()
    assert process.returncode == 8, told
    assert "broken.gguf: llama.block_count is 1048576, outside 1 to 512" in told


def test_run_says_that_the_context_ended_the_text(tiny_gguf: Path, tmp_path: Path) -> None:
    with start("run", tiny_gguf, "-p", "the board", "-n", "100000", "--threads", "1", cwd=tmp_path,
               stdout=subprocess.DEVNULL) as process:  # fmt: skip
        assert process.stderr is not None
        told = process.stderr.read()
    assert re.search(
        r"^warning: stopped after \d+ of 100000 tokens: the model's context of 512 tokens is full$", told, re.M
    )


def test_a_prompt_in_another_encoding_is_a_usage_error(tiny_gguf: Path, tmp_path: Path) -> None:
    with start("run", tiny_gguf, "-p", os.fsdecode(b"a\xff b"), cwd=tmp_path, stdout=subprocess.DEVNULL) as process:
        assert process.stderr is not None
        told = process.stderr.read()
    assert process.returncode == 2
    assert "the prompt is not UTF-8: byte 0xff at character 2" in told
