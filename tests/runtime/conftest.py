"""A small runtime of our own: manifest and archive, no network."""

from __future__ import annotations

import hashlib
import io
import os
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from ramp_edge.runtime.manifest import Build, BuiltOn, Compiler, LlamaCpp, Need, Recipe, RuntimeManifest, Sdist, Source

ROOT = "toy-1.0/vendor/llama.cpp"
FILES = {
    f"{ROOT}/convert_hf_to_gguf.py": b"print('hello')\n",
    f"{ROOT}/gguf-py/gguf/__init__.py": b"",
    f"{ROOT}/docs/long.md": b"skipped",
    "toy-1.0/README.md": b"outside",
}
Pack = Callable[..., tuple[RuntimeManifest, Path]]
BOARD = Recipe(
    name="board",
    boards="A toy board",
    system="linux",
    machines=("aarch64", "arm64"),
    backend="cpu",
    isa=("neon",),
    built_on=BuiltOn.HOST,
    compiler=Compiler(prefix="toy-board-", package="g++-toy-board"),
    flag_sets=("common",),
    flags=("-DOWN=1",),
    tools=("llama-toy", "llama-other"),
)
ON_TARGET = Recipe(
    name="gpu",
    boards="A toy board with a GPU",
    system="linux",
    machines=("aarch64",),
    backend="cuda",
    isa=("sm_1",),
    built_on=BuiltOn.TARGET,
    needs=(Need(command="nvcc", how="install it"),),
    source=("src/gpu-own/",),
    flag_sets=("common",),
    flags=("-DGPU=ON",),
    tools=("llama-toy",),
)
CMAKE = """#!/bin/sh
echo "$@" >> "{calls}"
echo "CFLAGS=$CFLAGS" >> "{calls}.environment"
case "$1" in
  --build) for tool in {tools}; do mkdir -p "$2/bin"; cp "{program}" "$2/bin/$tool"; done
           echo "[1/4] one"; echo "[ 50%] two"; echo "[4/4] Linking"; {after} ;;
esac
"""


def elf_bytes(machine: int, *, loader: bool) -> bytes:
    """The smallest 64-bit program header: one entry, which names a loader or loads something."""
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    header = struct.pack("<16sHHIQQQIHHHHHH", ident, 2, machine, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    return header + struct.pack("<IIQQQQQQ", 3 if loader else 1, 0, 0, 0, 0, 0, 0, 0)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RAMP_EDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("RAMP_EDGE_SDIST", raising=False)
    return tmp_path / "cache"


@pytest.fixture
def pack(tmp_path: Path) -> Pack:
    """(files, odd members) -> the manifest and its archive."""

    def make(
        files: dict[str, bytes] | None = None, members: tuple[tarfile.TarInfo, ...] = ()
    ) -> tuple[RuntimeManifest, Path]:
        archive = tmp_path / "toy-1.0.tar.gz"
        with tarfile.open(archive, "w:gz") as tar:
            for name, data in (FILES if files is None else files).items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
            for member in members:
                tar.addfile(member)
        data = archive.read_bytes()
        manifest = RuntimeManifest(
            package="toy",
            version="1.0",
            sdist=Sdist(file=archive.name, size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest()),
            llama_cpp=LlamaCpp(commit="0123456", folder=ROOT, skip=("docs/",)),
            build=Build(flags=("-DX=1",), tools=("llama-toy", "llama-other")),
            flag_sets={"common": ("-DCOMMON=a b",)},
            source=Source(skip=(".", "gguf-py/", "src/gpu-")),
            recipes=(BOARD, ON_TARGET),
        )
        return manifest, archive

    return make


@pytest.fixture
def program(tmp_path: Path) -> Callable[..., Path]:
    """(machine number, loader) -> a program for that machine, which our cmake copies in place of the tools."""

    def make(machine: int = 183, *, loader: bool = False) -> Path:
        path = tmp_path / f"program-{machine}-{loader}"
        path.write_bytes(elf_bytes(machine, loader=loader))
        return path

    return make


@pytest.fixture
def cmake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: Callable[..., Path]) -> Callable[..., Path]:
    """Put a script in cmake's place; returns the file that lists its calls."""

    def make(tools: str = "llama-toy llama-other", after: str = "true", built: Path | None = None) -> Path:
        calls = tmp_path / "calls"
        script = CMAKE.format(calls=calls, tools=tools, after=after, program=built or program())
        monkeypatch.setenv("PATH", os.pathsep.join([str(_put(tmp_path, "cmake", script)), "/usr/bin", "/bin"]))
        return calls

    return make


@pytest.fixture
def compiler(tmp_path: Path) -> Callable[..., None]:
    """Put a compiler that says which machine it is for beside our cmake."""

    def make(name: str, machine: str = "aarch64") -> None:
        _put(tmp_path, name, f'#!/bin/sh\n[ "$1" = -dumpmachine ] && echo {machine}-linux-gnu\n')

    return make


def _put(tmp_path: Path, name: str, script: str) -> Path:
    folder = tmp_path / "path"
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(script)
    (folder / name).chmod(0o755)
    return folder
