"""This machine as a board: the same operations as over SSH, by subprocesses and the file system."""

from __future__ import annotations

import contextlib
import errno
import os
import queue
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, BinaryIO

from ramp_edge.device.target import (
    MAX_LINE_BYTES,
    MAX_OUTPUT_BYTES,
    BoardFiles,
    CommandResult,
    FileFacts,
    RunningCommand,
    TargetSpec,
)
from ramp_edge.errors import BoardStorageError, ConnectionFailedError, DeadlineError

_CHUNK_BYTES = 1 << 20
_COPY_BYTES = 4 << 20
_NOT_FOUND, _NOT_EXECUTABLE = 127, 126


class LocalTarget:
    """This machine."""

    def __init__(self, spec: TargetSpec, home: Path | None = None) -> None:
        self._spec = spec
        self._files = _LocalFiles(home or Path.home())

    @property
    def spec(self) -> TargetSpec:
        return self._spec

    @property
    def files(self) -> BoardFiles:
        return self._files

    def run(self, argv: Sequence[str], *, timeout_s: float, stdin: bytes = b"") -> CommandResult:
        """Run a program to its end; see `Target`."""
        try:
            command = _LocalCommand(argv)
        except OSError as error:
            return _not_started(argv, error)
        with command:
            return command.result(timeout_s, stdin)

    def start(self, argv: Sequence[str]) -> RunningCommand:
        """Start a program to speak with; see `Target`."""
        try:
            return _LocalCommand(argv)
        except OSError as error:
            # The same end as over SSH, where a shell reports it.
            return _LocalCommand(["sh", "-c", 'echo "$1" >&2; exit "$2"', "sh", *_shell_words(argv, error)])

    def close(self) -> None:
        """Nothing to end."""


def _shell_words(argv: Sequence[str], error: OSError) -> tuple[str, str]:
    result = _not_started(argv, error)
    return result.stderr.decode(), str(result.exit_code)


def _not_started(argv: Sequence[str], error: OSError) -> CommandResult:
    code = _NOT_FOUND if error.errno in (errno.ENOENT, errno.ENOTDIR) else _NOT_EXECUTABLE
    return CommandResult(exit_code=code, stdout=b"", stderr=f"{argv[0]}: {error.strerror}".encode())


class _Collector(threading.Thread):
    """Reads a stream to its end and keeps the first MAX_OUTPUT_BYTES."""

    def __init__(self, stream: IO[bytes]) -> None:
        super().__init__(daemon=True)
        self._stream, self.kept, self.truncated = stream, bytearray(), False
        self.start()

    def run(self) -> None:
        """Read until the end."""
        with contextlib.suppress(OSError, ValueError):
            while chunk := self._stream.read(65536):
                room = MAX_OUTPUT_BYTES - len(self.kept)
                self.kept += chunk[:room]
                self.truncated = self.truncated or len(chunk) > room


class _Lines(threading.Thread):
    """Reads a stream line by line into a queue; what is longer than MAX_LINE_BYTES of a line is thrown away."""

    def __init__(self, stream: IO[bytes]) -> None:
        super().__init__(daemon=True)
        self._stream = stream
        # Bounded, so that a flood waits in the pipe and not in our memory.
        self.lines: queue.Queue[bytes | None] = queue.Queue(maxsize=256)
        self.start()

    def run(self) -> None:
        """Read until the end."""
        line = bytearray()
        with contextlib.suppress(OSError, ValueError):
            while chunk := self._stream.read(65536):
                *ended, rest = chunk.split(b"\n")
                for part in ended:
                    line += part[: MAX_LINE_BYTES - len(line)]
                    self.lines.put(bytes(line).removesuffix(b"\r"))
                    line.clear()
                line += rest[: MAX_LINE_BYTES - len(line)]
        if line:
            self.lines.put(bytes(line))
        self.lines.put(None)


class _LocalCommand:
    """A subprocess in a process group of its own, so that its children end with it."""

    def __init__(self, argv: Sequence[str]) -> None:
        # Named relative to a folder that changes nothing: not the caller's, not the board's.
        self._process = subprocess.Popen(
            list(argv), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
            bufsize=0,
        )  # fmt: skip
        assert self._process.stdin and self._process.stdout and self._process.stderr
        self._stdin = self._process.stdin
        self._stdout = self._process.stdout
        self._errors = _Collector(self._process.stderr)
        self._lines: _Lines | None = None

    def __enter__(self) -> RunningCommand:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def send(self, data: bytes) -> None:
        """Write to its stdin."""
        view = memoryview(data)
        try:
            while view:
                view = view[self._stdin.write(view[:_CHUNK_BYTES]) or 0 :]
        except (OSError, ValueError) as error:
            raise ConnectionFailedError(f"{self._name} closed its input: {error}") from error

    def read_line(self, timeout_s: float) -> bytes | None:
        """The next line of its stdout."""
        if self._lines is None:
            self._lines = _Lines(self._stdout)
        try:
            line = self._lines.lines.get(timeout=timeout_s)
        except queue.Empty:
            raise DeadlineError(f"{self._name} said nothing for {timeout_s:.0f} s") from None
        if line is None:
            self._lines.lines.put(None)
        return line

    def result(self, timeout_s: float, stdin: bytes = b"") -> CommandResult:
        """Write `stdin` beside reading, since both pipes are short; then wait for its end."""
        deadline_s = time.monotonic() + timeout_s
        threading.Thread(target=self._feed, args=(stdin,), daemon=True).start()
        stdout, truncated = bytearray(), False
        if self._lines is None:
            output = _Collector(self._stdout)
            self._wait(deadline_s, timeout_s)
            output.join(max(0.0, deadline_s - time.monotonic()))
            stdout, truncated = output.kept, output.truncated
        else:
            while (line := self.read_line(max(0.0, deadline_s - time.monotonic()))) is not None:
                room = MAX_OUTPUT_BYTES - len(stdout)
                stdout += (line + b"\n")[: max(0, room)]
                truncated = truncated or len(line) + 1 > room
            self._wait(deadline_s, timeout_s)
        self._errors.join(max(0.0, deadline_s - time.monotonic()))
        return CommandResult(
            exit_code=self._process.returncode,
            stdout=bytes(stdout),
            stderr=bytes(self._errors.kept),
            truncated=truncated or self._errors.truncated,
        )

    def _feed(self, data: bytes) -> None:
        # A program may end without reading all of it.
        with contextlib.suppress(ConnectionFailedError):
            self.send(data)
        with contextlib.suppress(OSError):
            self._stdin.close()

    @property
    def _name(self) -> str:
        arguments = self._process.args
        assert isinstance(arguments, list)
        return Path(arguments[0]).name

    def _wait(self, deadline_s: float, timeout_s: float) -> None:
        try:
            self._process.wait(max(0.0, deadline_s - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._end()
            raise DeadlineError(f"{self._name} was not done after {timeout_s:.0f} s and was ended") from None

    def _end(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for stream in (self._stdin, self._stdout, self._process.stderr):
            with contextlib.suppress(OSError):
                assert stream is not None
                stream.close()


@contextmanager
def _refused(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror or str(error)
        raise BoardStorageError(f"this machine: {what}: {reason}") from error


class _LocalFiles:
    """The file system of this machine."""

    def __init__(self, home: Path) -> None:
        self._home = home

    @property
    def home(self) -> str:
        return str(self._home)

    def facts(self, path: str) -> FileFacts | None:
        with _refused(path):
            try:
                found = Path(path).stat()
            except FileNotFoundError:
                return None
        return FileFacts(size_bytes=found.st_size, modified_s=int(found.st_mtime), is_folder=Path(path).is_dir())

    def names(self, folder: str) -> tuple[str, ...]:
        with _refused(folder):
            try:
                return tuple(sorted(p.name for p in Path(folder).iterdir()))
            except FileNotFoundError:
                return ()

    def make_folder(self, path: str) -> None:
        with _refused(path):
            for folder in (*reversed(Path(path).parents), Path(path)):
                if not folder.is_dir():
                    folder.mkdir(mode=0o700, exist_ok=True)

    def read(self, path: str, limit_bytes: int) -> bytes:
        with _refused(path), Path(path).open("rb") as stream:
            return stream.read(limit_bytes)

    def append(
        self, path: str, source: BinaryIO, size_bytes: int, offset: int, on_bytes: Callable[[int], None]
    ) -> None:
        with _refused(path), Path(path).open("r+b" if offset else "wb") as stream:
            stream.seek(offset)
            left = size_bytes - offset
            while left > 0 and (chunk := source.read(min(_COPY_BYTES, left))):
                stream.write(chunk)
                left -= len(chunk)
                on_bytes(len(chunk))

    def rename(self, old: str, new: str) -> None:
        with _refused(new):
            Path(old).replace(new)

    def set_mode(self, path: str, mode: int) -> None:
        with _refused(path):
            Path(path).chmod(mode)

    def remove(self, path: str) -> None:
        with _refused(path):
            Path(path).unlink(missing_ok=True)

    def remove_folder(self, path: str) -> None:
        with _refused(path), contextlib.suppress(FileNotFoundError):
            Path(path).rmdir()

    def free_bytes(self, folder: str) -> int | None:
        with _refused(folder):
            return shutil.disk_usage(folder).free
