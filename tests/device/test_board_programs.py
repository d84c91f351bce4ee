"""Boards have different programs: hashing and locking with each of them, with none, and with ones that talk nonsense."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ramp_edge.device import board_lock
from ramp_edge.device.board_hash import board_sha256
from ramp_edge.device.board_lock import BoardLock
from ramp_edge.device.disk_free import free_bytes
from ramp_edge.device.local import LocalTarget
from ramp_edge.device.target import Target, TargetSpec
from ramp_edge.errors import BoardBusyError, BoardStorageError, BoardToolError, ConnectionFailedError

CONTENT = os.urandom(100_000)
BASICS = ("sh", "cat", "head", "echo", "sync", "dd", "grep", "sleep")


@pytest.fixture
def board_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., LocalTarget]:
    """This machine with the basic programs and those named, and no others on its PATH."""
    found = {
        name: shutil.which(name)
        for name in (*BASICS, "openssl", "sha256sum", "shasum", "flock", "timeout", "perl", "env")
    }

    def make(*names: str, python: str = "no-python") -> LocalTarget:
        folder = tmp_path / "bin"
        folder.mkdir()
        for name in (*BASICS, *names):
            path = found[name]
            assert path is not None, name
            # A script and no link: some of these look at their own name's folder.
            (folder / name).write_text(f'#!/bin/sh\nexec {path} "$@"\n')
            (folder / name).chmod(0o755)
        monkeypatch.setenv("PATH", str(folder))
        return LocalTarget(TargetSpec(name="here", host=None, python=python), tmp_path)

    return make


@pytest.mark.parametrize("tool", ["openssl", "sha256sum", "shasum", "python"])
def test_every_hash_program_finds_the_same(board_with: Callable[..., LocalTarget], tmp_path: Path, tool: str) -> None:
    target = board_with(python=sys.executable) if tool == "python" else board_with(tool)
    path = tmp_path / "-a \\ 'file'\n"
    path.write_bytes(CONTENT)
    assert board_sha256(target, str(path), len(CONTENT), sync=True) == hashlib.sha256(CONTENT).hexdigest()


def test_a_board_that_cannot_hash(board_with: Callable[..., LocalTarget], tmp_path: Path) -> None:
    with pytest.raises(BoardToolError, match="nothing there can work out a sha256"):
        board_sha256(board_with(), "/dev/null", 0)


@pytest.mark.parametrize(
    "script",
    ["head -c 10000000 /dev/zero | tr '\\0' x", "printf '\\033[2J\\033]0;pwned\\a\\377\\376'", "echo", "true",
     "echo 0123456789abcdef", "printf 'G%.0s' $(seq 64)"],
)  # fmt: skip
def test_a_hash_program_that_talks_nonsense(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    fake = tmp_path / "bin" / "openssl"
    fake.parent.mkdir()
    fake.write_text(f"#!/bin/sh\n{script}\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
    with pytest.raises(BoardToolError, match="makes no sense") as error:
        board_sha256(LocalTarget(TargetSpec(name="here", host=None)), "/dev/null", 0)
    assert error.value.message.isprintable() and len(error.value.message) < 500


def test_a_file_that_cannot_be_read(target: Target) -> None:
    with pytest.raises(BoardStorageError, match="cannot be read there"):
        board_sha256(target, "/no such file", 0)


def test_one_holds_the_lock(target: Target, tmp_path: Path) -> None:
    path = str(tmp_path / "-a 'lock'")
    with BoardLock(target, path) as lock:
        lock.confirm()
        started_s = time.monotonic()
        with (
            pytest.raises(BoardBusyError, match=f"another deploy is under way, by .*process {os.getpid()}"),
            BoardLock(target, path),
        ):
            pass
        assert time.monotonic() - started_s < 2, "at once"
        lock.confirm()
    with BoardLock(target, path):
        pass


def test_the_lock_s_two_forms_know_each_other(tmp_path: Path, board_with: Callable[..., LocalTarget]) -> None:
    path = str(tmp_path / "lock")
    full = LocalTarget(TargetSpec(name="full", host=None))
    with BoardLock(full, path):
        without_flock = board_with(python=sys.executable)
        with pytest.raises(BoardBusyError), BoardLock(without_flock, path):
            pass
    bare = LocalTarget(TargetSpec(name="bare", host=None, python=sys.executable))
    with BoardLock(bare, path) as lock:
        lock.confirm()
        with pytest.raises(BoardBusyError, match=str(os.getpid())), BoardLock(bare, path):
            pass
        assert subprocess.run(["/usr/bin/env", "-i", "/usr/bin/flock", "-n", path, "true"], check=False).returncode == 1


def test_a_board_that_cannot_lock(board_with: Callable[..., LocalTarget], tmp_path: Path) -> None:
    with (
        pytest.raises(BoardToolError, match="nothing there can lock a file"),
        BoardLock(board_with(), str(tmp_path / "lock")),
    ):
        pass


def test_a_lock_that_cannot_be_made(target: Target) -> None:
    with pytest.raises(BoardStorageError, match="cannot be locked"), BoardLock(target, "/no such folder/lock"):
        pass


@pytest.mark.parametrize("form", ["shell", "python"])
def test_silence_gives_the_lock_up(
    tmp_path: Path, board_with: Callable[..., LocalTarget], monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    """A connection that is half open holds nothing for ever; whoever comes back to it is told."""
    monkeypatch.setattr(board_lock, "SILENCE_S", 1)
    monkeypatch.setattr(board_lock, "_BEAT_S", 60.0)
    target = board_with("flock", "timeout") if form == "shell" else board_with(python=sys.executable)
    path = str(tmp_path / "lock")
    with BoardLock(target, path) as lock:
        lock.confirm()
        time.sleep(1.8)
        with BoardLock(target, path):
            pass
        with pytest.raises(ConnectionFailedError, match="lost"):
            lock.confirm()


@pytest.mark.parametrize("form", ["shell", "python"])
def test_a_beat_keeps_the_lock(
    tmp_path: Path, board_with: Callable[..., LocalTarget], monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    monkeypatch.setattr(board_lock, "SILENCE_S", 2)
    monkeypatch.setattr(board_lock, "_BEAT_S", 0.3)
    target = board_with("flock", "timeout") if form == "shell" else board_with(python=sys.executable)
    with BoardLock(target, str(tmp_path / "lock")) as lock:
        time.sleep(2.6)
        lock.confirm()


@pytest.mark.ssh
def test_a_cut_frees_the_lock(
    shared_sshd: object, dial: Callable[..., Target], wire: Callable[..., object], tmp_path: Path
) -> None:
    line = wire(shared_sshd.port)  # type: ignore[attr-defined]
    far, near = dial(shared_sshd, port=line.port), dial(shared_sshd)  # type: ignore[attr-defined]
    path = str(tmp_path / "lock")
    lock = BoardLock(far, path)
    lock.__enter__()
    with pytest.raises(BoardBusyError), BoardLock(near, path):
        pass
    line.cut()  # type: ignore[attr-defined]
    deadline_s = time.monotonic() + 5
    while True:
        try:
            with BoardLock(near, path):
                break
        except BoardBusyError:
            assert time.monotonic() < deadline_s
            time.sleep(0.05)
    with pytest.raises(ConnectionFailedError):
        lock.confirm()
    lock.__exit__(None, None, None)


def test_a_killed_holder_is_noticed(target: Target, tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    with BoardLock(target, path) as lock:
        holders = _holders(path)
        assert holders
        for pid in holders:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.3)
        with pytest.raises(ConnectionFailedError, match="lost"):
            lock.confirm()


def _holders(path: str) -> list[int]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(handle.readlink() == Path(path) for handle in (process / "fd").iterdir()):
                found.append(int(process.name))
        except OSError:
            continue
    return found


@pytest.mark.parametrize(
    ("said", "expected"),
    [("Filesystem 1024-blocks Used Available Capacity Mounted on\n/dev/a b 100 40 60 40% /a b\n", 60 * 1024),
     ("h\nnone 100 140 -40 140% /x\n", 0), ("h\nnone 0 0 0 - /proc\n", 0),
     ("", None), ("nonsense", None), ("\x1b[2J", None), ("h\n/dev/x 1 1 " + "9" * 5000 + " 1% /\n", None)],
)  # fmt: skip
def test_what_df_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, expected: int | None) -> None:
    fake = tmp_path / "bin" / "df"
    fake.parent.mkdir()
    (tmp_path / "said").write_text(said)
    fake.write_text(f"#!/bin/sh\ncat '{tmp_path}/said'\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
    assert free_bytes(LocalTarget(TargetSpec(name="here", host=None)), "/x") == expected
