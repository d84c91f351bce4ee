"""A program on a board, over a channel of the connection."""

from __future__ import annotations

import contextlib
import shlex
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath

import paramiko
from paramiko.common import cMSG_CHANNEL_REQUEST

from ramp_edge.device.ssh_guard import ANSWER_S, Guard
from ramp_edge.device.streams import TICK_S, StreamedCommand
from ramp_edge.errors import BoardToolError, ConnectionFailedError, RampEdgeError

# A shell on the board tells which signal ended a program, which paramiko does not hear about. The login shell, whichever it is,
# sees nothing but plain words in quotes.
_SCRIPT = '"$@"; exit "$?"'
_SIGNAL_BASE = 128
CHUNK_BYTES = 65536
"""Two of OpenSSH's packets: the quickest piece to send (figures: docs/deploy.md)."""


def command_line(argv: Sequence[str]) -> bytes:
    """What the login shell is given, so that the program gets exactly `argv`."""
    return shlex.join(["sh", "-c", _SCRIPT, "sh", *argv]).encode("utf-8", "surrogateescape")


class SshCommand(StreamedCommand):
    """A program on a board, in a process group of its own there."""

    def __init__(self, transport: paramiko.Transport, guard: Guard, argv: Sequence[str]) -> None:
        self._transport, self._guard = transport, guard
        name = PurePosixPath(argv[0]).name
        guard.check(name)
        with guard.within(ANSWER_S, f"starting {name}"):
            try:
                self._channel = transport.open_session(timeout=ANSWER_S)
            except paramiko.ChannelException as error:
                raise BoardToolError(f"{guard.address}: no session for {name}: {error.text}") from error
            self._channel.exec_command(command_line(argv))
            self._channel.settimeout(TICK_S)
        super().__init__(name)

    def _read_stdout(self, limit_bytes: int) -> bytes:
        while True:
            with contextlib.suppress(TimeoutError):
                return self._channel.recv(limit_bytes)

    def _read_stderr(self, limit_bytes: int) -> bytes:
        while True:
            with contextlib.suppress(TimeoutError):
                return self._channel.recv_stderr(limit_bytes)

    def _write(self, data: memoryview) -> int:
        with self._guard.within(TICK_S + ANSWER_S, f"sending to {self._name}"):
            try:
                return self._channel.send(bytes(data[:CHUNK_BYTES]))
            except TimeoutError:
                return 0
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
        if self._channel.closed or self._channel.exit_status_ready():
            return
        request = paramiko.Message()
        request.add_byte(cMSG_CHANNEL_REQUEST)
        request.add_int(self._channel.remote_chanid)
        request.add_string("signal")
        request.add_boolean(False)
        request.add_string("KILL")
        # paramiko has no call for this request; the board's sshd ends the whole process group.
        self._quietly(lambda: self._transport._send_user_message(request))  # type: ignore[attr-defined]

    def _close(self) -> None:
        self._quietly(self._channel.close)

    def _quietly(self, act: Callable[[], object]) -> None:
        """Do something that no longer matters where the connection is gone."""
        with contextlib.suppress(OSError, RampEdgeError), self._guard.within(ANSWER_S, f"ending {self._name}"):
            act()
