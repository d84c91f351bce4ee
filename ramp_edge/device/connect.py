"""From a `TargetSpec` to a board that answers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ramp_edge.device.target import Target, TargetSpec

CONNECT_TIMEOUT_S = 15.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ConnectOptions:
    """How to reach a board."""

    timeout_s: float = CONNECT_TIMEOUT_S
    accept_new_host_key: bool = False
    """Add the key of a host that is not in known_hosts. A changed key is refused all the same."""


@contextmanager
def connected(spec: TargetSpec, options: ConnectOptions | None = None) -> Iterator[Target]:
    """A connection to the board, ended afterwards. Raises ConnectionFailedError, HostKeyError, AuthenticationError."""
    options = options or ConnectOptions()
    target: Target
    if spec.is_local:
        from ramp_edge.device.local import LocalTarget

        target = LocalTarget(spec)
    else:
        from ramp_edge.device.ssh import SshTarget

        target = SshTarget(spec, options.timeout_s, accept_new_host_key=options.accept_new_host_key)
    try:
        yield target
    finally:
        target.close()
