"""Both agents on this machine as a board: the same records, and whatever a board may do wrong ends with a clear error, soon."""

from __future__ import annotations

import os
import signal
import struct
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from ramp_edge.device import agent_client
from ramp_edge.device.agent_client import board_agent
from ramp_edge.device.local import LocalTarget
from ramp_edge.device.target import RunningCommand, TargetSpec
from ramp_edge.device.tool_failure import check_success, elf_machine
from ramp_edge.device.tool_run import BoardAgent, ToolCall, ToolLine
from ramp_edge.device.work_files import put_file, target_folder
from ramp_edge.errors import BoardStorageError, BoardToolError, ConnectionFailedError, DeadlineError
from ramp_edge.events import Event, EventBus, Note

KINDS = ("python", "shell")
SPEC = TargetSpec(name="board", host=None)


def spec_for(kind: str) -> TargetSpec:
    return SPEC if kind == "python" else replace(SPEC, python="/nonexistent/python3")


@pytest.fixture(params=KINDS)
def agent(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BoardAgent]:
    target = LocalTarget(spec_for(request.param), home=tmp_path)
    with board_agent(target) as found:
        assert found.kind == request.param
        yield found


def call(*argv: str, timeout_s: float = 30.0, memory: bool = False) -> ToolCall:
    return ToolCall(argv=argv, timeout_s=timeout_s, watch_memory=memory)


def gone(pid: int, within_s: float = 5.0) -> bool:
    deadline_s = time.monotonic() + within_s
    while time.monotonic() < deadline_s:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.02)
    return False


def foreign_program(path: Path) -> Path:
    """An ELF header for a processor that is not this one."""
    machine = 183 if os.uname().machine != "aarch64" else 62
    header = (
        b"\x7fELF\x02\x01\x01"
        + b"\0" * 9
        + struct.pack("<HHIQQQIHHHHHH", 2, machine, 1, 0x400000, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    )
    path.write_bytes(header + b"\0" * 200)
    path.chmod(0o755)
    return path


class TestBothKinds:
    def test_a_run_is_recorded(self, agent: BoardAgent) -> None:
        seen: list[ToolLine] = []
        script = "printf 'one\\n  two \\\\ words\\n'; sleep 0.2; printf 'warn\\nlast' >&2; exit 4"
        run = agent.run(call("sh", "-c", script), seen.append)
        assert run.exit_code == 4
        assert run.text("stdout") == "one\n  two \\ words"
        assert run.text("stderr") == "warn\nlast"
        assert run.last_words == "last"
        assert sorted(seen, key=id) == sorted(run.lines, key=id)
        assert run.wall_s is not None and 0.15 < run.wall_s < 20
        times = [line.at_s for line in run.lines]
        assert all(at is not None and 0 <= at <= run.wall_s + 1 for at in times)
        said = {line.text: line.at_s or 0.0 for line in run.lines}
        assert said["warn"] - said["one"] > 0.1

    def test_arguments_are_passed_as_they_are(self, agent: BoardAgent) -> None:
        words = ("a b", "$HOME", "'; echo no; '", '"', "*", "-n", "\\", "é", "")
        run = agent.run(call("printf", "<%s>\\n", *words))
        assert run.text("stdout").splitlines() == [f"<{word}>" for word in words]

    def test_peak_memory(self, agent: BoardAgent) -> None:
        script = (
            "x = bytearray(60_000_000); x[::4096] = b'1' * len(x[::4096]); import time; time.sleep(.5); print(len(x))"
        )
        run = agent.run(call(sys.executable, "-S", "-c", script, memory=True))
        assert run.text("stdout") == "60000000"
        assert run.peak_resident_bytes is not None and 60e6 < run.peak_resident_bytes < 100e6
        assert run.peak_anonymous_bytes is not None and 60e6 < run.peak_anonymous_bytes <= run.peak_resident_bytes

    def test_a_tool_that_a_signal_ends(self, agent: BoardAgent) -> None:
        assert agent.run(call("sh", "-c", "kill -ILL $$")).exit_code == -signal.SIGILL

    def test_the_tool_reads_nothing(self, agent: BoardAgent) -> None:
        assert agent.run(call("cat")).lines == ()

    def test_a_missing_tool(self, agent: BoardAgent) -> None:
        with pytest.raises(BoardToolError, match=r"tool cannot run on board: .*there is no /nonexistent/tool"):
            agent.run(call("/nonexistent/tool"))
        assert agent.run(call("echo", "x")).text("stdout") == "x"

    def test_a_deadline_ends_the_tool(self, agent: BoardAgent, tmp_path: Path) -> None:
        start_s = time.monotonic()
        with pytest.raises(DeadlineError, match=r"sh on board was not done after 1 s"):
            agent.run(call("sh", "-c", f"echo $$ >{tmp_path}/pid; sleep 60", timeout_s=1.0))
        assert time.monotonic() - start_s < 15
        assert gone(int((tmp_path / "pid").read_text()))

    def test_hostile_output_of_a_tool(self, agent: BoardAgent) -> None:
        script = "printf '\\033[31mred\\377\\n'; head -c 3000000 /dev/zero | tr '\\0' x; echo; printf 'X 1.0 9\\nM 1 1\\nend\\n'"
        run = agent.run(call("sh", "-c", script))
        lines = run.text("stdout").split("\n")
        assert lines[0] == "\x1b[31mred�" and lines[-1] == "end"
        assert run.exit_code == 0 and max(map(len, lines)) <= 1 << 20

    def test_load(self, agent: BoardAgent) -> None:
        before = agent.load()
        agent.run(call("sh", "-c", "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done"))
        after = agent.load()
        assert before.busy_s is not None and after.busy_s is not None and after.busy_s > before.busy_s
        assert before.uptime_s is not None and after.uptime_s is not None and after.uptime_s > before.uptime_s


@pytest.mark.parametrize("kind", KINDS)
def test_exec_prefix_goes_before_the_tool(kind: str, tmp_path: Path) -> None:
    spec = replace(spec_for(kind), exec_prefix=("env", "MARK=a b"))
    with board_agent(LocalTarget(spec, home=tmp_path)) as agent:
        assert agent.run(call("sh", "-c", "echo $MARK")).text("stdout") == "a b"


@pytest.mark.parametrize("kind", KINDS)
def test_a_program_for_another_processor(kind: str, tmp_path: Path) -> None:
    tool = foreign_program(tmp_path / "llama-bench")
    target = LocalTarget(spec_for(kind), home=tmp_path)
    with (
        board_agent(target) as agent,
        pytest.raises(BoardToolError, match=r"it is built for \w+, the board is ") as caught,
    ):
        run = agent.run(call(str(tool)))
        check_success(target, (str(tool),), run)
    assert caught.value.exit_code == 25


def test_the_facts_are_the_same_by_both(tmp_path: Path) -> None:
    found = []
    for kind in KINDS:
        with board_agent(LocalTarget(spec_for(kind), home=tmp_path)) as agent:
            found.append(agent.facts())
    assert found[0].system == os.uname().sysname and found[0].machine == os.uname().machine
    assert found[0].cores and found[0].memory_total_bytes and found[0].isa and found[0].kernel
    assert found[0].busy_cores is not None
    changing = {
        name: None
        for name in (
            "memory_available_bytes",
            "swap_used_bytes",
            "swapped_pages",
            "load_average",
            "busy_cores",
            "throttle_events",
        )
    } | {"cpu_hz": (), "temperatures_c": {}, "tegrastats": None, "thermal_caps": ()}
    assert replace(found[0], **changing) == replace(found[1], **changing)  # type: ignore[arg-type]


def test_a_shell_does_not_take_its_own_memory_for_the_tool_s(tmp_path: Path) -> None:
    with board_agent(LocalTarget(spec_for("shell"), home=tmp_path)) as agent:
        # A tool that never becomes another program than the shell.
        run = agent.run(call("sh", "-c", ":", memory=True))
    assert run.peak_resident_bytes is None and run.peak_anonymous_bytes is None


def test_without_python_it_says_so(tmp_path: Path) -> None:
    heard: list[Event] = []
    with board_agent(LocalTarget(spec_for("shell"), home=tmp_path), EventBus(listeners=[heard.append])):
        pass
    (note,) = heard
    assert isinstance(note, Note)
    assert note.text == (
        "board: measuring by plain shell, as /nonexistent/python3 cannot run there: "
        "/nonexistent/python3: No such file or directory"
    )


def test_a_shell_that_was_left_ends_its_tool(tmp_path: Path) -> None:
    """As when the connection drops: stdin ends, and nobody says goodbye."""
    from ramp_edge.device.shell_agent import RUN_SCRIPT

    target = LocalTarget(SPEC, home=tmp_path)
    command = target.start(["sh", "-c", RUN_SCRIPT, "sh", "0", "sh", "-c", "echo $$; exec sleep 60"])
    lines = [command.read_line(10.0) for _ in range(2)]
    pid = int((lines[1] or b"").split()[-1])
    assert not gone(pid, 0.2)
    with pytest.raises(DeadlineError), ExitStack() as stack:
        stack.enter_context(command)
        command.result(0.5)  # closes stdin
        raise DeadlineError("it had ended by itself")
    assert gone(pid)


# The agent itself goes wrong.


def fake_agent(tmp_path: Path, script: str) -> LocalTarget:
    """A board whose `python` is this shell script."""
    python = tmp_path / "python3"
    python.write_text("#!/bin/sh\n" + script)
    python.chmod(0o755)
    return LocalTarget(replace(SPEC, python=str(python)), home=tmp_path)


HELLO = 'echo \'{"id":0,"kind":"hello","agent":1,"python":"3.8.0"}\'\nread line\n'
HOSTILE = {
    "10 MB line": ("head -c 10000000 /dev/zero | tr '\\0' x; echo\nsleep 60", r"says what is no message .*1048576 bytes"),
    "invalid UTF-8": ("printf '\\377\\376{\\n'; sleep 60", r"says what is no message"),
    "ANSI codes": ("printf '\\033[2J\\033[31mboo\\n'; sleep 60", r"no message .*'\[2J \[31mboo'"),
    "a list": ("echo '[1]'; sleep 60", r"says what is no message"),
    "unknown kind": ('echo \'{"id":1,"kind":"dance"}\'; sleep 60', r"kind: Input should be 'line', 'result' or 'error'"),
    "text for a number": ('echo \'{"id":"1","kind":"line"}\'; sleep 60', r"id: Input should be a valid integer"),
    "not a number": ('echo \'{"id":1,"kind":"line","at_s":NaN}\'; sleep 60', r"at_s: "),
    "another request": ('echo \'{"id":9,"kind":"line"}\'; sleep 60', r"answers request 9 where 1 was asked"),
    "wrong fields": ('echo \'{"id":1,"kind":"result","result":{"exit_code":0}}\'; sleep 60', r"wrong fields: wall_s: Field required"),
    "no result": ('echo \'{"id":1,"kind":"result"}\'; sleep 60', r"answers with the wrong fields"),
    "ends": ("echo out of luck >&2; exit 9", r"the agent on board ended \(exit status 9\) while it ran echo: out of luck"),
    "killed": ("kill -9 $$", r"the agent on board ended \(signal 9\) while it ran echo"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_what_is_no_message_ends_the_bench(case: str, tmp_path: Path) -> None:
    script, expected = HOSTILE[case]
    start_s = time.monotonic()
    with (
        board_agent(fake_agent(tmp_path, HELLO + script)) as agent,
        pytest.raises(BoardToolError, match=expected) as caught,
    ):
        agent.run(call("echo", "x"))
    assert "\x1b" not in caught.value.message
    assert time.monotonic() - start_s < 20
    assert len(caught.value.message) < 600


def test_nothing_more_is_asked_of_an_agent_that_was_not_understood(tmp_path: Path) -> None:
    with board_agent(fake_agent(tmp_path, HELLO + "echo nonsense; sleep 60")) as agent:
        for expected in ("no message", "not understood before"):
            with pytest.raises(BoardToolError, match=expected):
                agent.facts()


def test_an_agent_that_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_client, "HELLO_TIMEOUT_S", 0.3)
    with (
        pytest.raises(DeadlineError, match="the agent on board did not answer"),
        board_agent(fake_agent(tmp_path, "sleep 60")),
    ):
        pass
    monkeypatch.setattr(agent_client, "HELLO_TIMEOUT_S", 30.0)
    monkeypatch.setattr(agent_client, "GRACE_S", 0.2)
    start_s = time.monotonic()
    with (
        board_agent(fake_agent(tmp_path, HELLO + "sleep 60")) as agent,
        pytest.raises(DeadlineError, match="did not answer"),
    ):
        agent.run(call("echo", timeout_s=0.2))
    assert time.monotonic() - start_s < 15


def test_lines_that_never_stop_end_at_the_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_client, "GRACE_S", 0.2)
    script = 'while :; do echo \'{"id":1,"kind":"line","text":"more"}\'; sleep 0.01; done'
    with board_agent(fake_agent(tmp_path, HELLO + script)) as agent, pytest.raises(DeadlineError):
        agent.run(call("echo", timeout_s=0.5))


def test_a_greeting_before_the_agent_s_own(tmp_path: Path) -> None:
    with board_agent(fake_agent(tmp_path, "echo Welcome; echo '{}'\n" + HELLO)) as agent:
        assert agent.kind == "python"
    flood = "i=0; while [ $i -lt 500 ]; do echo hi; i=$((i+1)); done; sleep 60"
    with pytest.raises(BoardToolError, match="says 100 lines"), board_agent(fake_agent(tmp_path, flood)):
        pass


def test_another_version(tmp_path: Path) -> None:
    hello = HELLO.replace('"agent":1', '"agent":99')
    with pytest.raises(BoardToolError, match="has version 99, not 1"), board_agent(fake_agent(tmp_path, hello)):
        pass


def test_the_agent_is_killed_while_a_tool_runs(tmp_path: Path) -> None:
    target = LocalTarget(SPEC, home=tmp_path)
    with (
        board_agent(target) as agent,
        pytest.raises(BoardToolError, match=r"the agent on board ended \(signal 9\) while it ran sh"),
    ):
        agent.run(call("sh", "-c", f"echo $$ >{tmp_path}/pid; kill -9 $PPID; sleep 60"))
    assert gone(int((tmp_path / "pid").read_text()))


def test_leaving_in_mid_run_ends_the_tool(tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop(line: ToolLine) -> None:
        raise Stop

    pids = []
    for kind in KINDS:
        with pytest.raises(Stop), board_agent(LocalTarget(spec_for(kind), home=tmp_path)) as agent:
            agent.run(call("sh", "-c", f"echo $$ >{tmp_path}/pid; echo go; exec sleep 60"), stop)
        pids.append(int((tmp_path / "pid").read_text()))
    assert all(gone(pid) for pid in pids)


class CutTarget(LocalTarget):
    """A board whose connection breaks once a tool has said its first line."""

    def start(self, argv: Sequence[str]) -> RunningCommand:
        command = super().start(argv)
        read_line = command.read_line

        def cut(timeout_s: float) -> bytes | None:
            line = read_line(timeout_s)
            if line is not None and b"first" in line:
                raise ConnectionFailedError("the connection to board broke")
            return line

        command.read_line = cut  # type: ignore[method-assign]
        return command


@pytest.mark.parametrize("kind", KINDS)
def test_a_connection_that_breaks_in_mid_run(kind: str, tmp_path: Path) -> None:
    target = CutTarget(spec_for(kind), home=tmp_path)
    with pytest.raises(ConnectionFailedError, match="the connection to board broke"), board_agent(target) as agent:
        agent.run(call("sh", "-c", f"echo $$ >{tmp_path}/pid; echo first; exec sleep 60"))
    assert gone(int((tmp_path / "pid").read_text()))


# Files on the board.


def test_a_file_is_sent_once_and_again_when_altered(tmp_path: Path) -> None:
    target = LocalTarget(SPEC, home=tmp_path)
    path = Path(put_file(target, b"abc", "text", ".txt"))
    assert path.read_bytes() == b"abc"
    assert path.is_relative_to(target_folder(target)) and Path(target_folder(target)).parent == tmp_path
    before = path.stat().st_mtime_ns
    assert put_file(target, b"abc", "text", ".txt") == str(path)
    assert path.stat().st_mtime_ns == before
    path.write_bytes(b"abd")
    put_file(target, b"abc", "text", ".txt")
    assert path.read_bytes() == b"abc"
    assert put_file(target, b"abcd", "text", ".txt") != str(path)


def test_a_disk_that_loses_what_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = LocalTarget(SPEC, home=tmp_path)
    monkeypatch.setattr(type(target.files), "read", lambda self, path, limit: b"xyz")
    with pytest.raises(BoardStorageError, match="does not hold what was written"):
        put_file(target, b"abc", "text", ".txt")


def test_elf_headers() -> None:
    arm = b"\x7fELF\x02\x01" + b"\0" * 12 + struct.pack("<H", 183)
    assert elf_machine(arm) == "aarch64"
    assert elf_machine(b"\x7fELF\x02\x02" + b"\0" * 12 + struct.pack(">H", 62)) == "x86_64"
    assert elf_machine(b"\x7fELF\x02\x01" + b"\0" * 12 + struct.pack("<H", 4242)) == "ELF machine 4242"
    assert elf_machine(arm[:19]) is None
    assert elf_machine(b"#!/bin/sh\n" + b"x" * 30) is None
