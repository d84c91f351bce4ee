"""A board behind SSH.

paramiko is used here and in the other `ssh_*` files of this folder, and nowhere else: `ssh_route` reads the configuration,
`ssh_connect` connects, `ssh_guard` keeps every deadline, `ssh_command` runs programs, `ssh_files` keeps files.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from ramp_edge.device.ssh_command import SshCommand
from ramp_edge.device.ssh_connect import connect
from ramp_edge.device.ssh_files import SshFiles
from ramp_edge.device.ssh_guard import ANSWER_S
from ramp_edge.device.ssh_route import find_route
from ramp_edge.device.target import BoardFiles, CommandResult, RunningCommand, TargetSpec, checked_arguments


class SshTarget:
    """A board behind SSH, as the user's own `ssh` would reach it: configuration, agent, keys and known hosts.

    `ssh_folder` stands for ~/.ssh. Raises ConnectionFailedError, DeadlineError, HostKeyError, AuthenticationError,
    TargetsFileError.
    """

    def __init__(
        self, spec: TargetSpec, timeout_s: float, *, accept_new_host_key: bool = False, ssh_folder: Path | None = None
    ) -> None:
        self._spec = spec
        route = find_route(spec, ssh_folder or Path.home() / ".ssh")
        self._connection = connect(route, timeout_s, accept_new_host_key=accept_new_host_key)
        self._files = SshFiles(self, self._connection.transport, self._connection.guard)

    @property
    def spec(self) -> TargetSpec:
        return self._spec

    @property
    def files(self) -> BoardFiles:
        return self._files

    def run(self, argv: Sequence[str], *, timeout_s: float, stdin: bytes = b"") -> CommandResult:
        """Run a program to its end; see `Target`."""
        deadline_s = time.monotonic() + timeout_s
        words = checked_arguments(argv)
        answer_s = min(ANSWER_S, timeout_s)
        command = SshCommand(self._connection.transport, self._connection.guard, words, answer_s=answer_s)
        with command:
            if stdin:
                command.feed(stdin, timeout_s)
            return command.result(deadline_s - time.monotonic())

    def start(self, argv: Sequence[str]) -> RunningCommand:
        """Start a program to speak with; see `Target`."""
        return SshCommand(self._connection.transport, self._connection.guard, checked_arguments(argv))

    def close(self) -> None:
        """End the connection; harmless when repeated."""
        self._connection.close()
