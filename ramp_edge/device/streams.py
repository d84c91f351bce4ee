"""Speaking with a running program, whatever carries its three streams: a pipe to a subprocess or a channel to a board.

Every stream is read by a thread of its own to its end, so that a program which fills one while we wait at another cannot
stand still. What is kept is bounded: no board can fill our memory.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from types import TracebackType
from typing import NoReturn

from ramp_edge.device.target import MAX_LINE_BYTES, MAX_OUTPUT_BYTES, CommandResult, RunningCommand
from ramp_edge.errors import DeadlineError, RampEdgeError

TICK_S = 0.5
"""The longest that a thread waits without a look at whether it is still wanted."""
SEND_STALL_S = 60.0
"""A program that reads none of its input for so long will not."""
_READ_BYTES = 65536
_QUEUED_LINES = 16
"""Of at most MAX_LINE_BYTES each; more waits in the pipe and not in our memory."""
Read = Callable[[int], bytes]
"""Up to that many bytes, none at the end."""


class Collector(threading.Thread):
    """Reads a stream to its end and keeps the first MAX_OUTPUT_BYTES."""

    def __init__(self, read: Read) -> None:
        super().__init__(daemon=True)
        self._read, self._kept, self.truncated, self._received_bytes = read, bytearray(), False, 0
        self.start()

    @property
    def kept(self) -> bytes:
        """What there is of it by now."""
        return bytes(self._kept)

    def run(self) -> None:
        """Read until the end."""
        while chunk := self._read(_READ_BYTES):
            self._received_bytes += len(chunk)
            room = MAX_OUTPUT_BYTES - len(self._kept)
            self._kept += chunk[: max(0, room)]
            self.truncated = self.truncated or len(chunk) > room

    def finish(self, deadline_s: float, silence_s: float) -> None:
        """Wait for the end of the stream, but not for one that stays open and silent for `silence_s`: it counts as cut."""
        while self.is_alive() and (left_s := deadline_s - time.monotonic()) > 0:
            before = self._received_bytes
            self.join(min(left_s, silence_s))
            if self._received_bytes == before:
                break
        self.truncated = self.truncated or self.is_alive()


class Lines(threading.Thread):
    """Cuts a stream into lines and queues them; what is longer than MAX_LINE_BYTES of a line is thrown away."""

    def __init__(self, read: Read) -> None:
        super().__init__(daemon=True)
        self._read, self._closed = read, threading.Event()
        self._queue: queue.Queue[bytes | None] = queue.Queue(maxsize=_QUEUED_LINES)
        self.start()

    def next(self, timeout_s: float) -> bytes | None:
        """The next line, or None after the last one. Raises queue.Empty."""
        line = self._queue.get(timeout=max(0.0, timeout_s)) if timeout_s > 0 else self._queue.get_nowait()
        if line is None:
            # For whoever asks again.
            with contextlib.suppress(queue.Full):
                self._queue.put_nowait(None)
        return line

    def close(self) -> None:
        """Nobody will ask any more."""
        self._closed.set()
        with contextlib.suppress(queue.Empty):
            while True:
                self._queue.get_nowait()

    def run(self) -> None:
        """Read until the end."""
        line = bytearray()
        begun = False
        while chunk := self._read(_READ_BYTES):
            *ends, rest = chunk.split(b"\n")
            for end in ends:
                line += end[: max(0, MAX_LINE_BYTES - len(line))]
                if not self._put(bytes(line).removesuffix(b"\r")):
                    return
                line.clear()
            line += rest[: max(0, MAX_LINE_BYTES - len(line))]
            begun = bool(rest) or (begun and not ends)
        if not begun or self._put(bytes(line)):
            self._put(None)

    def _put(self, line: bytes | None) -> bool:
        while not self._closed.is_set():
            with contextlib.suppress(queue.Full):
                self._queue.put(line, timeout=TICK_S)
                return True
        return False


class StreamedCommand(ABC):
    """What `RunningCommand` promises, on a few operations of the carrier.

    A subclass opens its streams first and calls `__init__` last: reading begins there.
    """

    _read_stdout: Read
    _read_stderr: Read

    def __init__(self, name: str, drain_s: float) -> None:
        self._name = name
        """Of the program, for messages."""
        self._drain_s = drain_s
        """Output may still be under way at the program's end; with nothing new for so long, another holds the stream open."""
        self._errors = Collector(self._read_stderr)
        self._output: Collector | None = None
        self._lines: Lines | None = None
        self._fed = False

    @abstractmethod
    def _write(self, data: memoryview) -> int:
        """Write some of it; 0 where there was no room for TICK_S. Raises ConnectionFailedError."""

    @abstractmethod
    def _close_stdin(self) -> None: ...

    @abstractmethod
    def _wait(self, timeout_s: float) -> int | None:
        """The exit code; None where it still runs. Raises ConnectionFailedError."""

    @abstractmethod
    def _end(self) -> None:
        """End the program with its children; harmless when repeated."""

    @abstractmethod
    def _close(self) -> None:
        """Close the streams; harmless when repeated."""

    def __enter__(self) -> RunningCommand:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._finish()

    def send(self, data: bytes) -> None:
        """Write to its stdin."""
        self._send(data, SEND_STALL_S)

    def feed(self, data: bytes, timeout_s: float) -> None:
        """Write all of its stdin and close it, while other things go on; a program may end without reading it."""

        def run() -> None:
            with contextlib.suppress(RampEdgeError):
                self._send(data, timeout_s)
            self._close_stdin()

        self._fed = True
        threading.Thread(target=run, daemon=True).start()

    def read_line(self, timeout_s: float) -> bytes | None:
        """The next line of its stdout."""
        if self._lines is None:
            self._lines = Lines(self._read_stdout)
        try:
            return self._lines.next(timeout_s)
        except queue.Empty:
            raise DeadlineError(f"{self._name} said nothing for {timeout_s:.0f} s") from None

    def result(self, timeout_s: float) -> CommandResult:
        """Wait for its end."""
        deadline_s = time.monotonic() + timeout_s
        if not self._fed:
            self._close_stdin()
        if self._lines is None:
            output = self._output = Collector(self._read_stdout)
            code = self._exit_code(deadline_s, timeout_s)
            output.finish(deadline_s, self._drain_s)
            stdout, truncated = output.kept, output.truncated
        else:
            stdout, truncated = self._remaining_lines(deadline_s, timeout_s)
            code = self._exit_code(deadline_s, timeout_s)
        # What holds one stream open most often holds both.
        self._errors.finish(deadline_s, TICK_S if truncated else self._drain_s)
        return CommandResult(
            exit_code=code,
            stdout=stdout,
            stderr=self._errors.kept,
            truncated=truncated or self._errors.truncated,
        )

    def _send(self, data: bytes, stall_s: float) -> None:
        view = memoryview(data)
        moved_s = time.monotonic()
        while view:
            if written := self._write(view):
                view, moved_s = view[written:], time.monotonic()
            elif time.monotonic() - moved_s > stall_s:
                raise DeadlineError(f"{self._name} read nothing of its input for {stall_s:.0f} s")

    def _remaining_lines(self, deadline_s: float, timeout_s: float) -> tuple[bytes, bool]:
        kept, truncated = bytearray(), False
        while True:
            try:
                line = self.read_line(deadline_s - time.monotonic())
            except DeadlineError:
                self._overdue(timeout_s)
            if line is None:
                return bytes(kept), truncated
            room = MAX_OUTPUT_BYTES - len(kept)
            kept += (line + b"\n")[: max(0, room)]
            truncated = truncated or len(line) + 1 > room

    def _exit_code(self, deadline_s: float, timeout_s: float) -> int:
        code = self._wait(max(0.0, deadline_s - time.monotonic()))
        if code is None:
            self._overdue(timeout_s)
        return code

    def _overdue(self, timeout_s: float) -> NoReturn:
        self._finish()
        raise DeadlineError(f"{self._name} was not done after {timeout_s:.0f} s and was ended")

    def _finish(self) -> None:
        if self._lines is not None:
            self._lines.close()
        self._end()
        for reader in (self._errors, self._output, self._lines):
            if reader is not None:
                # Closing a file that another thread is reading is not safe; after the program's end it stops by itself.
                reader.join(TICK_S)
        self._close()
