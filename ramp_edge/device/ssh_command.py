"""A program on a board, over a channel of the connection."""

from __future__ import annotations

import contextlib
import re
import secrets
import shlex
import signal
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath

import paramiko

from ramp_edge.device.ssh_guard import ANSWER_S, Guard
from ramp_edge.device.streams import TICK_S, StreamedCommand
from ramp_edge.errors import BoardToolError, ConnectionFailedError, RampEdgeError

# A shell on the board tells its process id, to end the program by (sshd does it for no root, and paramiko cannot ask for it), and
# which signal ended the program, which paramiko does not hear about. The login shell, whichever it is, sees plain words in quotes.
_SCRIPT = 'printf "%s %s\\n" "$1" "$$"; printf "%s %s\\n" "$1" "$$" >&2; shift; "$@"; exit "$?"'
_END = """\
group=$(cut -d " " -f 5 "/proc/$1/stat" 2>/dev/null || ps -o pgid= -p "$1" | tr -d " ")
exec kill -KILL -- "-${group:?}"
"""
_SIGNAL_BASE = 128
_DRAIN_S = 3.0
_TELLS_S, _ENDS_S = 2.0, 10.0
_MAX_GREETING_BYTES = 65536
"""A login shell may say something of its own before the program starts."""
CHUNK_BYTES = 65536
"""Two of OpenSSH's packets: the quickest piece to send (figures: docs/deploy.md)."""


def command_line(argv: Sequence[str], mark: str) -> bytes:
    """What the login shell is given, so that the program gets exactly `argv`; each stream begins with `mark` and the process id."""
    return shlex.join(["sh", "-c", _SCRIPT, "sh", mark, *argv]).encode("utf-8", "surrogateescape")


class _Marked:
    """A stream from the line with the mark on; what a login shell says before it is dropped."""

    def __init__(self, read: Callable[[int], bytes], mark: str) -> None:
        self._read, self._line = read, re.compile(rf"{mark} (\d{{1,9}})\n".encode())
        self._before: bytearray | None = bytearray()
        self.process_id: int | None = None
        self.told = threading.Event()

    def __call__(self, limit_bytes: int) -> bytes:
        """Up to that many bytes, none at the end."""
        while True:
            try:
                chunk = self._read(limit_bytes)
            except TimeoutError:
                continue
            if self._before is None:
                return chunk
            self._before += chunk
            if found := self._line.search(self._before):
                self.process_id = int(found[1])
                self.told.set()
                del self._before[: found.end()]
            if found or not chunk or len(self._before) > _MAX_GREETING_BYTES:
                rest, self._before = bytes(self._before), None
                if rest or not chunk:
                    return rest


class SshCommand(StreamedCommand):
    """A program on a board, in a process group of its own there."""

    def __init__(
        self,
        transport: paramiko.Transport,
        guard: Guard,
        argv: Sequence[str],
        *,
        answer_s: float = ANSWER_S,
        ends_another: bool = False,
    ) -> None:
        self._transport, self._guard, self._is_ended = transport, guard, ends_another
        name, mark = PurePosixPath(argv[0]).name, secrets.token_hex(8)
        guard.check(name)
        with guard.within(answer_s, f"starting {name}"):
            try:
                self._channel = transport.open_session(timeout=answer_s)
            except paramiko.ChannelException as error:
                raise BoardToolError(f"{guard.address}: no session for {name}: {error.text}") from error
            try:
                self._channel.exec_command(command_line(argv, mark))
            except paramiko.SSHException as error:
                guard.check(name)
                raise BoardToolError(f"{guard.address}: the account may not run {name}") from error
            self._channel.settimeout(TICK_S)
        self._marked = _Marked(self._channel.recv_stderr, mark)
        self._read_stdout, self._read_stderr = _Marked(self._channel.recv, mark), self._marked
        super().__init__(name, _DRAIN_S)

    def _write(self, data: memoryview) -> int:
        piece = bytes(data[:CHUNK_BYTES])
        sent = 0
        with self._guard.within(TICK_S + ANSWER_S, f"sending to {self._name}"):
            try:
                while sent < len(piece) and (count := self._channel.send(piece[sent:])):
                    sent += count
                return sent
            except TimeoutError:
                return sent
            except OSError as error:
                self._guard.check(f"sending to {self._name}")
                raise ConnectionFailedError(f"{self._name} on {self._guard.address} closed its input") from error

    def _close_stdin(self) -> None:
        self._quietly(self._channel.shutdown_write)

    def _wait(self, timeout_s: float) -> int | None:
        deadline_s = time.monotonic() + timeout_s
        while not self._channel.status_event.wait(min(TICK_S, max(0.0, deadline_s - time.monotonic()))):
            if self._channel.closed:
                break
            if time.monotonic() >= deadline_s:
                return None
        code = self._channel.exit_status
        if code < 0:
            self._guard.check(f"waiting for {self._name}")
        # 128 + number is how a shell tells of a signal.
        return _SIGNAL_BASE - code if _SIGNAL_BASE < code <= _SIGNAL_BASE + signal.NSIG else code

    def _end(self) -> None:
        if self._is_ended or self._channel.closed or self._channel.exit_status_ready():
            return
        self._is_ended = True
        if not self._marked.told.wait(_TELLS_S):
            return
        words = ["sh", "-c", _END, "sh", str(self._marked.process_id)]
        with contextlib.suppress(RampEdgeError):
            ending = SshCommand(self._transport, self._guard, words, answer_s=_ENDS_S, ends_another=True)
            with ending:
                ending.result(_ENDS_S)

    def _close(self) -> None:
        self._quietly(self._channel.close)

    def _quietly(self, act: Callable[[], object]) -> None:
        """Do something that no longer matters where the connection is gone."""
        with contextlib.suppress(OSError, RampEdgeError), self._guard.within(ANSWER_S, f"ending {self._name}"):
            act()
