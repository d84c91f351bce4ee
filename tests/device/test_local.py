"""This machine as a board: programs end with their deadline, floods end at the limit, files fail with a reason."""

from __future__ import annotations

import io
import os
import sys
import time
from pathlib import Path

import pytest

from ramp_edge.device.local import LocalTarget
from ramp_edge.device.target import MAX_LINE_BYTES, MAX_OUTPUT_BYTES, TargetSpec, printable
from ramp_edge.errors import BoardStorageError, ConnectionFailedError, DeadlineError


@pytest.fixture
def board(tmp_path: Path) -> LocalTarget:
    return LocalTarget(TargetSpec(name="local", host=None), home=tmp_path)


def test_arguments_and_both_streams_arrive_unchanged(board: LocalTarget) -> None:
    words = ["a b", "'\"$(x)`", "-n", "", "ü\n"]
    code = "import sys; print(sys.argv[1:]); sys.stderr.write('loud'); sys.exit(3)"
    result = board.run([sys.executable, "-c", code, *words], timeout_s=20)
    assert (result.exit_code, result.stderr) == (3, b"loud")
    assert result.stdout.decode().strip() == str(words)


def test_stdin_arrives_and_may_be_ignored(board: LocalTarget) -> None:
    assert board.run(["cat"], timeout_s=20, stdin=b"x" * 300_000).stdout == b"x" * 300_000
    assert board.run(["true"], timeout_s=20, stdin=b"x" * 3_000_000).exit_code == 0


def test_a_missing_program_ends_as_in_a_shell(board: LocalTarget, tmp_path: Path) -> None:
    (tmp_path / "no-program").write_text("text")
    assert board.run(["no-such-program"], timeout_s=5).exit_code == 127
    assert board.run([str(tmp_path / "no-program")], timeout_s=5).exit_code == 126
    with board.start(["no-such-program"]) as command:
        result = command.result(10)
    assert result.exit_code == 127
    assert "no-such-program: No such file" in result.error_text


def test_a_deadline_ends_the_program_and_its_children(board: LocalTarget, tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    start_s = time.monotonic()
    with pytest.raises(DeadlineError, match="was not done after 1 s"):
        board.run(["sh", "-c", 'sleep 60 & echo $! >"$1"; wait', "sh", str(mark)], timeout_s=1)
    assert time.monotonic() - start_s < 20
    child = int(mark.read_text())
    for _ in range(200):
        # A killed child may stay in the list until its new parent has looked.
        try:
            state = Path(f"/proc/{child}/stat").read_text().split(")")[1].split()[0]
        except FileNotFoundError:
            return
        if state == "Z":
            return
        time.sleep(0.05)
    pytest.fail("the child outlived the deadline")


def test_a_flood_is_read_to_its_end_and_kept_to_the_limit(board: LocalTarget) -> None:
    result = board.run(["head", "-c", str(3 * MAX_OUTPUT_BYTES), "/dev/zero"], timeout_s=60)
    assert result.truncated
    assert len(result.stdout) == MAX_OUTPUT_BYTES
    assert result.exit_code == 0


def test_lines_one_by_one_with_a_limit_and_an_end(board: LocalTarget) -> None:
    script = f'read word; echo "got $word"; head -c {2 * MAX_LINE_BYTES} /dev/zero; echo; echo last; exit 4'
    with board.start(["sh", "-c", script]) as command:
        command.send(b"hello\n")
        assert command.read_line(20) == b"got hello"
        assert len(command.read_line(20) or b"") == MAX_LINE_BYTES
        assert command.read_line(20) == b"last"
        assert command.read_line(20) is None
        assert command.read_line(20) is None, "the end stays the end"
        assert command.result(20).exit_code == 4


def test_silence_has_a_deadline_and_a_closed_input_an_error(board: LocalTarget) -> None:
    with board.start(["sh", "-c", "exec <&-; sleep 30"]) as command:
        with pytest.raises(DeadlineError, match="said nothing for"):
            command.read_line(0.2)
        with pytest.raises(ConnectionFailedError):
            for _ in range(50):
                command.send(b"x" * 100_000)


def test_files(board: LocalTarget, tmp_path: Path) -> None:
    files = board.files
    folder = f"{files.home}/a b/c"
    assert files.facts(folder) is None
    assert files.names(folder) == ()
    files.make_folder(folder)
    files.make_folder(folder)
    assert Path(folder).stat().st_mode & 0o777 == 0o700
    sent: list[int] = []
    path = f"{folder}/-x"
    files.append(path, io.BytesIO(b"0123"), 4, 0, sent.append)
    rest = io.BytesIO(b"0123456789abc")
    rest.seek(4)
    files.append(path, rest, 10, 4, sent.append)
    assert files.read(path, 100) == b"0123456789"
    assert sum(sent) == 10
    facts = files.facts(path)
    assert facts is not None
    assert (facts.size_bytes, facts.is_folder) == (10, False)
    files.set_mode(path, 0o755)
    assert Path(path).stat().st_mode & 0o777 == 0o755
    Path(folder, "old").write_text("old")
    files.rename(path, f"{folder}/old")
    assert files.names(folder) == ("old",)
    files.remove(f"{folder}/old")
    files.remove(f"{folder}/old")
    files.remove_folder(folder)
    files.remove_folder(folder)
    assert files.facts(folder) is None
    assert (files.free_bytes(str(tmp_path)) or 0) > 0


def test_what_the_disk_refuses_is_named(board: LocalTarget, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BoardStorageError, match="file/below"):
        board.files.make_folder(f"{tmp_path}/file/below")
    with pytest.raises(BoardStorageError, match="the disk is full"):
        board.files.append("/dev/full", io.BytesIO(b"x" * 100_000), 100_000, 0, lambda _: None)
    assert os.path.exists("/dev/full")  # noqa: PTH110


def test_words_of_a_board_are_harmless_on_a_terminal() -> None:
    assert printable(b"\x1b[31mred\x07\x00 \xff\n") == "[31mred   �"
    assert len(printable(b"x" * 10_000)) == 300
