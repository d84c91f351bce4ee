"""Fetching: the hash decides, the archive cannot write elsewhere, the second time needs nothing."""

from __future__ import annotations

import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ramp_edge.errors import RuntimeToolError
from ramp_edge.events import EventBus
from ramp_edge.runtime import fetch
from ramp_edge.runtime.fetch import fetch_source
from ramp_edge.runtime.manifest import RuntimeManifest

Pack = Callable[..., tuple[RuntimeManifest, Path]]


def unpacked(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_what_is_needed_is_unpacked_once(pack: Pack) -> None:
    manifest, archive = pack()
    folder = fetch_source(EventBus(), archive, manifest)
    assert unpacked(folder) == ["convert_hf_to_gguf.py", "gguf-py/gguf/__init__.py"]
    assert [p.name for p in manifest.folder.iterdir()] == ["llama.cpp"]
    archive.unlink()
    assert fetch_source(EventBus(), None, manifest) == folder


def test_the_environment_may_name_the_archive(pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest, archive = pack()
    monkeypatch.setenv("RAMP_EDGE_SDIST", str(archive))
    assert fetch_source(EventBus(), None, manifest).is_dir()


@pytest.mark.parametrize("change", [lambda d: d[:-1] + bytes([d[-1] ^ 1]), lambda d: d[:-7], lambda d: b""])
def test_another_archive_is_refused(pack: Pack, change: Callable[[bytes], bytes]) -> None:
    manifest, archive = pack()
    archive.write_bytes(change(archive.read_bytes()))
    with pytest.raises(RuntimeToolError, match=rf"not the pinned toy-1\.0\.tar\.gz.*expected.*{manifest.sdist.sha256}"):
        fetch_source(EventBus(), archive, manifest)
    assert list(manifest.folder.iterdir()) == []


def test_paths_that_climb_out_are_refused(pack: Pack, tmp_path: Path) -> None:
    manifest, archive = pack({"toy-1.0/vendor/llama.cpp/../../../evil": b"x"})
    with pytest.raises(RuntimeToolError, match="refusing to unpack"):
        fetch_source(EventBus(), archive, manifest)
    assert not list(tmp_path.rglob("evil"))


def test_links_and_devices_are_left_out(pack: Pack) -> None:
    odd = []
    for name, kind in (("link", tarfile.SYMTYPE), ("hard", tarfile.LNKTYPE), ("pipe", tarfile.FIFOTYPE)):
        info = tarfile.TarInfo(f"toy-1.0/vendor/llama.cpp/{name}")
        info.type, info.linkname = kind, "/etc/passwd"
        odd.append(info)
    manifest, archive = pack(members=tuple(odd))
    assert unpacked(fetch_source(EventBus(), archive, manifest)) == [
        "convert_hf_to_gguf.py",
        "gguf-py/gguf/__init__.py",
    ]


def test_archives_that_swell_are_refused(pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "MAX_UNPACKED_BYTES", 1000)
    manifest, archive = pack({"toy-1.0/vendor/llama.cpp/big": b"\0" * 2000})
    with pytest.raises(RuntimeToolError, match=r"refusing to unpack .*big.* \(2\.00 kB so far\)"):
        fetch_source(EventBus(), archive, manifest)


def test_archives_without_a_converter_are_refused(pack: Pack) -> None:
    manifest, archive = pack({"toy-1.0/README.md": b"x"})
    with pytest.raises(RuntimeToolError, match=r"no toy-1\.0/vendor/llama\.cpp/convert_hf_to_gguf\.py"):
        fetch_source(EventBus(), archive, manifest)
    assert not manifest.source_folder.exists()


def test_missing_archives_are_named(pack: Pack, tmp_path: Path) -> None:
    with pytest.raises(RuntimeToolError, match=r"absent\.tar\.gz: No such file"):
        fetch_source(EventBus(), tmp_path / "absent.tar.gz", pack()[0])


def test_pip_is_asked_for_the_pinned_sdist(pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest, archive = pack()
    commands = []

    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        target = Path(command[command.index("--dest") + 1])
        (target / archive.name).write_bytes(archive.read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(fetch.subprocess, "run", run)
    fetch_source(EventBus(), None, manifest)
    assert commands[0][1:4] == ["-m", "pip", "download"] and commands[0][-1] == "toy==1.0"
    assert commands[0][commands[0].index("--no-binary") + 1] == "toy" and "--no-deps" in commands[0]
    assert [p.name for p in manifest.folder.iterdir()] == ["llama.cpp"]


def test_pips_reason_and_the_way_without_a_network(pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        errors = "WARNING: retrying\nERROR: No matching distribution found for toy==1.0\n\n[notice] a new pip"
        return subprocess.CompletedProcess(command, 1, "", errors)

    monkeypatch.setattr(fetch.subprocess, "run", run)
    with pytest.raises(RuntimeToolError, match=r"toy==1\.0: ERROR: No matching distribution") as caught:
        fetch_source(EventBus(), None, pack()[0])
    assert "--sdist FILE" in caught.value.hint


def test_a_cache_that_cannot_be_written_is_named(pack: Pack, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    manifest, archive = pack()
    (tmp_path / "file").touch()
    monkeypatch.setenv("RAMP_EDGE_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(RuntimeToolError, match=r"cannot unpack llama\.cpp into") as caught:
        fetch_source(EventBus(), archive, manifest)
    assert "RAMP_EDGE_CACHE" in caught.value.hint
