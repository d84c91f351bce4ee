"""Deploys to this machine and to a board over SSH: what is sent, what is kept, what is noticed."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ramp_edge.device.deploy import deploy, releases, rollback, verify
from ramp_edge.device.deploy_plan import plan_deploy
from ramp_edge.device.release import LocalFile
from ramp_edge.device.store import BoardStore
from ramp_edge.device.target import Target
from ramp_edge.errors import BoardMismatchError, BoardStorageError, TargetsFileError, UsageError
from ramp_edge.events import EventBus, StageAdvanced, StageStarted

Make = Callable[..., dict[str, LocalFile]]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """name=content, `bin/tool` executable: files here to deploy."""

    def write(**contents: bytes) -> dict[str, LocalFile]:
        files = {}
        for key, content in contents.items():
            path = tmp_path / f"-here {key}"
            path.write_bytes(content)
            name = {"model": "model.gguf", "record": "build.json", "tool": "bin/a tool's"}.get(key, key)
            files[name] = LocalFile.of(path, executable=key == "tool")
        return files

    return write


@pytest.fixture
def board(target: Target) -> Path:
    """The folder on the board: the board's disk is this one in every case."""
    return Path(BoardStore(target).root)


def test_a_first_deploy_and_the_same_again(target: Target, board: Path, make: Make, events: EventBus) -> None:
    seen = []
    events.listeners.append(seen.append)
    model = os.urandom(300_000)
    files = make(model=model, record=b"{}", tool=b"#!/bin/sh\necho runs\n", empty=b"", twin=model)
    done = deploy(target, files, events)

    current = board / "current"
    assert current.resolve() == Path(done.folder) and done.folder.startswith(str(board))
    assert (current / "model.gguf").read_bytes() == (current / "twin").read_bytes() == model
    assert (current / "empty").read_bytes() == b""
    assert target.run([f"{done.folder}/bin/a tool's"], timeout_s=20).stdout == b"runs\n"
    assert not (current / "bin" / "a tool's").readlink().is_absolute(), "the folder can be moved"
    assert sorted(p.name for p in (board / "objects").iterdir()) == sorted({f.sha256 for f in files.values()})
    assert all(p.stat().st_mode & 0o222 == 0 for p in (board / "objects").iterdir()), "links do not invite to write"
    assert not list((board / "uploads").iterdir())
    assert done.sent_bytes == 300_000 + 2 + 20 and done.there_bytes == 0
    assert not done.was_current and not (board / "previous").exists()
    (start,) = [e for e in seen if isinstance(e, StageStarted) and e.name == "send"]
    assert (start.total, start.unit) == (done.sent_bytes, "bytes")
    assert max(e.done for e in seen if isinstance(e, StageAdvanced) and e.name == "send") == done.sent_bytes

    seen.clear()
    started_s = time.monotonic()
    again = deploy(target, files, events)
    assert time.monotonic() - started_s < 2
    assert (again.sent_bytes, again.there_bytes, again.was_current) == (0, done.sent_bytes, True)
    assert again.release == done.release and not (board / "previous").exists()
    assert not [e for e in seen if isinstance(e, StageStarted) and e.name == "send"]


def test_a_plan_changes_nothing(target: Target, board: Path, make: Make, events: EventBus) -> None:
    files = make(model=b"one", record=b"rec")
    plan = plan_deploy(target, files)
    assert (plan.send_bytes, plan.there_bytes, plan.is_current, plan.root) == (6, 0, False, str(board))
    assert plan.free_bytes is not None and plan.free_bytes > 0
    assert not board.exists()
    deploy(target, files, events)
    plan = plan_deploy(target, make(model=b"two!", record=b"rec"))
    assert (plan.send_bytes, plan.there_bytes, plan.is_current) == (4, 3, False)
    assert plan_deploy(target, make(model=b"one", record=b"rec")).is_current


def test_the_previous_release_is_kept_and_can_come_back(
    target: Target, board: Path, make: Make, events: EventBus
) -> None:
    shared = os.urandom(1000)
    first = deploy(target, make(model=b"one", tool=shared), events)
    second = deploy(target, make(model=b"two", tool=shared), events)
    assert (second.sent_bytes, second.there_bytes) == (3, 1000)
    assert [k.release.id for k in releases(target)] == [second.release.id, first.release.id]
    for expected in (first, second, first):
        back = rollback(target)
        assert back.release == expected.release and back.is_current
        assert (board / "current").resolve() == Path(expected.folder)
    assert (board / "current" / "model.gguf").read_bytes() == b"one"

    third = deploy(target, make(model=b"three", tool=shared), events)
    assert [k.release.id for k in releases(target)] == [third.release.id, first.release.id]
    contents = sorted(p.read_bytes() for p in (board / "objects").iterdir())
    assert contents == sorted([b"one", b"three", shared]), "what only the second needed is gone"
    assert sorted(p.name for p in (board / "releases").iterdir()) == sorted([first.release.id, third.release.id])
    assert deploy(target, make(model=b"one", tool=shared), events).sent_bytes == 0
    assert [k.release.id for k in releases(target)] == [first.release.id, third.release.id]


def test_a_content_that_two_releases_use_stays_executable(
    target: Target, board: Path, make: Make, events: EventBus
) -> None:
    deploy(target, make(tool=b"#!/bin/sh\n"), events)
    deploy(target, make(model=b"#!/bin/sh\n"), events)
    assert rollback(target).folder
    assert (board / "current" / "bin" / "a tool's").stat().st_mode & 0o111


def test_there_is_nothing_to_roll_back_to(target: Target, make: Make, events: EventBus) -> None:
    for act in (rollback, lambda t: verify(t, events)):
        with pytest.raises(UsageError, match="nothing was ever deployed"):
            act(target)
    assert releases(target) == ()
    deploy(target, make(model=b"one"), events)
    with pytest.raises(UsageError, match="no previous release"):
        rollback(target)


@pytest.mark.parametrize("content", [b"longer than it was", b"eno", b""])
def test_a_file_altered_on_the_board_is_found_and_sent_again(
    target: Target, board: Path, make: Make, events: EventBus, content: bytes
) -> None:
    files = make(model=b"one", record=b"rec")
    deploy(target, files, events)
    place = board / "objects" / files["model.gguf"].sha256
    place.chmod(0o644)
    place.write_bytes(content)
    with pytest.raises(BoardMismatchError, match=r"model\.gguf was altered") as found:
        verify(target, events)
    assert "build.json" not in found.value.message
    assert deploy(target, files, events).sent_bytes == 3
    assert events.warnings == ["model.gguf was altered on the board: sent again"]
    assert place.read_bytes() == b"one"
    assert [k.is_current for k in verify(target, events)] == [True]


def test_an_alteration_that_hides_is_found_by_verify(target: Target, board: Path, make: Make, events: EventBus) -> None:
    files = make(model=b"one")
    deploy(target, files, events)
    place = board / "objects" / files["model.gguf"].sha256
    before = place.stat()
    place.chmod(0o644)
    place.write_bytes(b"eno")
    os.utime(place, (before.st_atime, before.st_mtime))
    assert deploy(target, files, events).sent_bytes == 0, "by size and time it is as it was"
    with pytest.raises(BoardMismatchError, match="altered"):
        verify(target, events)


def test_a_file_that_is_gone_is_sent_again(target: Target, board: Path, make: Make, events: EventBus) -> None:
    files = make(model=b"one", record=b"rec")
    deploy(target, files, events)
    (board / "objects" / files["build.json"].sha256).unlink()
    with pytest.raises(BoardMismatchError, match=r"build\.json is gone"):
        verify(target, events)
    assert deploy(target, files, events).sent_bytes == 3
    assert (board / "current" / "build.json").read_bytes() == b"rec"


def test_an_altered_previous_release_does_not_come_back(
    target: Target, board: Path, make: Make, events: EventBus
) -> None:
    first = make(model=b"one")
    deploy(target, first, events)
    second = deploy(target, make(model=b"two"), events)
    place = board / "objects" / first["model.gguf"].sha256
    place.chmod(0o644)
    place.write_bytes(b"eno")
    with pytest.raises(BoardMismatchError, match=r"previous release was altered.*model\.gguf"):
        rollback(target)
    assert (board / "current").resolve() == Path(second.folder)


@pytest.mark.parametrize("when_s", [1, 10**9, 4 * 10**9], ids=["1970", "2001", "2096"])
def test_clocks_do_not_matter(target: Target, board: Path, make: Make, events: EventBus, when_s: int) -> None:
    """Every time on the board set to another century: nothing is sent, and next time nothing is read again either."""
    files = make(model=os.urandom(5000), record=b"rec")
    deploy(target, files, events)
    for path in (board, *board.rglob("*")):
        os.utime(path, (when_s, when_s), follow_symlinks=False)
    assert deploy(target, files, events).sent_bytes == 0
    store = BoardStore(target)
    assert all(store.is_untouched(f.sha256, f.size_bytes) for f in files.values())


def test_links_that_were_replaced_are_mended(target: Target, board: Path, make: Make, events: EventBus) -> None:
    files = make(model=b"one", tool=b"tool")
    folder = Path(deploy(target, files, events).folder)
    (folder / "model.gguf").unlink()
    (folder / "model.gguf").write_bytes(b"something else")
    (folder / "bin" / "a tool's").unlink()
    with pytest.raises(BoardMismatchError, match="not the link"):
        verify(target, events)
    assert deploy(target, files, events).sent_bytes == 0
    assert (folder / "model.gguf").read_bytes() == b"one"
    verify(target, events)


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"[]", b"null", b'{"schema_version": 2}', b"\xff\xfe", b"[" * 100_000, b'{"schema_version":1,"files":{}}',
     b'{"schema_version":1,"files":{"../x":{}}}', b'{"schema_version":1,"files":{"x":{"sha256":"../../y","size_bytes":1}}}',
     b'{"schema_version":1,"files":{"x":{"sha256":"' + b"0" * 64 + b'","size_bytes":1,"executable":false}}}'],
)  # fmt: skip
def test_a_list_of_files_that_was_altered(
    target: Target, board: Path, make: Make, events: EventBus, text: bytes
) -> None:
    files = make(model=b"one")
    record = Path(deploy(target, files, events).folder) / "release.json"
    good = record.read_bytes()
    record.write_bytes(text)
    for act in (releases, lambda t: verify(t, events)):
        with pytest.raises(BoardMismatchError, match=r"release\.json was altered"):
            act(target)
    assert deploy(target, files, events).sent_bytes == 0
    assert record.read_bytes() == good
    record.write_bytes(text)
    deploy(target, make(model=b"two"), events)
    with pytest.raises(BoardMismatchError, match=r"release\.json was altered"):
        rollback(target)


def test_the_record_of_a_release_says_what_it_is(target: Target, make: Make, events: EventBus) -> None:
    done = deploy(target, make(model=b"one", tool=b"x"), events)
    record = json.loads((Path(done.folder) / "release.json").read_text())
    assert record == {
        "schema_version": 1,
        "files": {
            "bin/a tool's": {"sha256": hashlib.sha256(b"x").hexdigest(), "size_bytes": 1, "executable": True},
            "model.gguf": {"sha256": hashlib.sha256(b"one").hexdigest(), "size_bytes": 3, "executable": False},
        },
    }


def test_what_is_not_deploy_s_stays(target: Target, board: Path, make: Make, events: EventBus) -> None:
    first = deploy(target, make(model=b"one"), events)
    mine = [board / "notes.txt", board / "objects" / "mine", board / "uploads" / "mine.part", board / "releases" / "mine",
            Path(first.folder) / "mine.txt", board.parent / "beside"]  # fmt: skip
    for path in mine:
        path.write_text("mine")
    for content in (b"two", b"three", b"four"):
        deploy(target, make(model=content), events)
    assert all(path.read_text() == "mine" for path in mine)
    assert not (Path(first.folder) / "model.gguf").is_symlink()


@pytest.mark.parametrize("make_in_the_way", [Path.mkdir, Path.touch, lambda path: path.symlink_to("/")])
def test_something_in_the_way_is_left_there(
    target: Target, board: Path, make: Make, events: EventBus, make_in_the_way: Callable[[Path], None]
) -> None:
    board.mkdir()
    make_in_the_way(board / "current")
    with pytest.raises(BoardStorageError, match="current"):
        deploy(target, make(model=b"one"), events)
    assert os.path.lexists(board / "current")


def test_a_file_that_changes_while_it_is_sent(target: Target, board: Path, make: Make, events: EventBus) -> None:
    deploy(target, make(model=b"one"), events)
    files = make(model=b"two")
    for content in (b"TWO", b"", b"longer"):
        files["model.gguf"].path.write_bytes(content)
        with pytest.raises(BoardMismatchError, match="arrived with sha256"):
            deploy(target, files, events)
        assert (board / "current" / "model.gguf").read_bytes() == b"one"
        assert not list((board / "uploads").iterdir())
    files["model.gguf"].path.unlink()
    with pytest.raises(UsageError, match="cannot be read"):
        deploy(target, files, events)


def test_space_is_looked_at_first(target: Target, board: Path, tmp_path: Path, events: EventBus) -> None:
    huge = LocalFile(path=tmp_path / "never read", size_bytes=10**15, sha256="0" * 64)
    with pytest.raises(BoardStorageError, match=r"of free space and needs 1001 TB"):
        deploy(target, {"model.gguf": huge}, events)
    assert not (board / "objects").exists()


def test_unfinished_uploads_of_other_builds_make_room(
    target: Target, board: Path, make: Make, events: EventBus
) -> None:
    deploy(target, make(model=b"one"), events)
    left_over = board / "uploads" / f"{'a' * 64}.part"
    left_over.write_bytes(bytes(1000))
    plan = plan_deploy(target, make(model=b"two"))
    assert plan.stale == (str(left_over),)
    deploy(target, make(model=b"two"), events)
    assert not left_over.exists()


@pytest.mark.parametrize("folder", ["..", "a/../b", "/", "", ".", "~/"])
def test_a_folder_that_cannot_be_deploy_s(target: Target, make: Make, events: EventBus, folder: str) -> None:
    from dataclasses import replace

    target._spec = replace(target.spec, folder=folder)  # type: ignore[attr-defined]
    with pytest.raises(TargetsFileError, match="cannot be deploy's folder"):
        deploy(target, make(model=b"one"), events)


def test_an_absolute_folder(target: Target, tmp_path: Path, make: Make, events: EventBus) -> None:
    from dataclasses import replace

    target._spec = replace(target.spec, folder=str(tmp_path / "else where"))  # type: ignore[attr-defined]
    deploy(target, make(model=b"one"), events)
    assert (tmp_path / "else where" / "current" / "model.gguf").read_bytes() == b"one"
