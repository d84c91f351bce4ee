"""An SSH server of one's own on the loopback address, with its own keys, home folder and port: a board for tests and measurements.

It needs OpenSSH's `sshd` and `ssh-keygen` (Debian: openssh-server) and lets in the account that starts it, by key alone.
Nothing of that account's real ~/.ssh is read or written.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import shlex
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

_START_SECONDS = 10.0
_CONFIG = """\
ListenAddress 127.0.0.1
Port {port}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/authorized_keys
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
MaxStartups 100
MaxSessions 50
LogLevel INFO
Subsystem sftp internal-sftp
SetEnv HOME={home}
{extra}
"""


def sshd_program() -> Path | None:
    """OpenSSH's server, which is rarely on an ordinary user's PATH."""
    found = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin:/sbin")
    return Path(found) if found and shutil.which("ssh-keygen") else None


def free_port() -> int:
    """A TCP port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class LoopbackSshd:
    """A server in `folder`. `home` is what its sessions take for their home folder; `client_home` has the keys to reach it.

    `shell_setup` is run by a shell before the server starts, in the same process: limits set there hold in its sessions.
    """

    def __init__(self, folder: Path, *, extra: str = "", shell_setup: str = "") -> None:
        program = sshd_program()
        if program is None:
            raise FileNotFoundError("no sshd here: install OpenSSH's server (Debian: openssh-server)")
        self._program, self._folder, self._extra, self._shell_setup = program, folder, extra, shell_setup
        self._process: subprocess.Popen[bytes] | None = None
        self.user = getpass.getuser()
        self.port = free_port()
        self.home = folder / "home"
        self.client_home = folder / "client"
        self.log = folder / "sshd.log"
        (self.client_home / ".ssh").mkdir(mode=0o700, parents=True)
        self.home.mkdir(mode=0o700)
        self.new_host_key()
        key = self.client_home / ".ssh" / "id_ed25519"
        make_key(key)
        shutil.copy(key.with_suffix(".pub"), folder / "authorized_keys")
        self.trust()

    @property
    def known_hosts(self) -> Path:
        """The client's record of host keys."""
        return self.client_home / ".ssh" / "known_hosts"

    @property
    def address(self) -> str:
        """user@host:port."""
        return f"{self.user}@127.0.0.1:{self.port}"

    def new_host_key(self, kind: str = "ed25519") -> None:
        """Another host key; a running server keeps its own until it is started again."""
        for path in (self._folder / "host_key", self._folder / "host_key.pub"):
            path.unlink(missing_ok=True)
        make_key(self._folder / "host_key", kind)

    def host_key_line(self) -> str:
        """`type base64` of the host key."""
        kind, base64 = (self._folder / "host_key.pub").read_text().split()[:2]
        return f"{kind} {base64}"

    def trust(self) -> None:
        """Put the host key on the client's record, in place of what is there."""
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {self.host_key_line()}\n")
        self.known_hosts.chmod(0o600)

    def start(self) -> None:
        """Start it and wait until it greets."""
        config = self._folder / "sshd_config"
        config.write_text(_CONFIG.format(port=self.port, folder=self._folder, home=self.home, extra=self._extra))
        if os.geteuid() == 0:
            # Debian's sshd will not start without its empty folder.
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        command = [str(self._program), "-D", "-f", str(config), "-E", str(self.log)]
        if self._shell_setup:
            command = ["sh", "-c", f"{self._shell_setup}\nexec {shlex.join(command)}"]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
        deadline_s = time.monotonic() + _START_SECONDS
        while not self._greets():
            if self._process.poll() is not None or time.monotonic() > deadline_s:
                self.stop()
                raise RuntimeError(f"sshd did not start:\n{self.log.read_text() if self.log.exists() else ''}")
            time.sleep(0.02)

    def stop(self) -> None:
        """End it and every session of it."""
        if self._process is None:
            return
        for pid in (*self.sessions(), self._process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()
        self._process = None

    def sessions(self) -> tuple[int, ...]:
        """The process ids of its connections."""
        assert self._process is not None
        parents = {pid: parent for pid, name, parent in _processes() if name.startswith("sshd")}
        found = {self._process.pid}
        while more := {pid for pid, parent in parents.items() if parent in found} - found:
            found |= more
        return tuple(sorted(found - {self._process.pid}, reverse=True))

    def kill_sessions(self) -> None:
        """Cut every connection at once; the server goes on listening."""
        for pid in self.sessions():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _greets(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as probe:
                return probe.recv(4) == b"SSH-"
        except OSError:
            return False


def make_key(path: Path, kind: str = "ed25519") -> None:
    """A key pair without a passphrase."""
    size = ["-b", "2048"] if kind == "rsa" else []
    subprocess.run(["ssh-keygen", "-q", "-t", kind, *size, "-N", "", "-C", "loopback", "-f", str(path)], check=True)


def _processes() -> Iterator[tuple[int, str, int]]:
    """(pid, name, parent) of every process: from /proc where there is one, as a bare container has no `ps`."""
    folders = list(Path("/proc").glob("[0-9]*"))
    for folder in folders:
        with contextlib.suppress(OSError):
            before, _, after = (folder / "stat").read_text(errors="replace").rpartition(")")
            yield int(folder.name), before.partition("(")[2], int(after.split()[1])
    if not folders:
        listing = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,comm="], capture_output=True, text=True, check=True)
        for line in listing.stdout.splitlines():
            pid, parent, name = line.split(None, 2)
            yield int(pid), Path(name).name, int(parent)
