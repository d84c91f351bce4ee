"""Building tools, with a cmake of our own on the PATH: caching, progress, failures in the compiler's words."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from ramp_edge.errors import CacheError, RuntimeToolError
from ramp_edge.events import Event, EventBus, Note, StageAdvanced
from ramp_edge.runtime import build as runtime_build
from ramp_edge.runtime.build import build_host_tools, build_runtime, host_folder, host_tools
from ramp_edge.runtime.built import altered_tools, ready_runtime
from ramp_edge.runtime.manifest import RuntimeManifest
from ramp_edge.runtime.recipes import host_recipe, recipe_named

Pack = Callable[..., tuple[RuntimeManifest, Path]]


def test_tools_are_built_once(pack: Pack, cmake: Callable[..., Path]) -> None:
    manifest, archive = pack()
    calls = cmake()
    seen: list[Event] = []
    assert host_tools(manifest) is None
    folder = build_host_tools(EventBus([seen.append]), archive, manifest)
    assert sorted(p.name for p in folder.iterdir()) == ["llama-other", "llama-toy"]
    lines = calls.read_text().splitlines()
    assert len(lines) == 2 and "-DX=1" in lines[0] and lines[1].endswith("--target llama-toy llama-other")
    assert [e.done for e in seen if isinstance(e, StageAdvanced) and "compile" in e.name] == [25, 50, 100]
    assert build_host_tools(EventBus(), None, manifest) == folder == host_tools(manifest)
    assert len(calls.read_text().splitlines()) == 2


def test_changed_or_missing_tools_are_built_again(pack: Pack, cmake: Callable[..., Path]) -> None:
    manifest, archive = pack()
    calls = cmake()
    folder = build_host_tools(EventBus(), archive, manifest)
    (folder / "llama-toy").write_text("half")
    assert host_tools(manifest) is None
    build_host_tools(EventBus(), None, manifest)
    assert len(calls.read_text().splitlines()) == 4 and host_tools(manifest) == folder
    (folder / "llama-other").unlink()
    assert host_tools(manifest) is None


def test_a_full_cache_is_no_fault_of_cmake(
    pack: Pack, cmake: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, archive = pack()
    cmake()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(runtime_build, "compile_percent", full)
    with pytest.raises(CacheError, match="the disk is full"):
        build_host_tools(EventBus(), archive, manifest)


def test_other_flags_build_elsewhere(pack: Pack, cmake: Callable[..., Path]) -> None:
    manifest, archive = pack()
    cmake()
    build_host_tools(EventBus(), archive, manifest)
    other = manifest.model_copy(update={"build": manifest.build.model_copy(update={"flags": ("-DX=2",)})})
    assert host_tools(other) is None


def test_the_compilers_words_are_kept(pack: Pack, cmake: Callable[..., Path]) -> None:
    manifest, archive = pack()
    cmake(after='echo "x.cpp:3: fatal error: no such header"; exit 2')
    with pytest.raises(RuntimeToolError, match=r"failed: x\.cpp:3: fatal error: no such header") as caught:
        build_host_tools(EventBus(), archive, manifest)
    assert "build.log" in caught.value.hint
    assert host_tools(manifest) is None


def test_a_tool_that_was_not_built_is_named(pack: Pack, cmake: Callable[..., Path]) -> None:
    manifest, archive = pack()
    cmake(tools="llama-toy")
    with pytest.raises(RuntimeToolError, match="left no llama-other in"):
        build_host_tools(EventBus(), archive, manifest)


def test_without_cmake(pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(RuntimeToolError, match="cmake is not on the PATH") as caught:
        build_host_tools(EventBus(), None, pack()[0])
    assert "pip install cmake" in caught.value.hint


def test_a_board_s_tools(
    pack: Pack, cmake: Callable[..., Path], compiler: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, archive = pack()
    calls = cmake()
    for name in ("toy-board-gcc", "toy-board-g++"):
        compiler(name)
    monkeypatch.setenv("CFLAGS", "-march=native")
    recipe = recipe_named("board", manifest)
    assert ready_runtime(recipe, manifest) is None
    built = build_runtime(recipe, EventBus(), archive, manifest)
    configure, compile_ = calls.read_text().splitlines()
    assert "-DCMAKE_C_COMPILER=toy-board-gcc -DCMAKE_CXX_COMPILER=toy-board-g++ -DCOMMON=a b" in configure
    assert configure.endswith("-DLLAMA_BUILD_COMMIT=0123456 -DOWN=1") and "-DX=1" not in configure
    assert compile_.endswith("--target llama-toy llama-other")
    # This machine's flags are for this machine's own tools only.
    assert Path(f"{calls}.environment").read_text() == "CFLAGS=\n" * 2
    assert (built.recipe, built.commit, set(built.tools)) == ("board", "0123456", {"llama-toy", "llama-other"})
    for name, tool in built.tools.items():
        assert tool.path == built.folder / name and tool.size_bytes == tool.path.stat().st_size == 120
        assert tool.sha256 == hashlib.sha256(tool.path.read_bytes()).hexdigest()
    assert build_runtime(recipe, EventBus(), None, manifest) == built == ready_runtime(recipe, manifest)
    assert len(calls.read_text().splitlines()) == 2
    assert built.size_bytes == 240 and built.folder != host_folder(manifest) / "bin"
    assert host_tools(manifest) is None


def test_altered_tools_are_found_by_their_hash(
    pack: Pack, cmake: Callable[..., Path], compiler: Callable[..., None]
) -> None:
    manifest, archive = pack()
    cmake()
    for name in ("toy-board-gcc", "toy-board-g++"):
        compiler(name)
    recipe = recipe_named("board", manifest)
    built = build_runtime(recipe, EventBus(), archive, manifest)
    assert altered_tools(built) == ()
    path = built.tools["llama-other"].path
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    # The size is the same: only the hash tells.
    assert ready_runtime(recipe, manifest) == built and altered_tools(built) == ("llama-other",)
    path.unlink()
    with pytest.raises(RuntimeToolError, match="llama-other: No such file"):
        altered_tools(built)


@pytest.mark.parametrize(
    ("machine", "loader", "words"),
    [
        (62, False, "llama-toy is a static program for x86_64; board needs a static one for aarch64"),
        (183, True, "llama-toy is a dynamic program for aarch64; board needs a static one"),
        (4242, False, "for machine 4242;"),
    ],
)
def test_a_program_for_another_machine_is_refused(
    pack: Pack,
    cmake: Callable[..., Path],
    compiler: Callable[..., None],
    program: Callable[..., Path],
    machine: int,
    loader: bool,
    words: str,
) -> None:
    manifest, archive = pack()
    cmake(built=program(machine, loader=loader))
    for name in ("toy-board-gcc", "toy-board-g++"):
        compiler(name)
    with pytest.raises(RuntimeToolError, match=words):
        build_runtime(recipe_named("board", manifest), EventBus(), archive, manifest)
    assert ready_runtime(recipe_named("board", manifest), manifest) is None


def test_a_missing_compiler_is_named_with_its_package(
    pack: Pack, cmake: Callable[..., Path], compiler: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, _ = pack()
    calls = cmake()
    compiler("gcc")
    compiler("g++", machine="x86_64")
    monkeypatch.setenv("PATH", str(calls.parent / "path"))
    with pytest.raises(RuntimeToolError, match=r"toy-board-g\+\+ is not on the PATH; board is compiled") as caught:
        build_runtime(recipe_named("board", manifest), EventBus(), None, manifest)
    assert "sudo apt install g++-toy-board" in caught.value.hint
    assert not calls.exists() and not manifest.folder.exists()


def test_the_machine_s_own_compiler_serves_its_own_kind(
    pack: Pack, cmake: Callable[..., Path], compiler: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, archive = pack()
    calls = cmake()
    compiler("gcc")
    compiler("g++", machine="aarch64")
    monkeypatch.setenv("PATH", os.pathsep.join([str(calls.parent / "path"), "/usr/bin", "/bin"]))
    build_runtime(recipe_named("board", manifest), EventBus(), archive, manifest)
    assert "-DCMAKE_C_COMPILER=gcc -DCMAKE_CXX_COMPILER=g++" in calls.read_text()


def test_what_the_board_builds_is_not_built_here(pack: Pack, cmake: Callable[..., Path]) -> None:
    manifest, archive = pack()
    calls = cmake()
    with pytest.raises(RuntimeToolError, match="gpu is built on the board itself"):
        build_runtime(recipe_named("gpu", manifest), EventBus(), archive, manifest)
    assert not calls.exists()


def test_two_at_once_build_once(pack: Pack, cmake: Callable[..., Path]) -> None:
    manifest, archive = pack()
    calls = cmake(after="sleep 0.5")
    seen: list[Event] = []
    folders: list[Path] = []

    def build() -> None:
        folders.append(build_host_tools(EventBus([seen.append]), archive, manifest))

    workers = [threading.Thread(target=build) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(set(folders)) == 1 and len(folders) == 3
    assert len(calls.read_text().splitlines()) == 2
    assert any(isinstance(event, Note) and "another process builds in" in event.text for event in seen)


def test_what_the_first_version_built_is_still_there(pack: Pack, cmake: Callable[..., Path]) -> None:
    manifest, archive = pack()
    cmake()
    folder = build_host_tools(EventBus(), archive, manifest)
    # Its folder is named by the flags, its stamp held sizes alone.
    assert host_folder(manifest).name == "host-a7724f99"
    stamp = folder.parent / "built.json"
    stamp.write_text(json.dumps({"llama-toy": 120, "llama-other": 120}))
    built = ready_runtime(host_recipe(manifest), manifest)
    assert built is not None and altered_tools(built) == ()
    assert built.tools["llama-toy"].sha256 == hashlib.sha256((folder / "llama-toy").read_bytes()).hexdigest()
    stamp.write_text(json.dumps({"llama-toy": 121, "llama-other": 120}))
    assert host_tools(manifest) is None


@pytest.mark.parametrize(
    "text", ["", "[]", "7", "{}", '{"schema_version": 3}', '{"schema_version": 2}', '{"schema_version": 2, "tools": []}',
             '{"llama-toy": "x"}', '{"schema_version": 2, "tools": {"llama-toy": 120, "llama-other": 120}}'],
)  # fmt: skip
def test_a_damaged_stamp_is_no_stamp(pack: Pack, cmake: Callable[..., Path], text: str) -> None:
    manifest, archive = pack()
    cmake()
    folder = build_host_tools(EventBus(), archive, manifest)
    (folder.parent / "built.json").write_text(text)
    assert host_tools(manifest) is None
    assert build_host_tools(EventBus(), archive, manifest) == folder == host_tools(manifest)
