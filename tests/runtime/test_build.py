"""Building host tools, with a cmake of our own on the PATH: caching, progress, failures in the compiler's words."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ramp_edge.errors import CacheError, RuntimeToolError
from ramp_edge.events import Event, EventBus, StageAdvanced
from ramp_edge.runtime import build as runtime_build
from ramp_edge.runtime.build import build_host_tools, host_tools
from ramp_edge.runtime.manifest import RuntimeManifest

Pack = Callable[..., tuple[RuntimeManifest, Path]]
CMAKE = """#!/bin/sh
echo "$@" >> "{calls}"
case "$1" in
  --build) for tool in {tools}; do mkdir -p "$2/bin"; echo tool > "$2/bin/$tool"; done
           echo "[1/4] one"; echo "[ 50%] two"; echo "[4/4] Linking"; {after} ;;
esac
"""


@pytest.fixture
def cmake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Put a script in cmake's place; returns the file that lists its calls."""

    def make(tools: str = "llama-toy llama-other", after: str = "true") -> Path:
        folder, calls = tmp_path / "path", tmp_path / "calls"
        folder.mkdir(exist_ok=True)
        script = folder / "cmake"
        script.write_text(CMAKE.format(calls=calls, tools=tools, after=after))
        script.chmod(0o755)
        monkeypatch.setenv("PATH", os.pathsep.join([str(folder), "/usr/bin", "/bin"]))
        return calls

    return make


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

    monkeypatch.setattr(runtime_build, "_percent", full)
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
