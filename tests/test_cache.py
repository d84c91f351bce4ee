"""Files of the cache are whole or absent, and a cache that takes nothing names itself and the way out."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import pytest

from ramp_edge.cache import cached_file, make_cache_folder, partial_path, remove_abandoned
from ramp_edge.errors import CacheError


def test_bytes_appear_at_once_and_only_when_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, synced = tmp_path / "deep" / "a.npy", []
    real = os.fsync

    def fsync(fd: int) -> None:
        synced.append((os.fstat(fd).st_size, path.exists()))
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    with cached_file(path) as stream:
        stream.write(b"whole")
        assert not path.exists()
    assert path.read_bytes() == b"whole"
    assert synced == [(5, False)], "the name came before the bytes were on the disk"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
        (OSError("1048576 requested and 153536 written"), "the disk is full .*1048576 requested"),
        (OSError(errno.EROFS, "Read-only file system"), "Read-only file system"),
    ],
)
def test_a_refusing_disk_is_named_and_the_old_file_stays(tmp_path: Path, error: OSError, words: str) -> None:
    path = tmp_path / "a.npy"
    path.write_bytes(b"old")
    with pytest.raises(CacheError, match=words) as caught, cached_file(path) as stream:
        stream.write(b"half")
        raise error
    assert str(path) in caught.value.message and "RAMP_EDGE_CACHE" in caught.value.hint
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_other_failures_pass_and_leave_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), cached_file(tmp_path / "a.npy") as stream:
        stream.write(b"half")
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_a_file_where_the_cache_should_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CacheError, match="Not a directory"):
        make_cache_folder(tmp_path / "file" / "text")
    with pytest.raises(CacheError, match="Not a directory"), cached_file(tmp_path / "file" / "text" / "a.npy"):
        pass


def test_what_killed_processes_left_goes_after_an_hour(tmp_path: Path) -> None:
    fresh, old, done = partial_path(tmp_path / "a.npy"), tmp_path / "b.npy.1.partial", tmp_path / "b.npy"
    for path in (fresh, old, done):
        path.touch()
    for path in (old, done):
        os.utime(path, (time.time() - 4000,) * 2)
    remove_abandoned(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([fresh, done])
