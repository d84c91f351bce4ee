"""This machine as a board: the same operations as over SSH, by subprocesses and the file system."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, BinaryIO

from ramp_edge.device.streams import TICK_S, StreamedCommand
from ramp_edge.device.target import (
    BoardFiles,
    CommandResult,
    FileFacts,
    RunningCommand,
    TargetSpec,
    checked_arguments,
)
from ramp_edge.errors import BoardStorageError, ConnectionFailedError

_CHUNK_BYTES = 1 << 20
_COPY_BYTES = 4 << 20
_DRAIN_S = 0.5
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
            command = _LocalCommand(checked_arguments(argv))
        except OSError as error:
            return _not_started(argv, error)
        with command:
            if stdin:
                command.feed(stdin, timeout_s)
            return command.result(timeout_s)

    def start(self, argv: Sequence[str]) -> RunningCommand:
        """Start a program to speak with; see `Target`."""
        try:
            return _LocalCommand(checked_arguments(argv))
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


class _LocalCommand(StreamedCommand):
    """A subprocess in a process group of its own, so that its children end with it."""

    def __init__(self, argv: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True, bufsize=0
        )  # fmt: skip
        assert self._process.stdin and self._process.stdout and self._process.stderr
        self._stdin, self._stdout, self._stderr = self._process.stdin, self._process.stdout, self._process.stderr
        os.set_blocking(self._stdin.fileno(), False)
        self._read_stdout, self._read_stderr = partial(_read, self._stdout), partial(_read, self._stderr)
        super().__init__(Path(argv[0]).name, _DRAIN_S)

    def _write(self, data: memoryview) -> int:
        try:
            if not select.select([], [self._stdin], [], TICK_S)[1]:
                return 0
            return self._stdin.write(data[:_CHUNK_BYTES]) or 0
        except (OSError, ValueError) as error:
            raise ConnectionFailedError(f"{self._name} closed its input: {error}") from error

    def _close_stdin(self) -> None:
        with contextlib.suppress(OSError):
            self._stdin.close()

    def _wait(self, timeout_s: float) -> int | None:
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def _end(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _close(self) -> None:
        for stream in (self._stdin, self._stdout, self._stderr):
            with contextlib.suppress(OSError):
                stream.close()


def _read(stream: IO[bytes], limit_bytes: int) -> bytes:
    try:
        return stream.read(limit_bytes)
    except (OSError, ValueError):  # closed meanwhile
        return b""


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
        with _refused(path), Path(path).open("ab" if offset else "wb") as stream:
            if stream.tell() != offset:
                raise BoardStorageError(f"{path} has {stream.tell()} bytes and not the {offset} that were there before")
            left = size_bytes - offset
            while left > 0 and (chunk := source.read(min(_COPY_BYTES, left))):
                stream.write(chunk)
                left -= len(chunk)
                on_bytes(len(chunk))

    def rename(self, old: str, new: str) -> None:
        with _refused(new):
            Path(old).replace(new)

    def link(self, path: str, to: str) -> None:
        with _refused(path):
            fresh = Path(f"{path}.new")
            fresh.unlink(missing_ok=True)
            fresh.symlink_to(to)
            fresh.replace(path)

    def link_text(self, path: str) -> str | None:
        try:
            return str(Path(path).readlink())
        except OSError:
            return None

    def set_mode(self, path: str, mode: int) -> None:
        with _refused(path):
            Path(path).chmod(mode)

    def set_modified(self, path: str, modified_s: int) -> None:
        with _refused(path):
            os.utime(path, (modified_s, modified_s))

    def remove(self, path: str) -> None:
        with _refused(path):
            Path(path).unlink(missing_ok=True)

    def remove_folder(self, path: str) -> None:
        with _refused(path), contextlib.suppress(FileNotFoundError):
            Path(path).rmdir()

    def free_bytes(self, folder: str) -> int | None:
        with _refused(folder):
            return shutil.disk_usage(folder).free
