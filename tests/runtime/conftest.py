"""A small runtime of our own: manifest and archive, no network."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from ramp_edge.runtime.manifest import Build, LlamaCpp, RuntimeManifest, Sdist

ROOT = "toy-1.0/vendor/llama.cpp"
FILES = {
    f"{ROOT}/convert_hf_to_gguf.py": b"print('hello')\n",
    f"{ROOT}/gguf-py/gguf/__init__.py": b"",
    f"{ROOT}/docs/long.md": b"skipped",
    "toy-1.0/README.md": b"outside",
}
Pack = Callable[..., tuple[RuntimeManifest, Path]]


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
        )
        return manifest, archive

    return make
