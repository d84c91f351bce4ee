"""The agent for boards without Python: the same records by a plain POSIX shell.

What a shell cannot learn is None: processor seconds and energy; on systems without /proc also memory and times within a run.
Peak memory is the kernel's own high-water mark as last seen 20 times a second: what a tool takes in its last twentieth is missed, and
one that ends sooner has none.
"""

from __future__ import annotations

import re
import time
from typing import Literal

from ramp_edge.device.facts import BoardFacts, LoadReading
from ramp_edge.device.facts_parse import parse_facts, parse_load
from ramp_edge.device.raw_facts import FILES, LOAD_FILES, LOAD_WINDOW_S, RawFacts, clean, commands_for
from ramp_edge.device.target import MAX_OUTPUT_BYTES, RunningCommand, Target, printable
from ramp_edge.device.tool_failure import raise_not_started
from ramp_edge.device.tool_run import OnLine, ToolCall, ToolLine, ToolRun
from ramp_edge.errors import BoardToolError, DeadlineError

GATHER_TIMEOUT_S = 60.0
COMMAND_TIMEOUT_S = 10.0
_NOT_EXECUTABLE, _NOT_FOUND = 126, 127
_SIGNALS_FROM = 128
_LAST_SIGNAL = 64
GATHER_SCRIPT = r"""
for pattern in "$@"; do
  for file in $pattern; do
    if [ -r "$file" ]; then printf '\036%s\037' "$file"; cat "$file" 2>/dev/null; fi
  done
done
"""
"""Record separator, path, unit separator, contents."""
RUN_SCRIPT = r"""
interval=$1; shift
exec 3<&0 4>&1 </dev/null
# Stdin ends when whoever started this is gone: then everything of this session goes.
{ while read -r line; do :; done; kill -9 0; } <&3 4>&- >/dev/null 2>&1 &
watcher=$!
now() { now=-; { read -r now rest </proc/uptime; } 2>/dev/null; }
stamp() { while IFS= read -r line || [ -n "$line" ]; do now; printf '%s %s %s\n' "$1" "$now" "$line"; done; }
look() {
  name= hwm= anon=
  while read -r key value rest; do
    case $key in Name:) name=$value ;; VmHWM:) hwm=$value ;; RssAnon:) anon=$value ;; esac
  done <"/proc/$1/status"
}
watch() {
  look $$
  own=$name
  while :; do
    look "$pid"
    [ -n "$hwm" ] || return
    # Before its exec it is a copy of this shell, whose memory is not the tool's.
    if [ "$name" != "$own" ]; then printf 'M %s %s\n' "$hwm" "${anon:--}" >&4; fi
    sleep "$interval" || sleep 1 || return
  done
}
now; printf 'S %s\n' "$now"
{
  {
    "$@" 2>&5 3<&- 4>&- 5>&- &
    pid=$!
    if [ "$interval" != 0 ]; then watch 2>/dev/null; fi
    wait "$pid"
    code=$?
    now; printf 'X %s %s\n' "$now" "$code" >&4
  } | stamp O >&4
} 5>&1 | stamp E >&4
kill "$watcher" 2>/dev/null
exit 0
"""
"""Lines: S(tart) time, M(emory) peak anonymous in KiB, O(utput) or E(rror) time text, e(X)it time code."""
_LINE = re.compile(r"^([OE]) ([\d.]{1,20}|-) (.*)$", re.DOTALL)
_MEMORY = re.compile(r"^M (\d{1,15}) (\d{1,15}|-)$")
_START = re.compile(r"^S ([\d.]{1,20}|-)$")
_EXIT = re.compile(r"^X ([\d.]{1,20}|-) (\d{1,3})$")


class ShellAgent:
    """Measures on a board by its shell."""

    kind = "shell"

    def __init__(self, target: Target) -> None:
        self._target = target

    def facts(self) -> BoardFacts:
        """See `BoardAgent`."""
        earlier = self._files(LOAD_FILES)
        time.sleep(LOAD_WINDOW_S)
        later = self._files(LOAD_FILES)
        files = self._files(FILES)
        commands: dict[str, str] = {}
        system = self._command(("uname", "-s"))
        for name, argv in commands_for(clean(system)).items():
            text = self._command(argv)
            if text is not None:
                commands[name] = text
        return parse_facts(RawFacts(files={**files.files, **later.files}, commands=commands), earlier)

    def load(self) -> LoadReading:
        """See `BoardAgent`."""
        return parse_load(self._files(LOAD_FILES))

    def _files(self, patterns: tuple[str, ...]) -> RawFacts:
        result = self._target.run(["sh", "-c", GATHER_SCRIPT, "sh", *patterns], timeout_s=GATHER_TIMEOUT_S)
        if result.exit_code in (_NOT_EXECUTABLE, _NOT_FOUND):
            raise BoardToolError(f"{self._target.spec.name} has no shell: {result.error_text}")
        files: dict[str, str] = {}
        for entry in result.stdout.decode("utf-8", errors="replace").split("\036")[1:]:
            path, _, content = entry.partition("\037")
            files[path] = content
        return RawFacts(files=files, commands={})

    def _command(self, argv: tuple[str, ...]) -> str | None:
        try:
            result = self._target.run(argv, timeout_s=COMMAND_TIMEOUT_S)
        except DeadlineError:
            return None
        return result.stdout.decode("utf-8", errors="replace") if result.exit_code in (0, 124) else None

    def run(self, call: ToolCall, on_line: OnLine | None = None) -> ToolRun:
        """See `BoardAgent`."""
        argv = (*self._target.spec.exec_prefix, *call.argv)
        interval = "0.05" if call.watch_memory else "0"
        with self._target.start(["sh", "-c", RUN_SCRIPT, "sh", interval, *argv]) as command:
            record = _Record(on_line)
            self._follow(command, record, call)
        if record.exit_code is None:
            raise BoardToolError(
                f"the shell on {self._target.spec.name} ended while it ran {argv[0].rpartition('/')[2]}"
            )
        if record.exit_code in (_NOT_EXECUTABLE, _NOT_FOUND):
            raise_not_started(self._target, argv, printable(record.result().last_words.encode("utf-8", "replace")))
        return record.result()

    def _follow(self, command: RunningCommand, record: _Record, call: ToolCall) -> None:
        deadline_s = time.monotonic() + call.timeout_s
        name = f"{call.argv[0].rpartition('/')[2]} on {self._target.spec.name}"
        while True:
            try:
                line = command.read_line(max(0.0, deadline_s - time.monotonic()))
            except DeadlineError:
                raise DeadlineError(f"{name} was not done after {call.timeout_s:.0f} s") from None
            if line is None:
                return
            if not record.take(line.decode("utf-8", errors="replace")):
                raise BoardToolError(f"the shell that runs {name} says what was not asked: {printable(line, 120)!r}")


class _Record:
    """What the script's lines add up to."""

    def __init__(self, on_line: OnLine | None) -> None:
        self._on_line = on_line
        self._lines: list[ToolLine] = []
        self._kept_bytes = 0
        self._start_s: float | None = None
        self._end_s: float | None = None
        self._peak_kib = self._anonymous_kib = 0
        self.exit_code: int | None = None

    def take(self, text: str) -> bool:
        """Note a line; False for one that the script does not write."""
        if match := _LINE.match(text):
            stream: Literal["stdout", "stderr"] = "stdout" if match[1] == "O" else "stderr"
            self._said(ToolLine(stream=stream, text=match[3], at_s=self._since_start(match[2]), energy_j=None))
        elif match := _MEMORY.match(text):
            self._peak_kib = max(self._peak_kib, int(match[1]))
            self._anonymous_kib = max(self._anonymous_kib, 0 if match[2] == "-" else int(match[2]))
        elif match := _START.match(text):
            self._start_s = _seconds(match[1])
        elif match := _EXIT.match(text):
            self._end_s = _seconds(match[1])
            code = int(match[2])
            is_signal = _SIGNALS_FROM < code <= _SIGNALS_FROM + _LAST_SIGNAL
            self.exit_code = _SIGNALS_FROM - code if is_signal else code
        else:
            # A login script may print before the script's first line.
            return self._start_s is None and self.exit_code is None and not self._lines
        return True

    def _said(self, line: ToolLine) -> None:
        self._kept_bytes += len(line.text) + 64
        if self._kept_bytes <= MAX_OUTPUT_BYTES:
            self._lines.append(line)
        if self._on_line is not None:
            self._on_line(line)

    def _since_start(self, uptime: str) -> float | None:
        now_s = _seconds(uptime)
        return None if now_s is None or self._start_s is None else max(0.0, now_s - self._start_s)

    def result(self) -> ToolRun:
        """The run."""
        assert self.exit_code is not None
        wall_s = None if self._end_s is None or self._start_s is None else max(0.0, self._end_s - self._start_s)
        return ToolRun(
            exit_code=self.exit_code,
            wall_s=wall_s,
            cpu_s=None,
            peak_resident_bytes=1024 * self._peak_kib or None,
            peak_anonymous_bytes=1024 * self._anonymous_kib or None,
            energy_source=None,
            lines=tuple(self._lines),
        )


def _seconds(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
