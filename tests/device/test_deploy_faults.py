"""Deploys that are cut, refused or disturbed, on a real SSH server: nothing is lost, and the same deploy goes on where it was."""

from __future__ import annotations

import ctypes
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ramp_edge.device.deploy import Deployed, deploy, verify
from ramp_edge.device.deploy_plan import plan_deploy
from ramp_edge.device.release import LocalFile
from ramp_edge.device.store import BoardStore
from ramp_edge.device.target import Target
from ramp_edge.errors import BoardBusyError, BoardStorageError, ConnectionFailedError, RampEdgeError
from ramp_edge.events import Event, EventBus, StageAdvanced

pytestmark = pytest.mark.ssh
MB = 1_000_000
Dial = Callable[..., Target]


@pytest.fixture
def files(tmp_path: Path) -> dict[str, LocalFile]:
    """A model of 20 MB and its record."""
    (tmp_path / "model").write_bytes(os.urandom(20 * MB))
    (tmp_path / "record").write_bytes(b"{}")
    return {"model.gguf": LocalFile.of(tmp_path / "model"), "build.json": LocalFile.of(tmp_path / "record")}


def deployed_before(target: Target, tmp_path: Path) -> Deployed:
    (tmp_path / "old").write_bytes(b"the old model")
    return deploy(target, {"model.gguf": LocalFile.of(tmp_path / "old")}, EventBus())


def current_model(target: Target) -> bytes:
    return Path(BoardStore(target).current, "model.gguf").read_bytes()


def settled_part(target: Target, file: LocalFile) -> Path:
    """The unfinished upload, once what was under way has arrived."""
    part, size = Path(BoardStore(target).part_path(file.sha256)), -1
    while part.stat().st_size != size:
        size = part.stat().st_size
        time.sleep(0.1)
    return part


def test_a_cut_in_mid_upload_is_gone_on_from(
    shared_sshd: Any,
    dial: Dial,
    wire: Callable[..., Any],
    board_folder: str,
    files: dict[str, LocalFile],
    tmp_path: Path,
) -> None:
    near = dial(shared_sshd, board_folder)
    deployed_before(near, tmp_path)
    line = wire(shared_sshd.port, 8 * MB)
    with pytest.raises(ConnectionFailedError) as cut:
        deploy(dial(shared_sshd, board_folder, port=line.port), files, EventBus())
    assert cut.value.exit_code == 19 and "same command again" in cut.value.hint
    assert current_model(near) == b"the old model"
    arrived = settled_part(near, files["model.gguf"]).stat().st_size
    assert 4 * MB < arrived < 8 * MB

    counted = wire(shared_sshd.port)
    done = deploy(dial(shared_sshd, board_folder, port=counted.port), files, EventBus())
    assert done.sent_bytes == 20 * MB + 2 - arrived
    assert done.sent_bytes < counted.carried_bytes < done.sent_bytes + MB, "no more went over the wire"
    assert current_model(near) == files["model.gguf"].path.read_bytes()
    verify(near, EventBus())


def test_a_server_that_dies_in_mid_upload_and_comes_back(
    new_sshd: Callable[..., Any], dial: Dial, files: dict[str, LocalFile], tmp_path: Path
) -> None:
    server = new_sshd()
    target = dial(server)
    deployed_before(target, tmp_path)
    events = EventBus()

    def kill(event: Event) -> None:
        if isinstance(event, StageAdvanced) and event.name == "send" and event.done > 8 * MB:
            server.stop()

    events.listeners.append(kill)
    with pytest.raises(ConnectionFailedError):
        deploy(target, files, events)
    with pytest.raises(ConnectionFailedError, match="refused"):
        dial(server)
    server.start()
    again = dial(server)
    arrived = settled_part(again, files["model.gguf"]).stat().st_size
    assert arrived > 4 * MB
    assert current_model(again) == b"the old model"
    assert deploy(again, files, EventBus()).sent_bytes == 20 * MB + 2 - arrived
    assert current_model(again) == files["model.gguf"].path.read_bytes()


def test_a_killed_deploy_is_gone_on_from(
    shared_sshd: Any, dial: Dial, board_folder: str, files: dict[str, LocalFile], tmp_path: Path
) -> None:
    """The whole process, at once, at two places; what it had sent and the server had not taken in (2 MB at most) is lost."""
    near = dial(shared_sshd, board_folder)
    deployed_before(near, tmp_path)
    part = Path(BoardStore(near).part_path(files["model.gguf"].sha256))
    script = tmp_path / "deploy.py"
    script.write_text(
        "import sys\nfrom pathlib import Path\nfrom ramp_edge.device.deploy import deploy\n"
        "from ramp_edge.device.release import LocalFile\nfrom ramp_edge.device.ssh import SshTarget\n"
        "from ramp_edge.device.target import TargetSpec\nfrom ramp_edge.events import EventBus, StageAdvanced\n"
        "import os, signal\nuser, port, folder, ssh, here, limit = sys.argv[1:]\nbus = EventBus()\n"
        "def die(e):\n    if isinstance(e, StageAdvanced) and e.done > int(limit): os.kill(os.getpid(), signal.SIGKILL)\n"
        "bus.listeners.append(die)\n"
        "target = SshTarget(TargetSpec(name='b', host='127.0.0.1', user=user, port=int(port), folder=folder), 20, ssh_folder=Path(ssh))\n"
        "deploy(target, {n: LocalFile.of(Path(here) / f) for n, f in (('model.gguf', 'model'), ('build.json', 'record'))}, bus)\n"
    )
    sizes = [0]
    for limit in (6 * MB, 12 * MB):
        command = [os.sys.executable, str(script), shared_sshd.user, str(shared_sshd.port), board_folder,
                   str(shared_sshd.client_home / ".ssh"), str(tmp_path), str(limit)]  # fmt: skip
        assert subprocess.run(command, check=False, capture_output=True).returncode == -9
        settled_part(near, files["model.gguf"])
        sizes.append(part.stat().st_size)
        assert current_model(near) == b"the old model"
    assert sizes[0] < sizes[1] < sizes[2], "each went on from the last"
    assert deploy(near, files, EventBus()).sent_bytes == 20 * MB + 2 - sizes[2]


@pytest.mark.parametrize("damage", ["other bytes", "too long"])
def test_an_unfinished_upload_that_was_altered_is_not_gone_on_from(
    shared_sshd: Any, dial: Dial, board_folder: str, files: dict[str, LocalFile], damage: str
) -> None:
    target = dial(shared_sshd, board_folder)
    store = BoardStore(target)
    store.make_folders()
    part = Path(store.part_path(files["model.gguf"].sha256))
    part.write_bytes(os.urandom(5 * MB) if damage == "other bytes" else bytes(21 * MB))
    assert deploy(target, files, EventBus()).sent_bytes == 20 * MB + 2
    assert current_model(target) == files["model.gguf"].path.read_bytes()


def test_a_whole_upload_that_was_never_settled(
    shared_sshd: Any, dial: Dial, board_folder: str, files: dict[str, LocalFile]
) -> None:
    target = dial(shared_sshd, board_folder)
    store = BoardStore(target)
    store.make_folders()
    Path(store.part_path(files["model.gguf"].sha256)).write_bytes(files["model.gguf"].path.read_bytes())
    assert deploy(target, files, EventBus()).sent_bytes == 2
    verify(target, EventBus())


def test_two_deploys_at_once(
    shared_sshd: Any, dial: Dial, board_folder: str, files: dict[str, LocalFile], tmp_path: Path
) -> None:
    sending, go_on = threading.Event(), threading.Event()

    def pause(event: Event) -> None:
        if isinstance(event, StageAdvanced):
            sending.set()
            assert go_on.wait(30)

    outcome: list[Deployed | RampEdgeError] = []

    def first() -> None:
        try:
            outcome.append(deploy(dial(shared_sshd, board_folder), files, EventBus(listeners=[pause])))
        except RampEdgeError as error:
            outcome.append(error)

    thread = threading.Thread(target=first)
    thread.start()
    try:
        assert sending.wait(30)
        (tmp_path / "other").write_bytes(b"other")
        other = {"model.gguf": LocalFile.of(tmp_path / "other")}
        started_s = time.monotonic()
        with pytest.raises(BoardBusyError, match=f"process {os.getpid()}") as busy:
            deploy(dial(shared_sshd, board_folder), other, EventBus())
        assert time.monotonic() - started_s < 3
        assert busy.value.exit_code == 24
    finally:
        go_on.set()
        thread.join()
    (done,) = outcome
    assert isinstance(done, Deployed)
    assert current_model(dial(shared_sshd, board_folder)) == files["model.gguf"].path.read_bytes()


@pytest.fixture(params=["a small disk", "a limit on files"])
def small_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path | None]:
    """A file system of 24 MB; None where it is not asked for, or none may be mounted."""
    if request.param == "a limit on files":
        yield None
        return
    folder = tmp_path / "small disk"
    folder.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"none", os.fsencode(folder), b"tmpfs", 0, b"size=24m") != 0:
        yield None
        return
    yield folder
    libc.umount2(os.fsencode(folder), 2)


def test_a_disk_that_fills_up(
    shared_sshd: Any,
    new_sshd: Callable[..., Any],
    dial: Dial,
    small_disk: Path | None,
    files: dict[str, LocalFile],
    tmp_path: Path,
) -> None:
    """A real small disk, for whoever may mount one; and the kernel's limit on the size of a file, which cuts a write as well."""
    if small_disk is not None:
        folder, server = str(small_disk / "ramp-edge"), shared_sshd
        filler = small_disk / "somebody else's"

        def fill() -> None:
            filler.write_bytes(bytes(10 * MB))

        def free() -> None:
            filler.unlink()
    else:
        folder = "ramp-edge"
        # In blocks of 512 bytes; with the signal ignored, a write fails with an error.
        server = new_sshd(shell_setup="trap '' XFSZ\nulimit -f 16000")
        fill = free = lambda: None
    target = dial(server, folder)
    old = deployed_before(target, tmp_path)
    events = EventBus()

    def fill_once(event: Event) -> None:
        if isinstance(event, StageAdvanced) and event.done > 2 * MB:
            fill()
            events.listeners.clear()

    events.listeners.append(fill_once)
    with pytest.raises(BoardStorageError, match=r"disk is full|too large") as full:
        deploy(target, files, events)
    assert full.value.exit_code == 22
    assert current_model(target) == b"the old model"
    if small_disk is None:
        target = dial(shared_sshd, str(server.home / "ramp-edge"))
    else:
        with pytest.raises(BoardStorageError, match=r"has .* of free space and needs"):
            plan_deploy(target, files)
    free()
    arrived = settled_part(target, files["model.gguf"]).stat().st_size
    assert arrived > 2 * MB
    done = deploy(target, files, EventBus())
    assert done.sent_bytes == 20 * MB + 2 - arrived, "what had arrived was good"
    assert [k.release.id for k in verify(target, EventBus())] == [done.release.id, old.release.id]


def test_a_folder_that_may_not_be_written(shared_sshd: Any, dial: Dial, files: dict[str, LocalFile]) -> None:
    target = dial(shared_sshd, "/proc/no folder")
    with pytest.raises(BoardStorageError, match="/proc/no folder"):
        deploy(target, files, EventBus())
