"""Speaks with the agent on a board: requests with deadlines, and nothing believed that has not the right shape.

A board may print anything: greetings of its shell, lines without end, bytes that are no text. What is not a message of the
agreed form ends the conversation with a BoardToolError that shows it; it never hangs, and never fills our memory.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NoReturn, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from ramp_edge.device import agent as agent_file
from ramp_edge.device.facts import BoardFacts, LoadReading
from ramp_edge.device.facts_parse import parse_facts, parse_load
from ramp_edge.device.raw_facts import FILES, LOAD_FILES, LOAD_WINDOW_S, RawFacts, clean, commands_for
from ramp_edge.device.shell_agent import ShellAgent
from ramp_edge.device.target import MAX_OUTPUT_BYTES, CommandResult, RunningCommand, Target, printable
from ramp_edge.device.tool_failure import raise_not_started
from ramp_edge.device.tool_run import BoardAgent, OnLine, ToolCall, ToolLine, ToolRun
from ramp_edge.device.work_files import put_file
from ramp_edge.errors import BoardToolError, ConnectionFailedError, DeadlineError
from ramp_edge.events import EventBus

HELLO_TIMEOUT_S = 30.0
GATHER_TIMEOUT_S = 90.0
GRACE_S = 15.0
"""How much later than the tool's own deadline the agent must have said so."""
GREETING_LINES = 100
"""A login script may print something before the agent does."""
_MISUNDERSTOOD = "run the same command again; if it stays, see what answers there as `python3`, or name another with `python` in targets.yaml"
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Hello:
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(strict=True)
    kind: Literal["hello"]
    agent: int
    python: str


@dataclass(frozen=True, kw_only=True, slots=True)
class _Message:
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(strict=True, allow_inf_nan=False)
    id: int
    kind: Literal["line", "result", "error"]
    stream: Literal["stdout", "stderr"] = "stdout"
    text: str = ""
    at_s: float | None = None
    energy_j: float | None = None
    cause: Literal["deadline", "not_started"] = "not_started"
    result: dict[str, Any] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Gathered:
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(strict=True)
    files: dict[str, str]
    commands: dict[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Ended:
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(strict=True, allow_inf_nan=False)
    exit_code: int
    wall_s: float
    cpu_s: float
    peak_resident_bytes: int | None
    peak_anonymous_bytes: int | None
    energy_source: str | None


_HELLOS, _MESSAGES = TypeAdapter(_Hello), TypeAdapter(_Message)


@contextmanager
def board_agent(target: Target, events: EventBus | None = None) -> Iterator[BoardAgent]:
    """An agent on that board, ended afterwards together with whatever it still runs.

    The one of plain shell where the board has no Python 3.8 or later. Raises BoardStorageError, ConnectionFailedError.
    """
    source = Path(agent_file.__file__).read_bytes()
    path = put_file(target, source, "agent", ".py")
    with target.start([target.spec.python, path]) as command:
        conversation = _Conversation(target, command)
        missing = conversation.greet()
        if missing is None:
            yield PythonAgent(target, conversation)
            return
    (events or EventBus()).note(f"{target.spec.name}: measuring by plain shell, as {missing}")
    yield ShellAgent(target)


class _Conversation:
    """Requests and what comes back, one at a time."""

    def __init__(self, target: Target, command: RunningCommand) -> None:
        self._target, self._command, self._last_id = target, command, 0
        self._broken = False

    @property
    def _name(self) -> str:
        return f"the agent on {self._target.spec.name}"

    def greet(self) -> str | None:
        """Wait for the agent's hello. Returns why there is none where the board has no Python that can run it."""
        deadline_s = time.monotonic() + HELLO_TIMEOUT_S
        for _ in range(GREETING_LINES):
            line = self._read(deadline_s)
            if line is None:
                result = self._command.result(GRACE_S)
                return f"{self._target.spec.python} cannot run there: {result.error_text}"
            try:
                hello = _HELLOS.validate_json(line)
            except ValidationError:
                continue
            if hello.agent != agent_file.VERSION:
                raise BoardToolError(f"{self._name} has version {hello.agent}, not {agent_file.VERSION}")
            return None
        raise BoardToolError(
            f"{self._target.spec.name} says {GREETING_LINES} lines before the agent does",
            hint="a login script of the board prints them: let it be silent where no terminal is",
        )

    def request(self, content: dict[str, Any]) -> int:
        """Send a request; its id."""
        if self._broken:
            raise BoardToolError(f"{self._name} was not understood before, so nothing more is asked of it")
        self._last_id += 1
        try:
            self._command.send(json.dumps({"id": self._last_id, **content}).encode("ascii") + b"\n")
        except ConnectionFailedError:
            self._gone("was asked")
        return self._last_id

    def message(self, expected_id: int, deadline_s: float, doing: str) -> _Message:
        """The next message of that request. Raises BoardToolError for anything else."""
        line = self._read(deadline_s)
        if line is None:
            self._gone(doing)
        try:
            message = _MESSAGES.validate_json(line)
        except ValidationError as error:
            self._broken = True
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(map(str, first["loc"]))
            raise BoardToolError(
                f"{self._name} says what is no message ({place + ': ' if place else ''}{first['msg']}): "
                f"{printable(line, 120)!r}, {len(line)} bytes",
                hint=_MISUNDERSTOOD,
            ) from None
        if message.id != expected_id:
            self._broken = True
            raise BoardToolError(
                f"{self._name} answers request {message.id} where {expected_id} was asked", hint=_MISUNDERSTOOD
            )
        return message

    def shaped(self, kind: type[T], content: dict[str, Any] | None) -> T:
        """A result of the expected form. Raises BoardToolError."""
        try:
            return TypeAdapter(kind).validate_json(json.dumps(content))
        except ValidationError as error:
            self._broken = True
            fields = "; ".join(
                f"{'.'.join(map(str, e['loc'])) or 'result'}: {e['msg']}"
                for e in error.errors(include_url=False, include_input=False)[:5]
            )
            raise BoardToolError(
                f"{self._name} answers with the wrong fields: {printable(fields.encode())}", hint=_MISUNDERSTOOD
            ) from None

    def _read(self, deadline_s: float) -> bytes | None:
        try:
            return self._command.read_line(max(0.0, deadline_s - time.monotonic()))
        except DeadlineError:
            self._broken = True
            raise DeadlineError(f"{self._name} did not answer in the time it was given") from None

    def _gone(self, doing: str) -> NoReturn:
        self._broken = True
        result: CommandResult = self._command.result(GRACE_S)
        how = f"signal {-result.exit_code}" if result.exit_code < 0 else f"exit status {result.exit_code}"
        said = f": {result.error_text}" if result.stderr.strip() else ""
        raise BoardToolError(
            f"{self._name} ended ({how}) while it {doing}{said}",
            hint="something on the board ended it (out of memory?): look at its log, then run the same command again",
        )


class PythonAgent:
    """The agent where the board has Python."""

    kind = "python"

    def __init__(self, target: Target, conversation: _Conversation) -> None:
        self._target, self._conversation = target, conversation
        self._system: str | None = None

    def facts(self) -> BoardFacts:
        """See `BoardAgent`."""
        earlier = self._gather(LOAD_FILES, {})
        time.sleep(LOAD_WINDOW_S)
        later = self._gather(LOAD_FILES, {"system": ("uname", "-s")})
        everything = self._gather(FILES, commands_for(clean(later.commands.get("system"))))
        # The load as it was before the many commands of the last request.
        return parse_facts(RawFacts(files={**everything.files, **later.files}, commands=everything.commands), earlier)

    def load(self) -> LoadReading:
        """See `BoardAgent`."""
        return parse_load(self._gather(LOAD_FILES, {}))

    def _gather(self, files: tuple[str, ...], commands: dict[str, tuple[str, ...]]) -> RawFacts:
        request = self._conversation.request({"op": "gather", "files": files, "commands": commands})
        message = self._conversation.message(request, time.monotonic() + GATHER_TIMEOUT_S, "gathered facts")
        if message.kind != "result":
            raise BoardToolError(f"the agent on {self._target.spec.name}: {printable(message.text.encode())}")
        found = self._conversation.shaped(_Gathered, message.result)
        return RawFacts(files=found.files, commands=found.commands)

    def run(self, call: ToolCall, on_line: OnLine | None = None) -> ToolRun:
        """See `BoardAgent`."""
        argv = (*self._target.spec.exec_prefix, *call.argv)
        tool = call.argv[0].rpartition("/")[2]
        request = self._conversation.request(
            {
                "op": "run",
                "argv": argv,
                "timeout_s": call.timeout_s,
                "watch_memory": call.watch_memory,
                "measure_energy": call.measure_energy,
            }
        )
        deadline_s = time.monotonic() + call.timeout_s + GRACE_S
        lines: list[ToolLine] = []
        kept_bytes = 0
        while True:
            message = self._conversation.message(request, deadline_s, f"ran {tool}")
            if message.kind == "line":
                line = ToolLine(
                    stream=message.stream, text=message.text, at_s=message.at_s, energy_j=message.energy_j
                )  # fmt: skip
                kept_bytes += len(line.text) + 64
                if kept_bytes <= MAX_OUTPUT_BYTES:
                    lines.append(line)
                if on_line is not None:
                    on_line(line)
            elif message.kind == "result":
                ended = self._conversation.shaped(_Ended, message.result)
                return ToolRun(
                    exit_code=ended.exit_code,
                    wall_s=ended.wall_s,
                    cpu_s=ended.cpu_s,
                    peak_resident_bytes=ended.peak_resident_bytes,
                    peak_anonymous_bytes=ended.peak_anonymous_bytes,
                    energy_source=ended.energy_source,
                    lines=tuple(lines),
                )
            elif message.cause == "deadline":
                raise DeadlineError(f"{tool} on {self._target.spec.name} was not done after {call.timeout_s:.0f} s")
            else:
                raise_not_started(self._target, argv, printable(message.text.encode()))
