"""What runs on the board: reads files and commands that tell facts, runs tools and watches their memory, time and energy.

One file, the standard library alone, Python 3.8 or later: it is sent as it is and started as `python3 agent.py`. Requests are
JSON lines on stdin, messages JSON lines on stdout:

    {"id": 1, "op": "gather", "files": [pattern, ...], "commands": {name: [argument, ...]}}
    {"id": 2, "op": "run", "argv": [...], "timeout_s": 60, "watch_memory": true, "measure_energy": true}

A request is answered by one message of kind `result` or `error`; before it, each line that the tool says is a message of kind
`line` with the seconds since its start and the joules so far. What a reading means is decided by whoever asked: `facts_parse.py`.

Nothing outlives the agent. Each tool is in a process group led by a guard that waits for the agent's end, whatever ends it; and
where stdin ends (the connection is gone), the agent ends.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from typing import Any

VERSION = 1
FILE_LIMIT_BYTES = 32768
ANSWER_LIMIT_BYTES = 600000
LINE_LIMIT_BYTES = 65536
REQUEST_LIMIT_BYTES = 1 << 20
COMMAND_TIMEOUT_S = 5.0
MEMORY_INTERVAL_S = 0.05
POWER_INTERVAL_S = 0.25
LAST_WORDS_S = 1.0


class Gone(Exception):
    """Nobody listens any more."""


class NotStarted(Exception):
    """The tool could not be started at all."""


class Requests:
    """Lines of stdin, without blocking longer than asked."""

    def __init__(self) -> None:
        self.buffer = b""

    def take(self) -> bytes | None:
        """A whole line that has already arrived."""
        line, end, rest = self.buffer.partition(b"\n")
        if not end:
            return None
        self.buffer = rest
        return line

    def receive(self) -> None:
        """Read what is there (waits where nothing is). Raises Gone at the end."""
        chunk = os.read(0, 65536)
        self.buffer += chunk
        if not chunk or len(self.buffer) > REQUEST_LIMIT_BYTES:
            raise Gone


def say(message: dict[str, Any]) -> None:
    """Write one message. Raises Gone."""
    data = json.dumps(message).encode("ascii") + b"\n"
    try:
        while data:
            data = data[os.write(1, data) :]
    except OSError:
        raise Gone from None


def read_text(path: str) -> str | None:
    """The beginning of a file; None where it cannot be read."""
    try:
        with open(path, "rb") as stream:  # noqa: PTH123
            return stream.read(FILE_LIMIT_BYTES).decode("utf-8", "replace")
    except OSError:
        return None


def read_number(path: str) -> float | None:
    """A file that holds a number."""
    try:
        return float(read_text(path) or "")
    except ValueError:
        return None


def command_text(argv: list[str]) -> str | None:
    """What a command prints; None where it is missing or fails. One that does not end is ended."""
    try:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    except OSError:
        return None
    try:
        output = process.communicate(timeout=COMMAND_TIMEOUT_S)[0]
    except subprocess.TimeoutExpired:
        process.kill()
        output = process.communicate()[0]
    except BaseException:
        process.kill()
        raise
    # `timeout` ends what never ends by itself, with this code.
    return output[:FILE_LIMIT_BYTES].decode("utf-8", "replace") if process.returncode in (0, 124) else None


def gather(request: dict[str, Any]) -> dict[str, Any]:
    """Contents of the readable files behind the patterns, and what the commands print."""
    files: dict[str, str] = {}
    left = ANSWER_LIMIT_BYTES
    for pattern in request["files"]:
        for path in sorted(glob.glob(pattern)):  # noqa: PTH207
            text = read_text(path)
            if text is not None and len(text) <= left:
                left -= len(text)
                files[path] = text
    commands = {name: command_text(argv) for name, argv in request["commands"].items()}
    return {"files": files, "commands": {name: text for name, text in commands.items() if text is not None}}


class Counters:
    """RAPL: energy counters of the processor packages, microjoules."""

    name = "RAPL package"

    def __init__(self) -> None:
        self.paths = []
        for folder in sorted(glob.glob("/sys/class/powercap/*")):  # noqa: PTH207
            if (read_text(folder + "/name") or "").startswith("package"):
                self.paths.append(folder)
        self.last: dict[str, float] = {}
        self.total_j = 0.0
        self.readable = bool(self.paths) and all(self.advance(path) for path in self.paths)

    def advance(self, folder: str) -> bool:
        """Add what was used since the last reading."""
        now = read_number(folder + "/energy_uj")
        if now is None:
            return False
        used = now - self.last.get(folder, now)
        if used < 0:  # the counter began anew
            used += read_number(folder + "/max_energy_range_uj") or 0.0
        self.last[folder] = now
        self.total_j += used / 1e6
        return True

    def joules(self) -> float:
        """Since the start."""
        for folder in self.paths:
            self.advance(folder)
        return self.total_j


def ina3221_watts() -> float | None:
    """Jetson: the rail that feeds the whole module, from the INA3221's voltage and current."""
    for folder in glob.glob("/sys/class/hwmon/hwmon*"):  # noqa: PTH207
        if (read_text(folder + "/name") or "").strip() != "ina3221":
            continue
        for channel in "123":
            if (read_text(folder + f"/in{channel}_label") or "").strip() not in ("VDD_IN", "POM_5V_IN"):
                continue
            millivolts = read_number(folder + f"/in{channel}_input")
            milliamperes = read_number(folder + f"/curr{channel}_input")
            if millivolts is not None and milliamperes is not None:
                return millivolts * milliamperes / 1e6
    return None


def pmic_watts() -> float | None:
    """Raspberry Pi 5: the sum over the power chip's rails of current times voltage."""
    amperes: dict[str, float] = {}
    volts: dict[str, float] = {}
    for line in (command_text(["vcgencmd", "pmic_read_adc"]) or "").splitlines():
        rail, _, value = line.strip().rpartition("=")
        name = rail.split(" ")[0]
        with contextlib.suppress(ValueError):
            if name.endswith("_A"):
                amperes[name[:-2]] = float(value.rstrip("A"))
            elif name.endswith("_V"):
                volts[name[:-2]] = float(value.rstrip("V"))
    rails = [name for name in amperes if name in volts]
    return sum(amperes[name] * volts[name] for name in rails) if rails else None


class Sampled:
    """Watts read now and then, added up over time."""

    def __init__(self, name: str, watts: Any) -> None:
        self.name, self.watts = name, watts
        self.total_j = 0.0
        self.last_w: float | None = watts()
        self.last_s = time.monotonic()
        self.readable = self.last_w is not None

    def joules(self) -> float:
        """Since the start."""
        now_w, now_s = self.watts(), time.monotonic()
        if now_w is not None and self.last_w is not None:
            self.total_j += (now_w + self.last_w) / 2 * (now_s - self.last_s)
            self.last_w, self.last_s = now_w, now_s
        return self.total_j


def energy_meter() -> Any:
    """A sensor that can be read here, or None."""
    for make in (
        Counters,
        lambda: Sampled("INA3221 input rail", ina3221_watts),
        lambda: Sampled("PMIC rails", pmic_watts),
    ):
        meter: Any = make()
        if meter.readable:
            return meter
    return None


class Guard:
    """A child that leads the tool's process group and ends all of it once the agent is gone."""

    def __init__(self) -> None:
        ends_here, self.held = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.setpgid(0, 0)
                # With these open, whoever reads our output would wait for this process.
                for handle in (self.held, 0, 1, 2):
                    os.close(handle)
                os.read(ends_here, 1)
                os.killpg(0, signal.SIGKILL)
            finally:
                os._exit(0)
        with contextlib.suppress(OSError):  # one of us two is first
            os.setpgid(self.pid, self.pid)
        os.close(ends_here)

    def end(self) -> None:
        """End whatever is left of the group."""
        with contextlib.suppress(OSError):
            os.killpg(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.held)


def memory_of(pid: int) -> tuple[int, int]:
    """(peak resident, anonymous now) bytes of a running process; zeros where the system does not tell."""
    found = {"VmHWM:": 0, "RssAnon:": 0}
    for line in (read_text(f"/proc/{pid}/status") or "").splitlines():
        words = line.split()
        if words and words[0] in found:
            found[words[0]] = 1024 * int(words[1])
    return found["VmHWM:"], found["RssAnon:"]


class Tool:
    """A tool that runs: its lines, and what it uses."""

    def __init__(self, request: dict[str, Any], guard: Guard) -> None:
        self.id = request["id"]
        self.meter = energy_meter() if request["measure_energy"] else None
        self.own_peak = memory_of(os.getpid())[0]
        self.start_s = time.monotonic()
        self.process = subprocess.Popen(
            request["argv"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0,
            preexec_fn=lambda: os.setpgid(0, guard.pid),  # noqa: PLW1509
        )  # fmt: skip
        self.streams: dict[int, str] = {}
        self.partial: dict[int, bytes] = {}
        for name in ("stdout", "stderr"):
            handle: int = getattr(self.process, name).fileno()
            self.streams[handle] = name
            self.partial[handle] = b""
        self.watched = [0, 0]
        self.usage: Any = None

    def line(self, handle: int, raw: bytes) -> None:
        """Pass a line on."""
        message = {
            "id": self.id,
            "kind": "line",
            "stream": self.streams[handle],
            "text": raw[:LINE_LIMIT_BYTES].decode("utf-8", "replace"),
            "at_s": time.monotonic() - self.start_s,
            "energy_j": None if self.meter is None else self.meter.joules(),
        }
        say(message)

    def read(self, handle: int) -> bool:
        """Take what a stream holds; False at its end."""
        chunk = os.read(handle, 65536)
        lines = (self.partial[handle] + chunk).split(b"\n")
        # A line that never ends is kept to its limit only.
        self.partial[handle] = lines.pop()[:LINE_LIMIT_BYTES]
        for raw in lines:
            self.line(handle, raw)
        if not chunk:
            self.flush(handle)
        return bool(chunk)

    def flush(self, handle: int) -> None:
        """Pass on a last line without an end."""
        if self.partial[handle]:
            self.line(handle, self.partial[handle])
            self.partial[handle] = b""

    def poll(self, memory: bool) -> bool:
        """Look at its memory; True once it has ended."""
        if memory:
            for i, value in enumerate(memory_of(self.process.pid)):
                self.watched[i] = max(self.watched[i], value)
        if self.usage is None:
            pid, status, usage = os.wait4(self.process.pid, os.WNOHANG)
            if pid:
                self.usage, self.wall_s = usage, time.monotonic() - self.start_s
                self.process.returncode = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        return self.usage is not None

    def result(self) -> dict[str, Any]:
        """What is known once it has ended."""
        peak = self.usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        # A child's figure begins with that of the process it was forked from: no more than that tells nothing.
        if peak <= self.own_peak:
            peak = self.watched[0]
        return {
            "exit_code": self.process.returncode,
            "wall_s": self.wall_s,
            "cpu_s": self.usage.ru_utime + self.usage.ru_stime,
            "peak_resident_bytes": max(peak, self.watched[0]) or None,
            "peak_anonymous_bytes": self.watched[1] or None,
            "energy_source": None if self.meter is None else self.meter.name,
        }


def run(request: dict[str, Any], requests: Requests) -> dict[str, Any]:
    """Run a tool to its end. Raises Gone, NotStarted, TimeoutError."""
    guard = Guard()
    try:
        try:
            tool = Tool(request, guard)
        except OSError as error:
            raise NotStarted(error.strerror or str(error)) from None
        with tool.process, selectors.DefaultSelector() as selector:
            try:
                follow(request, requests, tool, selector)
                return tool.result()
            finally:
                if tool.usage is None:
                    os.killpg(guard.pid, signal.SIGKILL)
                    tool.process.wait()
    finally:
        guard.end()


def follow(request: dict[str, Any], requests: Requests, tool: Tool, selector: selectors.BaseSelector) -> None:
    """Until the tool has ended and said all."""
    deadline_s = tool.start_s + request["timeout_s"]
    selector.register(0, selectors.EVENT_READ)
    for handle in tool.streams:
        selector.register(handle, selectors.EVENT_READ)
    is_open = set(tool.streams)
    memory = request["watch_memory"]
    interval_s = MEMORY_INTERVAL_S if memory else POWER_INTERVAL_S
    while True:
        for key, _ in selector.select(interval_s):
            if key.fd == 0:
                requests.receive()
            elif not tool.read(key.fd):
                selector.unregister(key.fd)
                is_open.discard(key.fd)
        if tool.meter is not None:
            tool.meter.joules()
        now_s = time.monotonic()
        if tool.poll(memory) and (not is_open or now_s > tool.start_s + tool.wall_s + LAST_WORDS_S):
            for handle in is_open:
                tool.flush(handle)
            return
        if now_s > deadline_s:
            raise TimeoutError


def answer(request: dict[str, Any], requests: Requests) -> dict[str, Any]:
    """The message that answers a request."""
    try:
        result = gather(request) if request["op"] == "gather" else run(request, requests)
        return {"id": request["id"], "kind": "result", "result": result}
    except TimeoutError:
        return {"id": request["id"], "kind": "error", "cause": "deadline", "text": "it was not done in time"}
    except NotStarted as error:
        return {"id": request["id"], "kind": "error", "cause": "not_started", "text": str(error)}


def main() -> None:
    """Answer requests until stdin ends."""
    requests = Requests()
    with contextlib.suppress(Gone):
        say({"id": 0, "kind": "hello", "agent": VERSION, "python": sys.version.split()[0]})
        while True:
            line = requests.take()
            if line is None:
                requests.receive()
            else:
                say(answer(json.loads(line.decode("utf-8")), requests))


if __name__ == "__main__":
    main()
