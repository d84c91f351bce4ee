"""What every board can do for us, wherever it is: run programs and keep files.

`local.py` and `ssh.py` implement `Target`; everything else in this folder works with either. Paths on a board are POSIX strings,
absolute, because a board is not always the kind of machine that we run on. Arguments are lists, never command lines: quoting
happens once, inside the implementation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Protocol

from ramp_edge.errors import UsageError

DEFAULT_FOLDER = "ramp-edge"
"""Below the user's home on the board: the one folder that is ever touched."""
MAX_OUTPUT_BYTES = 4 << 20
"""What is kept of a program's output; the rest is read and thrown away, so that no board can fill our memory."""
MAX_LINE_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetSpec:
    """A board and how to reach it."""

    name: str
    host: str | None
    """None: this machine."""
    user: str | None = None
    port: int | None = None
    """None: from ~/.ssh/config, else 22."""
    identity_file: Path | None = None
    profile: str | None = None
    """Device profile of the board."""
    tags: tuple[str, ...] = ()
    folder: str = DEFAULT_FOLDER
    """Below the home folder, or absolute."""
    exec_prefix: tuple[str, ...] = ()
    """Put before each of the runtime's programs, e.g. `taskset -c 0-3` or `qemu-aarch64-static`."""
    python: str = "python3"

    @property
    def is_local(self) -> bool:
        return self.host is None

    @property
    def address(self) -> str:
        """For people: user@host:port, or `this machine`."""
        if self.host is None:
            return "this machine"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.user + '@' if self.user else ''}{host}{f':{self.port}' if self.port else ''}"


@dataclass(frozen=True, kw_only=True, slots=True)
class CommandResult:
    """A program that ended."""

    exit_code: int
    """Negative: ended by that signal; -1 also where the board does not tell which."""
    stdout: bytes
    stderr: bytes
    truncated: bool = False
    """More came than MAX_OUTPUT_BYTES on either stream, or more may come from what the program left behind."""

    @property
    def error_text(self) -> str:
        """The last line of stderr (else of stdout) that says something, fit to print."""
        for stream in (self.stderr, self.stdout):
            for line in reversed(stream.splitlines()):
                if text := printable(line):
                    return text
        return f"exit status {self.exit_code}"


@dataclass(frozen=True, kw_only=True, slots=True)
class FileFacts:
    """A file or folder on the board."""

    size_bytes: int
    modified_s: int
    """By the board's clock: compare it with itself only."""
    is_folder: bool


class RunningCommand(Protocol):
    """A program that is spoken with line by line. `__exit__` ends it."""

    def __enter__(self) -> RunningCommand: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def send(self, data: bytes) -> None:
        """Write to its stdin. Raises ConnectionFailedError where it is gone, DeadlineError where it does not read."""
        ...

    def read_line(self, timeout_s: float) -> bytes | None:
        """The next line of its stdout without its end, at most MAX_LINE_BYTES of it; None when there is no more.

        Raises DeadlineError, ConnectionFailedError.
        """
        ...

    def result(self, timeout_s: float) -> CommandResult:
        """Close its stdin and wait for its end; stdout holds what `read_line` has not taken."""
        ...


class BoardFiles(Protocol):
    """Files on the board. All raise BoardStorageError where the disk refuses, ConnectionFailedError where it is gone."""

    @property
    def home(self) -> str:
        """The user's home folder."""
        ...

    def facts(self, path: str) -> FileFacts | None:
        """None: there is nothing of that name."""
        ...

    def names(self, folder: str) -> tuple[str, ...]:
        """What is in a folder, sorted; nothing where there is no such folder."""
        ...

    def make_folder(self, path: str) -> None:
        """With those above it; for the owner alone where it is new."""
        ...

    def read(self, path: str, limit_bytes: int) -> bytes:
        """At most `limit_bytes` of a file."""
        ...

    def append(
        self, path: str, source: BinaryIO, size_bytes: int, offset: int, on_bytes: Callable[[int], None]
    ) -> None:
        """Continue a file at `offset`, its present size, with what `source`, positioned there, still holds up to `size_bytes`.

        Offset 0 begins it anew. `on_bytes` learns of every piece that was handed over.
        """
        ...

    def rename(self, old: str, new: str) -> None:
        """Replaces what is there."""
        ...

    def link(self, path: str, to: str) -> None:
        """A symbolic link at `path` that says `to`, in one step where there is a link already."""
        ...

    def link_text(self, path: str) -> str | None:
        """What a symbolic link says; None where there is none."""
        ...

    def set_mode(self, path: str, mode: int) -> None:
        """Permission bits."""
        ...

    def set_modified(self, path: str, modified_s: int) -> None:
        """The time of the last change, in seconds since 1970."""
        ...

    def remove(self, path: str) -> None:
        """A file or link; nothing where there is none."""
        ...

    def remove_folder(self, path: str) -> None:
        """An empty folder; nothing where there is none."""
        ...

    def free_bytes(self, folder: str) -> int | None:
        """Space for this user on the disk of an existing folder; None where the board does not tell."""
        ...


class Target(Protocol):
    """A board that we are connected to."""

    @property
    def spec(self) -> TargetSpec: ...

    @property
    def files(self) -> BoardFiles: ...

    def run(self, argv: Sequence[str], *, timeout_s: float, stdin: bytes = b"") -> CommandResult:
        """Run a program to its end. Raises DeadlineError (the program is ended), ConnectionFailedError.

        A program that cannot be started gives exit code 126 or 127, as in a shell. Raises UsageError for arguments that no
        program can be given.
        """
        ...

    def start(self, argv: Sequence[str]) -> RunningCommand:
        """Start a program to speak with."""
        ...

    def close(self) -> None:
        """End the connection; harmless when repeated."""
        ...


def checked_arguments(argv: Sequence[str]) -> list[str]:
    """The arguments as a list. Raises UsageError where there is none, or a NUL byte in one: it would cut the argument short."""
    if not argv or not argv[0]:
        raise UsageError("there is no program to run on the board")
    for word in argv:
        if "\0" in word:
            raise UsageError(f"{word!r} cannot be given to a program: it holds a NUL byte")
    return list(argv)


def printable(raw: bytes, limit: int = 300) -> str:
    """A board's words, safe on a terminal: no control characters, no invalid bytes, not endless."""
    text = raw[: 4 * limit].decode("utf-8", errors="replace")
    text = "".join(c if c.isprintable() else " " for c in text).strip()
    return text if len(text) <= limit else text[: limit - 1] + "…"
