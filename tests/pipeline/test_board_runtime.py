"""A board gets the runtime that fits it: sent where it is built here, or built there from the source, once."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import shutil
import tarfile
from pathlib import Path

import pytest

from ramp_edge.device.local import LocalTarget
from ramp_edge.device.target import Target, TargetSpec
from ramp_edge.errors import BoardToolError, RuntimeToolError
from ramp_edge.events import Event, EventBus, StageAdvanced, StageStarted
from ramp_edge.pipeline.board_runtime import board_recipe, board_runtime, build_on_board
from ramp_edge.pipeline.on_board import deployed_tools
from ramp_edge.profile.load import load_target
from ramp_edge.runtime.manifest import Build, BuiltOn, LlamaCpp, Need, Recipe, RuntimeManifest, Sdist, Source

ROOT = "toy-1.0/vendor/llama.cpp"
PROJECT = """\
cmake_minimum_required(VERSION 3.14)
project(toy C)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
add_executable(llama-bench main.c)
"""
GPU = Recipe(
    name="gpu",
    boards="A toy board with a GPU",
    system="linux",
    machines=("x86_64", "aarch64"),
    backend="cuda",
    isa=("sm_87",),
    built_on=BuiltOn.TARGET,
    needs=(Need(command="cmake", how="apt install cmake"),),
    source=("main.c",),
    flags=("-DCMAKE_BUILD_TYPE=Release",),
    tools=("llama-bench",),
)


def packed(tmp_path: Path, main: str) -> RuntimeManifest:
    archive = tmp_path / "toy-1.0.tar.gz"
    files = {"CMakeLists.txt": PROJECT, "main.c": main, "convert_hf_to_gguf.py": ""}
    with tarfile.open(archive, "w:gz") as tar:
        for name, text in files.items():
            info = tarfile.TarInfo(f"{ROOT}/{name}")
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
    data = archive.read_bytes()
    return RuntimeManifest(
        package="toy",
        version="1.0",
        sdist=Sdist(file=archive.name, size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest()),
        llama_cpp=LlamaCpp(commit="0123456", folder=ROOT),
        build=Build(flags=(), tools=("llama-bench",)),
        source=Source(skip=(".",)),
        recipes=(GPU,),
    )


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Target:
    monkeypatch.setenv("RAMP_EDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("RAMP_EDGE_SDIST", str(tmp_path / "toy-1.0.tar.gz"))
    return LocalTarget(TargetSpec(name="toy", host=None, folder=str(tmp_path / "board")))


def test_a_board_builds_from_the_source_once(tmp_path: Path, board: Target) -> None:
    assert shutil.which("cmake"), "CI installs cmake"
    manifest = packed(tmp_path, '#include <stdio.h>\nint main(void) { puts("toy bench"); return 0; }\n')
    seen: list[Event] = []
    folder = build_on_board(board, GPU, EventBus([seen.append]), manifest)
    assert board.run([f"{folder}/llama-bench"], timeout_s=20).stdout == b"toy bench\n"
    assert folder == deployed_tools(board), "where bench looks for it"
    assert max(e.done for e in seen if isinstance(e, StageAdvanced) and e.name.startswith("compile")) == 100
    again: list[Event] = []
    assert build_on_board(board, GPU, EventBus([again.append]), manifest) == folder
    assert not [e for e in again if isinstance(e, StageStarted) and e.name.startswith(("configure", "compile"))]


def test_the_compilers_own_words_arrive_and_the_next_try_builds(tmp_path: Path, board: Target) -> None:
    manifest = packed(tmp_path, "int main(void) { return undeclared_thing; }\n")
    with pytest.raises(BoardToolError) as caught:
        build_on_board(board, GPU, EventBus(), manifest)
    assert "toy: cmake failed" in caught.value.message
    assert "rror" in caught.value.message
    assert "/bin" in deployed_tools(board), "an unfinished build is not offered"
    assert "runtimes" not in deployed_tools(board)


def test_what_the_board_lacks_is_told_first(tmp_path: Path, board: Target) -> None:
    manifest = packed(tmp_path, "int main(void) { return 0; }\n")
    needs = (*GPU.needs, Need(command="no-such-nvcc", how="install JetPack"))
    with pytest.raises(BoardToolError, match="has no no-such-nvcc") as caught:
        build_on_board(board, GPU.model_copy(update={"needs": needs}), EventBus(), manifest)
    assert caught.value.hint == "no-such-nvcc: install JetPack"


def test_tools_that_vanished_are_noticed(tmp_path: Path, board: Target) -> None:
    manifest = packed(tmp_path, "int main(void) { return 0; }\n")
    folder = build_on_board(board, GPU, EventBus(), manifest)
    Path(folder, "llama-bench").unlink()
    with pytest.raises(BoardToolError, match="no llama-bench in"):
        build_on_board(board, GPU, EventBus(), manifest)
    build_on_board(board, GPU, EventBus(), manifest)
    assert Path(folder, "llama-bench").is_file()


def test_what_the_board_says_it_is_decides_beside_its_profile(board: Target) -> None:
    machine = board.run(["uname", "-m"], timeout_s=10).stdout.decode().strip()
    if machine != "x86_64":
        pytest.fail("written for an x86-64 test machine")
    assert board_recipe(board, load_target("x86-avx2-16gb")).name == "x86-64-avx2"
    with pytest.raises(RuntimeToolError, match="x86_64"):
        board_recipe(board, load_target("raspberry-pi-5-8gb"))
    emulated = LocalTarget(dataclasses.replace(board.spec, exec_prefix=("qemu-aarch64-static",)))
    assert board_recipe(emulated, load_target("raspberry-pi-5-8gb")).name == "aarch64-dotprod"
    assert board_runtime(emulated, load_target("jetson-orin"), EventBus()).files == {}, "a Jetson builds for itself"
