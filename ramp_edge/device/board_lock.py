"""One deploy at a time to a board.

The lock is the board's kernel's (`flock`), held by a small program there that we speak with: it ends when the connection does,
and also when nothing has been heard of us for a while, so that no cut leaves a lock behind, not even one that the board's
network has not noticed.
"""

from __future__ import annotations

import getpass
import os
import socket
import threading
from types import TracebackType

from ramp_edge.device.target import CommandResult, RunningCommand, Target, printable
from ramp_edge.errors import (
    BoardBusyError,
    BoardStorageError,
    BoardToolError,
    ConnectionFailedError,
    DeadlineError,
    RampEdgeError,
)

SILENCE_S = 30
"""Without a word from us for so long, the lock is given up."""
_BEAT_S = 5.0
_ANSWER_S = 30.0
_NO_TOOL, _BUSY = 90, 92
_HELD = b"held"
# A child with the lock's file open would keep the lock: descriptor 9 is closed in each.
_SHELL = f"""\
timeout 5 flock --version >/dev/null 2>&1 || timeout 5 flock -h 2>&1 | grep -q -i usage || exit {_NO_TOOL}
command -v dd >/dev/null || exit {_NO_TOOL}
exec 9<>"$1"
flock -n 9 || {{ head -n 1 "$1"; exit {_BUSY}; }}
printf '%s\\n' "$2" >"$1"
echo held
while [ "$(exec 9>&-; exec timeout "$3" dd bs=1 count=1 2>/dev/null)" = . ]; do :; done
"""
_PYTHON = f"""\
import fcntl, os, select, sys
path, who, silence = sys.argv[1:4]
handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
try:
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError:
    sys.stdout.write(os.read(handle, 200).decode("utf-8", "replace"))
    sys.exit({_BUSY})
os.ftruncate(handle, 0)
os.write(handle, who.encode("utf-8", "surrogateescape") + b"\\n")
print("held", flush=True)
while select.select([0], [], [], float(silence))[0] and os.read(0, 64):
    pass
"""


class BoardLock:
    """Held between `__enter__` and `__exit__`. Entering raises BoardBusyError at once where somebody else has it."""

    def __init__(self, target: Target, path: str) -> None:
        self._target, self._path = target, path
        self._command: RunningCommand | None = None
        self._stop = threading.Event()
        self._beats: threading.Thread | None = None

    def __enter__(self) -> BoardLock:
        words = [self._path, f"{getpass.getuser()}@{socket.gethostname()}, process {os.getpid()}", str(SILENCE_S)]
        found = self._take(["sh", "-c", _SHELL, "sh", *words])
        if found is not None and found.exit_code == _NO_TOOL:
            found = self._take([self._target.spec.python, "-c", _PYTHON, *words])
            if found is not None and found.exit_code in (126, 127):
                raise BoardToolError(
                    f"{self._target.spec.name}: nothing there can lock a file: {found.error_text}",
                    hint="install util-linux or busybox (flock), or python3, on the board",
                )
        if found is not None:
            raise self._refusal(found)
        self._beats = threading.Thread(target=self._beat, daemon=True)
        self._beats.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._command is not None:
            self._command.__exit__(kind, error, trace)
        if self._beats is not None:
            self._beats.join(1)

    def confirm(self) -> None:
        """Raises ConnectionFailedError where the lock was lost: this machine slept, say, or the board's program was ended."""
        assert self._command is not None
        try:
            line = self._command.read_line(0)
        except DeadlineError:
            return  # it has nothing to say and is there
        said = "it ended" if line is None else f"it says {printable(line)}"
        raise ConnectionFailedError(f"{self._target.spec.name}: the lock on {self._path} was lost: {said}")

    def _take(self, argv: list[str]) -> CommandResult | None:
        """None where the lock is ours; else how the program ended."""
        command = self._command = self._target.start(argv)
        try:
            line = command.read_line(_ANSWER_S)
            if line == _HELD:
                return None
            # What it said is lost to `result`.
            ended = command.result(_ANSWER_S)
        except BaseException:
            command.__exit__(None, None, None)
            raise
        command.__exit__(None, None, None)
        self._command = None
        return CommandResult(exit_code=ended.exit_code, stdout=(line or b"") + ended.stdout, stderr=ended.stderr)

    def _refusal(self, ended: CommandResult) -> RampEdgeError:
        name = self._target.spec.name
        if ended.exit_code == _BUSY:
            owner = printable(ended.stdout, 100)
            return BoardBusyError(f"{name}: another deploy is under way" + (f", by {owner}" if owner else ""))
        return BoardStorageError(f"{name}: {self._path} cannot be locked: {ended.error_text}")

    def _beat(self) -> None:
        while not self._stop.wait(_BEAT_S):
            try:
                assert self._command is not None
                self._command.send(b".")
            except RampEdgeError:
                return  # `confirm` will tell
