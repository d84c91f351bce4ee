"""The tools for ARM boards, run: they are what the recipe says, and they compute what this machine computes."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from ramp_edge.runtime.built import BuiltRuntime, altered_tools
from ramp_edge.runtime.elf import read_elf
from ramp_edge.runtime.manifest import load_manifest

pytestmark = [pytest.mark.arm, pytest.mark.slow]
CPU = "cortex-a76"
"""The Raspberry Pi 5's: what is not in it ends the program."""
ATTEMPTS = 20
TEXT = " ".join(f"the board reads page {n} and writes the next one while it waits for rain." for n in range(200))


@pytest.fixture(scope="module")
def run_arm(
    qemu_aarch64: str, arm_tools: BuiltRuntime, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a tool as on the board."""
    # In a folder that takes the core file of a program that was ended.
    folder = tmp_path_factory.mktemp("board")

    def run(tool: str, *arguments: str, cpu: str = CPU) -> subprocess.CompletedProcess[str]:
        command = [qemu_aarch64, "-cpu", cpu, str(arm_tools.tools[tool].path), *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, cwd=folder
        )

    return run


def perplexity(run: Callable[[], subprocess.CompletedProcess[str]]) -> float:
    """What llama-perplexity finds. It may end before its log thread has printed the last lines: then it runs again."""
    for _ in range(ATTEMPTS):
        done = run()
        assert done.returncode == 0, done.stderr[-2000:]
        if match := re.search(r"Final estimate: PPL = ([0-9.]+)", done.stdout + done.stderr):
            return float(match.group(1))
    raise AssertionError(f"no perplexity in {ATTEMPTS} runs: {(done.stdout + done.stderr)[-2000:]}")


def test_they_are_whole_static_and_for_the_board(arm_tools: BuiltRuntime) -> None:
    assert altered_tools(arm_tools) == ()
    for tool in arm_tools.tools.values():
        facts = read_elf(tool.path)
        assert (facts.machine, facts.is_static) == ("aarch64", True)
    assert arm_tools.size_bytes < 50_000_000


@pytest.mark.parametrize("quant_type", ["F16", "Q8_0", "Q4_0", "Q4_K", "IQ4_NL"])
def test_perplexity_is_the_host_s(
    run_arm: Callable[..., subprocess.CompletedProcess[str]],
    llama_bin: Path,
    tiny_gguf: Path,
    tmp_path: Path,
    quant_type: str,
) -> None:
    text = tmp_path / "text.txt"
    text.write_text(TEXT, encoding="utf-8")
    model = tiny_gguf
    if quant_type != "F16":
        model = tmp_path / "model.gguf"
        command = [llama_bin / "llama-quantize", "--pure", tiny_gguf, model, quant_type, "1"]
        subprocess.run(command, check=True, capture_output=True)
    arguments = ["-m", str(model), "-f", str(text), "-c", "256", "-b", "256", "--chunks", "2", "-t", "1"]
    host = [str(llama_bin / "llama-perplexity"), *arguments]
    here = perplexity(lambda: subprocess.run(host, capture_output=True, text=True, check=False))
    there = perplexity(lambda: run_arm("llama-perplexity", *arguments))
    assert there == pytest.approx(here, rel=0.01)


def test_the_bench_knows_its_commit_and_its_processor(
    run_arm: Callable[..., subprocess.CompletedProcess[str]], tiny_gguf: Path
) -> None:
    done = run_arm("llama-bench", "-m", str(tiny_gguf), "-p", "8", "-n", "4", "-r", "1", "-t", "1", "-o", "json")
    assert done.returncode == 0, done.stderr[-2000:]
    records = json.loads(done.stdout)
    assert len(records) == 2 and all(record["avg_ts"] > 0 for record in records)
    assert {record["build_commit"] for record in records} == {load_manifest().llama_cpp.commit}


def test_they_generate(run_arm: Callable[..., subprocess.CompletedProcess[str]], tiny_gguf: Path) -> None:
    done = run_arm(
        "llama-completion", "-m", str(tiny_gguf), "-p", "the small board", "-n", "8", "-t", "1", "-no-cnv", "--temp", "0"
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "the small board" in done.stdout and len(done.stdout.strip()) > len("the small board")


def test_they_use_what_the_board_has(
    run_arm: Callable[..., subprocess.CompletedProcess[str]], tiny_gguf: Path, tmp_path: Path
) -> None:
    """Were the kernels built without dotprod, a processor without it would run them."""
    done = run_arm(
        "llama-bench", "-m", str(tiny_gguf), "-p", "8", "-n", "4", "-r", "1", "-t", "1", cpu="cortex-a72"
    )  # fmt: skip
    assert done.returncode == -signal.SIGILL
