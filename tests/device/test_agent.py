"""The agent as the board sees it: one file, started by whatever Python is there, and nothing left behind when it goes."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ramp_edge.device import agent as agent_module

SOURCE = Path(agent_module.__file__)


def _pythons() -> list[str]:
    """This one, and the oldest ones that are installed and run."""
    found = [sys.executable]
    for name in ("python3.8", "python3.9"):
        path = shutil.which(name)
        if path and subprocess.run([path, "-c", ""], capture_output=True, check=False).returncode == 0:
            found.append(path)
    return found


class Conversation:
    """A started agent."""

    def __init__(self, python: str = sys.executable) -> None:
        self.process = subprocess.Popen([python, str(SOURCE)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.read()["kind"] == "hello"

    def read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the agent ended"
        message: dict[str, Any] = json.loads(line)
        return message

    def ask(self, **request: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"id": 7, **request}).encode() + b"\n")
        self.process.stdin.flush()

    def run(self, *argv: str, timeout_s: float = 30.0, memory: bool = False, energy: bool = False) -> None:
        self.ask(op="run", argv=argv, timeout_s=timeout_s, watch_memory=memory, measure_energy=energy)

    def rest(self) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """(lines, final message) of a run."""
        lines = []
        while (message := self.read())["kind"] == "line":
            lines.append(message)
        assert message["id"] == 7
        return lines, message

    def result(self) -> dict[str, Any]:
        """Of a run that ended."""
        message = self.rest()[1]
        assert message["kind"] == "result", message
        found: dict[str, Any] = message["result"]
        return found

    def end(self) -> int:
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):
                stream.close()
        return self.process.wait(10)


@pytest.fixture
def agent() -> Iterator[Conversation]:
    conversation = Conversation()
    yield conversation
    with contextlib.suppress(ProcessLookupError):
        conversation.process.kill()
    conversation.end()


def _gone(pid: int, within_s: float = 5.0) -> bool:
    """True once there is no such process, or only its unread end."""
    deadline_s = time.monotonic() + within_s
    while time.monotonic() < deadline_s:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.02)
    return False


def test_the_file_is_python_3_8_and_the_standard_library_alone() -> None:
    tree = ast.parse(SOURCE.read_text("utf-8"), feature_version=(3, 8))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert len(names) > 5
    assert names <= set(sys.stdlib_module_names)


@pytest.mark.parametrize("python", _pythons(), ids=lambda path: Path(path).name)
def test_it_runs_tools_and_gathers(python: str, tmp_path: Path) -> None:
    agent = Conversation(python)
    (tmp_path / "a").write_text("one\n")
    (tmp_path / "b").write_bytes(b"two\xff\0")
    agent.ask(
        op="gather", files=[f"{tmp_path}/*", "/nonexistent/*"], commands={"x": ["echo", "y"], "z": ["nonexistent"]}
    )
    message = agent.read()
    assert message["result"] == {
        "files": {f"{tmp_path}/a": "one\n", f"{tmp_path}/b": "two�\0"},
        "commands": {"x": "y\n"},
    }
    agent.run("sh", "-c", "echo out; echo err >&2; exit 3")
    lines, message = agent.rest()
    assert {(line["stream"], line["text"]) for line in lines} == {("stdout", "out"), ("stderr", "err")}
    assert all(0 <= line["at_s"] <= message["result"]["wall_s"] + 1 for line in lines)
    assert message["result"]["exit_code"] == 3
    assert agent.end() == 0


def test_a_command_that_does_not_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_module, "COMMAND_TIMEOUT_S", 0.2)
    start_s = time.monotonic()
    assert agent_module.command_text(["sleep", "60"]) is None
    assert time.monotonic() - start_s < 5
    assert agent_module.command_text(["false"]) is None


def test_peak_memory_is_the_tool_s_own(agent: Conversation) -> None:
    agent.run(sys.executable, "-S", "-c", "x = bytearray(90_000_000); x[::4096] = b'1' * len(x[::4096]); import time; time.sleep(.3)",
              memory=True)  # fmt: skip
    result = agent.result()
    assert 90e6 < result["peak_resident_bytes"] < 130e6
    assert 90e6 < result["peak_anonymous_bytes"] <= result["peak_resident_bytes"]
    assert 0 < result["cpu_s"] < 30
    # Smaller than the agent itself, whose size a child's figure begins with.
    agent.run("sleep", "0.3", memory=True)
    result = agent.result()
    assert 1e5 < result["peak_resident_bytes"] < 6e6


def test_a_signal_is_a_negative_exit_code(agent: Conversation) -> None:
    agent.run("sh", "-c", "kill -SEGV $$")
    assert agent.result()["exit_code"] == -signal.SIGSEGV


def test_what_cannot_start_says_why(agent: Conversation, tmp_path: Path) -> None:
    agent.run("/nonexistent")
    message = agent.rest()[1]
    assert (message["cause"], message["text"]) == ("not_started", "No such file or directory")
    agent.run("echo", "still there")
    assert agent.result()["exit_code"] == 0


def test_a_deadline_ends_the_tool_and_its_children(agent: Conversation) -> None:
    agent.run("sh", "-c", "sleep 60 & echo $!; echo $$; wait", timeout_s=0.5)
    lines, message = agent.rest()
    assert message["cause"] == "deadline"
    assert all(_gone(int(line["text"])) for line in lines)
    assert len(lines) == 2


def test_children_that_hold_the_output_do_not_hold_the_answer(agent: Conversation) -> None:
    start_s = time.monotonic()
    agent.run("sh", "-c", "sleep 60 & echo $!")
    lines, message = agent.rest()
    assert message["result"]["exit_code"] == 0
    assert time.monotonic() - start_s < 10
    assert _gone(int(lines[0]["text"]))


@pytest.mark.parametrize("how", ["killed", "stdin ends"])
def test_nothing_outlives_the_agent(how: str) -> None:
    agent = Conversation()
    agent.run("sh", "-c", "sleep 60 & echo $!; echo $$; wait")
    pids = [int(agent.read()["text"]) for _ in range(2)]
    assert not any(_gone(pid, 0.1) for pid in pids)
    if how == "killed":
        os.kill(agent.process.pid, signal.SIGKILL)
    agent.end()
    assert all(_gone(pid) for pid in pids)


def test_a_line_without_end_is_cut(agent: Conversation) -> None:
    agent.run("sh", "-c", "head -c 10000000 /dev/zero | tr '\\0' x; echo; echo end")
    lines, message = agent.rest()
    assert [len(line["text"]) for line in lines] == [agent_module.LINE_LIMIT_BYTES, 3]
    assert message["result"]["exit_code"] == 0


class FakeSys:
    """Files by path, changed by the test between readings."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, files: dict[str, str]) -> None:
        self.files = files
        monkeypatch.setattr(agent_module, "read_text", self.files.get)
        monkeypatch.setattr(agent_module.glob, "glob", self._glob)

    def _glob(self, pattern: str) -> list[str]:
        prefix = pattern.rstrip("*")
        return sorted({path.rpartition("/")[0] for path in self.files if path.startswith(prefix)})


def test_rapl_counts_packages_and_survives_the_counter_s_end(monkeypatch: pytest.MonkeyPatch) -> None:
    base = "/sys/class/powercap/intel-rapl:0"
    files = {
        f"{base}/name": "package-0\n",
        f"{base}/energy_uj": "900000",
        f"{base}/max_energy_range_uj": "1000000",
        f"{base}:0/name": "core\n",
        f"{base}:0/energy_uj": "5",
    }
    fake = FakeSys(monkeypatch, files)
    meter = agent_module.energy_meter()
    assert meter.name == "RAPL package"
    fake.files[f"{base}/energy_uj"] = "990000"
    assert meter.joules() == pytest.approx(0.09)
    fake.files[f"{base}/energy_uj"] = "10000"
    assert meter.joules() == pytest.approx(0.11)


def test_rapl_that_only_root_may_read_is_no_meter(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeSys(monkeypatch, {"/sys/class/powercap/intel-rapl:0/name": "package-0"})
    monkeypatch.setattr(agent_module, "command_text", lambda argv: None)
    assert agent_module.energy_meter() is None


def test_power_is_added_up_over_time(monkeypatch: pytest.MonkeyPatch) -> None:
    base = "/sys/class/hwmon/hwmon3"
    FakeSys(
        monkeypatch,
        {f"{base}/name": "ina3221", f"{base}/in1_label": "VDD_IN", f"{base}/in1_input": "5000", f"{base}/curr1_input": "2000"},
    )  # fmt: skip
    now = iter([0.0, 2.0, 3.0])
    monkeypatch.setattr(agent_module.time, "monotonic", lambda: next(now))
    meter = agent_module.energy_meter()
    assert meter.name == "INA3221 input rail"
    assert meter.joules() == pytest.approx(20.0)
    assert meter.joules() == pytest.approx(30.0)


def test_the_pi_s_rails_are_summed(monkeypatch: pytest.MonkeyPatch) -> None:
    text = """\
   3V7_WL_SW_A current(0)=0.10000000A
   VDD_CORE_A current(7)=2.00000000A
   3V7_WL_SW_V volt(8)=3.70000000V
   VDD_CORE_V volt(15)=0.90000000V
   EXT5V_V volt(24)=5.10000000V
"""
    monkeypatch.setattr(agent_module, "command_text", lambda argv: text)
    assert agent_module.pmic_watts() == pytest.approx(0.37 + 1.8)
    monkeypatch.setattr(agent_module, "command_text", lambda argv: None)
    assert agent_module.pmic_watts() is None


def test_energy_comes_with_each_line(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    class Meter:
        name, used = "fake", 0.0

        def joules(self) -> float:
            self.used += 1.0
            return self.used

    monkeypatch.setattr(agent_module, "energy_meter", Meter)
    monkeypatch.setattr(agent_module.Requests, "receive", lambda self: None)
    read_end, write_end = os.pipe()
    saved = os.dup(0)
    os.dup2(read_end, 0)
    try:
        request = {"id": 1, "argv": ["echo", "x"], "timeout_s": 10, "watch_memory": False, "measure_energy": True}
        result = agent_module.run(request, agent_module.Requests())
    finally:
        os.dup2(saved, 0)
        for handle in (saved, read_end, write_end):
            os.close(handle)
    (line,) = [json.loads(text) for text in capfd.readouterr().out.splitlines()]
    assert line["text"] == "x" and line["energy_j"] >= 1.0
    assert result["energy_source"] == "fake"
