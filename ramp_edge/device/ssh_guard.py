"""The one deadline of everything that is done over a connection.

paramiko waits without end in places: for a window, for the socket of a peer that froze, for the answer to a request. Here a
thread ends the connection when the time is up, which ends every wait, and the errors of the many layers become ours.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import paramiko

from ramp_edge.device.target import printable
from ramp_edge.errors import ConnectionFailedError, DeadlineError

ANSWER_S = 30.0
"""Enough for any single request: a board that takes longer is gone or stands still."""
_LOOK_S = 0.2


class Guard:
    """Watches over the connection to one board."""

    def __init__(self, transport: paramiko.Transport, address: str) -> None:
        self._transport, self.address = transport, address
        self._deadlines: dict[object, float] = {}
        self._overdue: set[object] = set()
        self._closed = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    @contextmanager
    def within(self, timeout_s: float, what: str) -> Iterator[None]:
        """Do something over the connection. Raises DeadlineError (the connection is ended), ConnectionFailedError.

        An OSError of a file operation passes through while the connection stands.
        """
        # One entry in a table: this is done for every piece of an upload.
        task = object()
        deadline_s = self._deadlines[task] = time.monotonic() + timeout_s
        try:
            yield
        except (paramiko.SSHException, EOFError, OSError, ConnectionFailedError) as error:
            # paramiko keeps some deadlines itself.
            if task in self._overdue or time.monotonic() >= deadline_s:
                raise DeadlineError(f"{self.address} did not answer within {timeout_s:.0f} s ({what})") from error
            if isinstance(error, ConnectionFailedError):
                raise
            if isinstance(error, OSError) and self._transport.is_active() and not _is_socket_error(error):
                raise
            raise ConnectionFailedError(
                f"{self.address}: the connection broke: {self.cause(error)} ({what})"
            ) from error
        finally:
            self._deadlines.pop(task, None)
            self._overdue.discard(task)

    def check(self, what: str) -> None:
        """Raises ConnectionFailedError where the connection is gone."""
        if not self._transport.is_active():
            raise ConnectionFailedError(f"{self.address}: the connection is gone ({what})")

    def cause(self, error: BaseException) -> str:
        """What is known about the end of the connection, fit to print."""
        text = str(error) or str(self._transport.saved_exception or "")
        return printable(text.encode()) or "the board closed it"

    def close(self) -> None:
        """End the connection; harmless when repeated."""
        self._closed.set()
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            # Its timer would keep the process from ending.
            self._transport.packetizer.complete_handshake()
            self._transport.close()
            self._transport.sock.close()

    def _watch(self) -> None:
        while not self._closed.wait(_LOOK_S):
            now_s = time.monotonic()
            late = {task for task, deadline_s in tuple(self._deadlines.items()) if now_s > deadline_s}
            if late:
                self._overdue |= late
                self.close()


def _is_socket_error(error: OSError) -> bool:
    return isinstance(error, (TimeoutError, ConnectionError)) or str(error) == "Socket is closed"
