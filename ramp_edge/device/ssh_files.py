"""Files on a board: SFTP for names and facts, a program's input for bytes.

Bytes go through `cat`: it is quicker than SFTP's writes and says why the disk refuses, which SFTP does not (it says "Failure").
"""

from __future__ import annotations

import errno
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO

import paramiko

from ramp_edge.device.disk_free import free_bytes
from ramp_edge.device.ssh_command import CHUNK_BYTES
from ramp_edge.device.ssh_guard import ANSWER_S, Guard
from ramp_edge.device.streams import SEND_STALL_S
from ramp_edge.device.target import FileFacts, printable
from ramp_edge.errors import BoardStorageError, BoardToolError, ConnectionFailedError

if TYPE_CHECKING:
    from ramp_edge.device.ssh import SshTarget

_APPEND = """\
[ "$2" -eq 0 ] && exec cat >"$1"
have=$(wc -c <"$1") || exit 1
[ "$have" -eq "$2" ] || { echo "it has $have bytes and not the $2 that were there before" >&2; exit 1; }
exec cat >>"$1"
"""


class SshFiles:
    """The file system of a board."""

    def __init__(self, target: SshTarget, transport: paramiko.Transport, guard: Guard) -> None:
        self._target, self._transport, self._guard = target, transport, guard
        self._client: paramiko.SFTPClient | None = None
        self._home: str | None = None

    @property
    def home(self) -> str:
        if self._home is None:
            found = self._target.run(["sh", "-c", 'printf %s "$HOME"'], timeout_s=ANSWER_S)
            self._home = found.stdout.decode("utf-8", "surrogateescape")
            if found.exit_code or not self._home.startswith("/"):
                raise BoardToolError(f"{self._guard.address} does not tell its home folder: {found.error_text}")
        return self._home

    def facts(self, path: str) -> FileFacts | None:
        with self._asked(path) as sftp:
            try:
                found = sftp.stat(path)
            except FileNotFoundError:
                return None
        return FileFacts(
            size_bytes=found.st_size or 0,
            modified_s=int(found.st_mtime or 0),
            is_folder=stat.S_ISDIR(found.st_mode or 0),
        )

    def names(self, folder: str) -> tuple[str, ...]:
        with self._asked(folder) as sftp:
            try:
                # A name that is not UTF-8 comes as bytes; it is none of ours.
                return tuple(sorted(name for name in sftp.listdir(folder) if isinstance(name, str)))
            except FileNotFoundError:
                return ()

    def make_folder(self, path: str) -> None:
        with self._asked(path) as sftp:
            if _is_folder(sftp, path):
                return
        parent = path.rstrip("/").rpartition("/")[0]
        if parent:
            self.make_folder(parent)
        with self._asked(path) as sftp:
            try:
                sftp.mkdir(path, 0o700)
            except OSError:
                # Made by somebody else meanwhile, or in the way.
                if not _is_folder(sftp, path):
                    raise

    def read(self, path: str, limit_bytes: int) -> bytes:
        with self._asked(path) as sftp, sftp.open(path, "rb") as stream:
            return stream.read(limit_bytes)

    def append(
        self, path: str, source: BinaryIO, size_bytes: int, offset: int, on_bytes: Callable[[int], None]
    ) -> None:
        with self._target.start(["sh", "-c", _APPEND, "sh", path, str(offset)]) as command:
            left_bytes = size_bytes - offset
            started_s = time.monotonic()
            try:
                while left_bytes > 0 and (chunk := source.read(min(CHUNK_BYTES, left_bytes))):
                    command.send(chunk)
                    left_bytes -= len(chunk)
                    on_bytes(len(chunk))
            except ConnectionFailedError:
                # Either the connection is gone, or the program ended early and says why.
                self._guard.check(path)
            # What is still in buffers has to get to the disk.
            ended = command.result(SEND_STALL_S + (time.monotonic() - started_s))
        if ended.exit_code:
            raise BoardStorageError(f"{self._guard.address}: {printable(path.encode())}: {_reason(ended.error_text)}")

    def rename(self, old: str, new: str) -> None:
        with self._asked(new) as sftp:
            sftp.posix_rename(old, new)

    def link(self, path: str, to: str) -> None:
        fresh = f"{path}.new"
        self.remove(fresh)
        with self._asked(path) as sftp:
            sftp.symlink(to, fresh)
        self.rename(fresh, path)

    def link_text(self, path: str) -> str | None:
        try:
            with self._guard.within(ANSWER_S, path):
                return self._sftp().readlink(path)
        except OSError:
            return None

    def set_mode(self, path: str, mode: int) -> None:
        with self._asked(path) as sftp:
            sftp.chmod(path, mode)

    def set_modified(self, path: str, modified_s: int) -> None:
        with self._asked(path) as sftp:
            sftp.utime(path, (modified_s, modified_s))

    def remove(self, path: str) -> None:
        with self._asked(path) as sftp:
            try:
                sftp.remove(path)
            except FileNotFoundError:
                return

    def remove_folder(self, path: str) -> None:
        with self._asked(path) as sftp:
            try:
                sftp.rmdir(path)
            except FileNotFoundError:
                return

    def free_bytes(self, folder: str) -> int | None:
        return free_bytes(self._target, folder)

    def close(self) -> None:
        """End the SFTP session."""
        if self._client is not None:
            self._client.close()

    def _sftp(self) -> paramiko.SFTPClient:
        if self._client is None:
            try:
                self._client = paramiko.SFTPClient.from_transport(self._transport)
            except (paramiko.SSHException, EOFError, OSError) as error:
                # OSError: the channel was closed again before the first word was sent.
                self._guard.check("starting SFTP")
                raise BoardToolError(
                    f"{self._guard.address} has no SFTP: {printable(str(error).encode())}",
                    hint="OpenSSH's sftp-server is needed on the board (Debian: openssh-sftp-server)",
                ) from error
            assert self._client is not None
        return self._client

    @contextmanager
    def _asked(self, path: str) -> Iterator[paramiko.SFTPClient]:
        """A request about `path`. Raises BoardStorageError where the board refuses it."""
        self._guard.check(path)
        try:
            with self._guard.within(ANSWER_S, path):
                yield self._sftp()
        except OSError as error:
            if isinstance(error, FileNotFoundError):
                reason = "there is no such file or folder"
            elif error.errno == errno.EACCES:
                reason = "permission denied"
            else:
                reason = printable(str(error).encode())
            raise BoardStorageError(f"{self._guard.address}: {printable(path.encode())}: {reason}") from error


def _is_folder(sftp: paramiko.SFTPClient, path: str) -> bool:
    try:
        return stat.S_ISDIR(sftp.stat(path).st_mode or 0)
    except FileNotFoundError:
        return False


def _reason(text: str) -> str:
    return f"the disk is full ({text})" if "No space left" in text or "quota" in text.lower() else text
