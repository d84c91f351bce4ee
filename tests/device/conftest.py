"""A real SSH server on the loopback address as the board, this machine as another, and a network that can be cut."""

from __future__ import annotations

import contextlib
import importlib.util
import select
import shutil
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import pytest

from ramp_edge.device.local import LocalTarget
from ramp_edge.device.ssh import SshTarget
from ramp_edge.device.target import Target, TargetSpec
from ramp_edge.events import EventBus

_TOOL = Path(__file__).parents[2] / "tools" / "loopback_sshd.py"


@pytest.fixture(scope="session")
def loopback() -> ModuleType:
    """The module that starts servers."""
    spec = importlib.util.spec_from_file_location("loopback_sshd", _TOOL)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["loopback_sshd"] = module
    spec.loader.exec_module(module)
    if module.sshd_program() is None:
        pytest.skip("no sshd here: install OpenSSH's server")
    return module


@pytest.fixture(scope="session")
def shared_sshd(loopback: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One server for all tests that do not harm it."""
    server = loopback.LoopbackSshd(tmp_path_factory.mktemp("sshd"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def new_sshd(loopback: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Any]]:
    """Starts servers of a test's own."""
    with contextlib.ExitStack() as stack:

        def start(**options: Any) -> Any:
            server = loopback.LoopbackSshd(tmp_path_factory.mktemp("sshd"), **options)
            stack.callback(server.stop)
            server.start()
            return server

        yield start


@pytest.fixture(autouse=True)
def no_real_account(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees the configuration, keys, agent or boards of whoever runs it."""
    home = tmp_path_factory.mktemp("nobody")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("RAMP_EDGE_CONFIG", str(home / "config"))
    monkeypatch.delenv("RAMP_EDGE_TARGETS", raising=False)
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)


def _spec_of(server: Any, folder: str = "ramp-edge", name: str = "board", **fields: Any) -> TargetSpec:
    """The server as a board."""
    return TargetSpec(
        name=name, host="127.0.0.1", user=server.user, port=fields.pop("port", server.port), folder=folder, **fields
    )


class Dial(Protocol):
    """Connects to a server as a client with its keys, or with those of `ssh_folder`, or through the wire at `port`."""

    def __call__(
        self, server: Any, folder: str = ..., *, timeout_s: float = ..., ssh_folder: Path | None = ...,
        accept_new_host_key: bool = ..., **spec_fields: Any,
    ) -> SshTarget: ...  # fmt: skip


@pytest.fixture
def dial(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dial]:
    """The factory of connections, which end with the test."""
    with contextlib.ExitStack() as stack:

        def connect(
            server: Any,
            folder: str = "ramp-edge",
            *,
            timeout_s: float = 20,
            ssh_folder: Path | None = None,
            accept_new_host_key: bool = False,
            **spec_fields: Any,
        ) -> SshTarget:
            port = spec_fields.get("port", server.port)
            if ssh_folder is None and port != server.port:
                ssh_folder = tmp_path_factory.mktemp("client") / ".ssh"
                shutil.copytree(server.client_home / ".ssh", ssh_folder)
                (ssh_folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {server.host_key_line()}\n")
            target = SshTarget(
                _spec_of(server, folder, **spec_fields),
                timeout_s,
                ssh_folder=ssh_folder or server.client_home / ".ssh",
                accept_new_host_key=accept_new_host_key,
            )
            stack.callback(target.close)
            return target

        yield connect


@pytest.fixture
def board_folder(request: pytest.FixtureRequest) -> str:
    """A name for the folder on the board that no other test has, with a space and a quote in it."""
    return f"ramp edge's {request.node.name[-60:].replace('/', '_')}"


@pytest.fixture(params=["local", pytest.param("ssh", marks=pytest.mark.ssh)])
def target(request: pytest.FixtureRequest, tmp_path: Path, board_folder: str, dial: Dial) -> Target:
    """A board: this machine, and one over SSH."""
    if request.param == "local":
        home = tmp_path / "home folder"
        home.mkdir()
        return LocalTarget(TargetSpec(name="here", host=None, folder=board_folder), home)
    return dial(request.getfixturevalue("shared_sshd"), board_folder)


class Wire:
    """Carries connections to a port until it is cut: after so many bytes to the board, or by `cut`."""

    def __init__(self, port: int, limit_bytes: int | None = None) -> None:
        self._port, self._limit_bytes = port, limit_bytes
        self.carried_bytes = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def cut(self) -> None:
        """Nothing gets through any more."""
        for end in (*self._open, self._listener):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self._thread.join(5)

    def _accept(self) -> None:
        carriers = []
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._port))
                self._open += [near, far]
                carriers.append(threading.Thread(target=self._carry, args=(near, far), daemon=True))
                carriers[-1].start()
        for carrier in carriers:
            carrier.join(5)

    def _carry(self, near: socket.socket, far: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError):
            while True:
                for ready in select.select([near, far], [], [])[0]:
                    data = ready.recv(65536)
                    if not data:
                        return None
                    (far if ready is near else near).sendall(data)
                    if ready is near:
                        self.carried_bytes += len(data)
                        if self._limit_bytes is not None and self.carried_bytes > self._limit_bytes:
                            return self._hang_up(near, far)

    def _hang_up(self, *ends: socket.socket) -> None:
        for end in ends:
            # A reset, as from a machine that lost its power and came back.
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
            end.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def wire() -> Iterator[Callable[..., Wire]]:
    """Makes wires."""
    with contextlib.ExitStack() as stack:

        def make(port: int, limit_bytes: int | None = None) -> Wire:
            made = Wire(port, limit_bytes)
            stack.callback(made.cut)
            return made

        yield make


@pytest.fixture
def events() -> EventBus:
    """A bus that keeps everything in `events.seen`."""
    return EventBus()
