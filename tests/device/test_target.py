"""What every board promises, held by this machine and by one over SSH alike."""

from __future__ import annotations

import io
import os
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ramp_edge.device.target import MAX_LINE_BYTES, MAX_OUTPUT_BYTES, Target
from ramp_edge.errors import BoardStorageError, ConnectionFailedError, DeadlineError, UsageError

ANY_WORD = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=40)
NASTY_WORD = st.sampled_from(
    [
        "",
        " ",
        "-n",
        "--",
        "-rf /",
        "$(touch pwned)",
        "`id`",
        "a'b",
        'a"b',
        "a\nb",
        "\\",
        "\\n",
        "!x",
        "*",
        "~",
        "#c",
        "%s",
        "a;b",
        "a|b",
        "&",
        "<x",
        ">x",
        "é✓",
        "\t",
        "{a,b}",
        "$HOME",
        "\x1b[31m",
        "a=b",
    ]
)


@given(arguments=st.lists(st.one_of(ANY_WORD, NASTY_WORD), min_size=1, max_size=30))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_arguments_arrive_as_they_are(target: Target, arguments: list[str]) -> None:
    result = target.run(["env", "printf", "%s\\0", *arguments], timeout_s=20)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.decode().split("\0")[:-1] == arguments


def test_a_name_that_is_not_utf_8_arrives_as_it_is(target: Target) -> None:
    assert target.run(["env", "printf", "%s", os.fsdecode(b"a\xff\xfeb")], timeout_s=20).stdout == b"a\xff\xfeb"


@pytest.mark.parametrize("argv", [[], [""], ["printf", "a\0b"]])
def test_what_no_program_can_be_given_is_refused(target: Target, argv: list[str]) -> None:
    with pytest.raises(UsageError):
        target.run(argv, timeout_s=5)


def test_streams_and_exit_code_come_apart(target: Target) -> None:
    result = target.run(["sh", "-c", "cat; echo bad >&2; exit 7"], timeout_s=20, stdin=b"in\xff\n")
    assert (result.exit_code, result.stdout, result.stderr) == (7, b"in\xff\n", b"bad\n")
    assert result.error_text == "bad"


def test_a_signal_is_told(target: Target) -> None:
    assert target.run(["sh", "-c", "kill -SEGV $$"], timeout_s=20).exit_code == -11
    assert target.run(["sh", "-c", "kill -KILL $$"], timeout_s=20).exit_code == -9


def test_a_program_that_is_not_there(target: Target, tmp_path: Path) -> None:
    assert target.run(["no such-program"], timeout_s=20).exit_code == 127
    (tmp_path / "text").write_text("not a program")
    assert target.run([str(tmp_path / "text")], timeout_s=20).exit_code == 126
    with target.start(["no such-program"]) as command:
        ended = command.result(20)
    assert ended.exit_code == 127 and "no such-program" in ended.error_text


def test_more_input_than_a_program_reads_is_no_error(target: Target) -> None:
    result = target.run(["sh", "-c", "head -c 3"], timeout_s=20, stdin=b"abc" + bytes(8_000_000))
    assert (result.exit_code, result.stdout) == (0, b"abc")


def test_large_input_and_output_at_once(target: Target) -> None:
    data = os.urandom(3_000_000)
    assert target.run(["cat"], timeout_s=60, stdin=data).stdout == data


def test_a_deadline_ends_the_program_and_its_children(target: Target, tmp_path: Path) -> None:
    marker = tmp_path / "alive"
    script = f"(while :; do echo x >>'{marker}'; sleep 0.1; done) & while :; do sleep 1; done"
    started_s = time.monotonic()
    with pytest.raises(DeadlineError, match="sh was not done after 1 s"):
        target.run(["sh", "-c", script], timeout_s=1)
    assert time.monotonic() - started_s < 4
    time.sleep(0.5)
    size = marker.stat().st_size
    time.sleep(0.5)
    assert marker.stat().st_size == size > 0


def test_a_deadline_holds_for_a_program_that_does_not_read(target: Target) -> None:
    started_s = time.monotonic()
    with pytest.raises(DeadlineError):
        target.run(["sleep", "60"], timeout_s=1, stdin=bytes(8_000_000))
    assert time.monotonic() - started_s < 4
    assert target.run(["true"], timeout_s=20).exit_code == 0


def test_a_background_child_does_not_keep_us(target: Target) -> None:
    started_s = time.monotonic()
    result = target.run(["sh", "-c", "echo done; setsid sleep 30 & exit 3"], timeout_s=25)
    assert (result.exit_code, result.stdout, result.truncated) == (3, b"done\n", True)
    assert time.monotonic() - started_s < 15


def test_endless_output_is_cut(target: Target) -> None:
    result = target.run(["sh", "-c", "head -c 9000000 /dev/zero; head -c 9000000 /dev/zero >&2"], timeout_s=60)
    assert result.truncated
    assert len(result.stdout) == len(result.stderr) == MAX_OUTPUT_BYTES


def test_a_conversation(target: Target) -> None:
    with target.start(["sh", "-c", 'while read -r word; do echo "<$word>"; done; echo end; exit 4']) as command:
        for word in (b"one", b"two \xff"):
            command.send(word + b"\n")
            assert command.read_line(20) == b"<" + word + b">"
        with pytest.raises(DeadlineError, match="said nothing"):
            command.read_line(0.2)
        ended = command.result(20)
    assert (ended.exit_code, ended.stdout) == (4, b"end\n")


def test_hostile_lines_are_cut_and_kept_apart(target: Target) -> None:
    """10 MB without an end, invalid UTF-8, control sequences, no newline at the end."""
    script = r"""head -c 10000000 /dev/zero | tr '\0' x; printf '\n\377\376\n\033[2J\033]0;x\a\r\n\nlast'"""
    with target.start(["sh", "-c", script]) as command:
        assert command.read_line(30) == b"x" * MAX_LINE_BYTES
        rest = [command.read_line(20) for _ in range(6)]
    assert rest == [b"\xff\xfe", b"\x1b[2J\x1b]0;x\a", b"", b"last", None, None]


def test_a_flood_of_lines_waits_for_us(target: Target) -> None:
    with target.start(["sh", "-c", "yes | head -n 300000"]) as command:
        lines = 0
        while (line := command.read_line(20)) is not None:
            assert line == b"y"
            lines += 1
    assert lines == 300000


def test_errors_beside_a_conversation_do_not_block_it(target: Target) -> None:
    with target.start(["sh", "-c", "head -c 6000000 /dev/zero >&2; echo here"]) as command:
        assert command.read_line(30) == b"here"


def test_leaving_a_conversation_ends_the_program(target: Target, tmp_path: Path) -> None:
    marker = tmp_path / "alive"
    with target.start(["sh", "-c", f"trap '' PIPE; while :; do echo x >>'{marker}'; sleep 0.05; done"]):
        while not marker.exists():
            time.sleep(0.02)
    time.sleep(0.4)
    size = marker.stat().st_size
    time.sleep(0.4)
    assert marker.stat().st_size == size


def test_sending_to_a_program_that_ended(target: Target) -> None:
    with target.start(["true"]) as command:
        assert command.read_line(20) is None
        with pytest.raises(ConnectionFailedError, match="true"):
            for _ in range(100):
                command.send(bytes(100_000))


def test_files_from_beginning_to_end(target: Target) -> None:
    files = target.files
    folder = f"{files.home}/-odd 'folder'/in $(it)"
    assert files.facts(folder) is None and files.names(folder) == ()
    files.make_folder(folder)
    files.make_folder(folder)
    facts = files.facts(folder)
    assert facts is not None and facts.is_folder
    assert target.run(["ls", "-ld", folder], timeout_s=20).stdout.startswith(b"drwx------")

    path, seen = f'{folder}/-a "file" é', []
    files.append(path, io.BytesIO(b"hello"), 5, 0, seen.append)
    source = io.BytesIO(b"hello, world")
    source.seek(5)
    files.append(path, source, 12, 5, seen.append)
    assert files.read(path, 100) == b"hello, world" and files.read(path, 5) == b"hello"
    assert sum(seen) == 12
    with pytest.raises(BoardStorageError, match="12 bytes and not the 3"):
        files.append(path, io.BytesIO(b"x"), 4, 3, seen.append)
    files.append(path, io.BytesIO(b"anew"), 4, 0, seen.append)
    assert files.read(path, 100) == b"anew"

    files.set_mode(path, 0o555)
    files.set_modified(path, 12345)
    facts = files.facts(path)
    assert facts is not None and (facts.size_bytes, facts.modified_s, facts.is_folder) == (4, 12345, False)
    assert target.run(["test", "-x", path], timeout_s=20).exit_code == 0

    link = f"{folder}/link"
    assert files.link_text(link) is None and files.link_text(path) is None
    files.link(link, "nowhere")
    assert files.facts(link) is None
    files.link(link, '-a "file" é')
    assert files.link_text(link) == '-a "file" é' and files.read(link, 9) == b"anew"

    files.rename(path, f"{folder}/b")
    assert files.names(folder) == ("b", "link")
    with pytest.raises(BoardStorageError):
        files.remove_folder(folder)
    for name in ("b", "link", "never there"):
        files.remove(f"{folder}/{name}")
    files.remove_folder(folder)
    files.remove_folder(folder)
    assert files.facts(folder) is None


def test_what_the_disk_refuses_is_told(target: Target) -> None:
    files = target.files
    files.append(f"{files.home}/a file", io.BytesIO(b""), 0, 0, print)
    for act in (
        lambda: files.make_folder(f"{files.home}/a file/below"),
        lambda: files.append(f"{files.home}/none/x", io.BytesIO(b"x"), 1, 0, lambda _: None),
        lambda: files.rename(f"{files.home}/none", f"{files.home}/other"),
        lambda: files.read(f"{files.home}/none", 1),
        lambda: files.set_mode(f"{files.home}/none", 0o600),
    ):
        with pytest.raises(BoardStorageError):
            act()


def test_free_space_is_that_of_the_disk(target: Target, tmp_path: Path) -> None:
    free = target.files.free_bytes(target.files.home)
    found = os.statvfs(target.files.home)
    assert free is not None and abs(free - found.f_bavail * found.f_frsize) < 2_000_000_000
