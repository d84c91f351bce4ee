"""A ProxyCommand: a program of the user's that carries the connection, as for ssh.

paramiko's own ProxyCommand spins at the program's end and leaves it behind; a pair of sockets is a real socket to everybody.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
from typing import IO

from ramp_edge.device.target import printable

_ENDS_S = 2.0


class Proxy:
    """A running ProxyCommand; `channel` is our end of it."""

    def __init__(self, command: str) -> None:
        self.channel, theirs = socket.socketpair()
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        with theirs:
            # The user's own shell command, out of the user's own configuration.
            self._process = subprocess.Popen(
                command, shell=True, stdin=theirs.fileno(), stdout=theirs.fileno(), stderr=self._errors, start_new_session=True
            )  # fmt: skip

    def last_words(self) -> str:
        """The last line that it wrote to stderr, fit to print."""
        with contextlib.suppress(OSError, ValueError):
            self._errors.seek(0)
            lines = [text for line in self._errors.read(65536).splitlines() if (text := printable(line))]
            return lines[-1] if lines else ""
        return ""

    def end(self) -> None:
        """End it; harmless when repeated."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_ENDS_S)
                break
        self._errors.close()
