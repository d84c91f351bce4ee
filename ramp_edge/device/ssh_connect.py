"""From a route to an authenticated connection: the socket, the host's key, the user's key."""

from __future__ import annotations

import contextlib
import logging
import queue
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import paramiko

from ramp_edge.device.known_hosts import add_key, fingerprint, host_name, known_keys
from ramp_edge.device.ssh_guard import Guard
from ramp_edge.device.ssh_proxy import Proxy
from ramp_edge.device.ssh_route import Route
from ramp_edge.device.target import printable
from ramp_edge.errors import AuthenticationError, ConnectionFailedError, DeadlineError, HostKeyError

# paramiko logs what it also raises; without a handler that goes to stderr.
logging.getLogger("paramiko").addHandler(logging.NullHandler())

_CIPHERS_FIRST = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com")
"""paramiko has them last; they encrypt and authenticate in one pass (figures: docs/deploy.md)."""
_KEEPALIVE_S = 5
_DEAD_PEER_S = 20
_RSA_SIGNATURES = ("rsa-sha2-512", "rsa-sha2-256")


@dataclass(frozen=True, kw_only=True, slots=True)
class Connection:
    """An authenticated connection."""

    transport: paramiko.Transport
    guard: Guard
    proxy: Proxy | None

    def close(self) -> None:
        """End it; harmless when repeated."""
        self.guard.close()
        if self.proxy is not None:
            self.proxy.end()


def connect(route: Route, timeout_s: float, *, accept_new_host_key: bool) -> Connection:
    """Connect within `timeout_s`.

    Raises ConnectionFailedError, DeadlineError, HostKeyError, AuthenticationError.
    """
    deadline_s = time.monotonic() + timeout_s
    known = known_keys(route.known_hosts, route.key_name, route.key_port)
    proxy = Proxy(route.proxy_command) if route.proxy_command is not None else None
    channel = proxy.channel if proxy is not None else _dial(route, deadline_s, timeout_s)
    guard = None
    try:
        transport = paramiko.Transport(channel)
        guard = Guard(transport, route.address)
        transport.banner_timeout = transport.handshake_timeout = transport.auth_timeout = timeout_s
        transport.channel_timeout = timeout_s
        _prefer(transport, known.types)
        with guard.within(_left(deadline_s), "greeting"):
            transport.start_client(timeout=timeout_s)
            key = transport.get_remote_server_key()
        _check_host_key(route, key, accept_new=accept_new_host_key)
        with guard.within(_left(deadline_s), "logging in"):
            _authenticate(transport, route)
        transport.set_keepalive(_KEEPALIVE_S)
    except BaseException as error:
        if guard is not None:
            guard.close()
        channel.close()
        if proxy is not None:
            said = proxy.last_words()
            proxy.end()
            if said and isinstance(error, ConnectionFailedError):
                raise ConnectionFailedError(f"{error.message}; its ProxyCommand says: {said}") from error
        raise
    return Connection(transport=transport, guard=guard, proxy=proxy)


def _left(deadline_s: float) -> float:
    return max(0.1, deadline_s - time.monotonic())


def _dial(route: Route, deadline_s: float, timeout_s: float) -> socket.socket:
    addresses = _addresses(route, deadline_s, timeout_s)
    problem: OSError | None = None
    for number, (family, address) in enumerate(addresses):
        channel = socket.socket(family, socket.SOCK_STREAM)
        try:
            # An address that swallows packets leaves time for the others.
            channel.settimeout(_left(deadline_s) / (len(addresses) - number))
            channel.connect(address)
        except OSError as error:
            channel.close()
            problem = error
            continue
        _make_attentive(channel)
        return channel
    if isinstance(problem, TimeoutError):
        raise ConnectionFailedError(f"{route.address} did not answer within {timeout_s:.0f} s") from problem
    reason = problem.strerror if problem else "the name has no address"
    raise ConnectionFailedError(f"{route.address} cannot be reached: {reason}") from problem


def _addresses(
    route: Route, deadline_s: float, timeout_s: float
) -> list[tuple[socket.AddressFamily, tuple[object, ...]]]:
    # The resolver takes no deadline; a thread can be left behind.
    found: queue.Queue[list[tuple[socket.AddressFamily, tuple[object, ...]]] | OSError] = queue.Queue()

    def resolve() -> None:
        try:
            known = socket.getaddrinfo(route.host, route.port, type=socket.SOCK_STREAM)
            found.put([(family, address) for family, _, _, _, address in known])
        except OSError as error:
            found.put(error)
        except UnicodeError:
            found.put(OSError("not a host name"))

    threading.Thread(target=resolve, daemon=True).start()
    try:
        result = found.get(timeout=_left(deadline_s))
    except queue.Empty:
        raise DeadlineError(f"the address of {route.host!r} was not found within {timeout_s:.0f} s") from None
    if isinstance(result, OSError):
        raise ConnectionFailedError(f"{route.address}: the name cannot be resolved: {result.strerror or result}")
    return result


def _make_attentive(channel: socket.socket) -> None:
    """No waiting for more to send (a request would wait 40 ms for the answer to the last), and a dead peer is noticed."""
    channel.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    channel.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        channel.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _DEAD_PEER_S * 1000)


def _prefer(transport: paramiko.Transport, known_types: tuple[str, ...]) -> None:
    """The quickest ciphers first, and the host keys that are on record: a host shows one of its several."""
    options = transport.get_security_options()
    options.ciphers = _first(_CIPHERS_FIRST, options.ciphers)
    wanted = [name for kind in known_types for name in (_RSA_SIGNATURES if kind == "ssh-rsa" else (kind,))]
    options.key_types = _first(tuple(wanted), options.key_types)


def _first(wanted: Sequence[str], offered: Sequence[str]) -> tuple[str, ...]:
    return (*(name for name in wanted if name in offered), *(name for name in offered if name not in wanted))


def _check_host_key(route: Route, key: paramiko.PKey, *, accept_new: bool) -> None:
    blob, shown = key.asbytes(), f"{key.get_name()} {fingerprint(key.asbytes())}"
    known = known_keys(route.known_hosts, route.key_name, route.key_port)
    name = host_name(route.key_name, route.key_port)
    for revoked in known.revoked:
        if revoked.blob == blob:
            raise HostKeyError(f"{route.address} shows a host key that {revoked.place} revokes: {shown}")
    if any(blob == trusted.blob for trusted in (*known.keys, *known.portless)):
        return
    if known.keys:
        records = "\n".join(f"  on record: {k.type} {k.fingerprint} ({k.place})" for k in known.keys)
        raise HostKeyError(
            f"{route.address}: the host key has CHANGED: another machine may be answering\n  now shown: {shown}\n{records}",
            hint="only if you know why (a new system on the board, say): "
            f"ssh-keygen -R '{name}' forgets the old key, then --accept-new-host-key takes the new one",
        )
    if not accept_new:
        raise HostKeyError(
            f"{route.address}: its host key is not in {route.known_hosts[0]}: {shown}",
            hint="compare it with the board's own, as ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub prints it there; "
            "where they agree, --accept-new-host-key puts it on record",
        )
    add_key(route.known_hosts[0], route.key_name, route.key_port, key.get_name(), blob)


def _authenticate(transport: paramiko.Transport, route: Route) -> None:
    refused: list[str] = []
    accepted: list[str] = []
    with contextlib.ExitStack() as stack:
        for label, key in _keys(route, stack, refused):
            try:
                if not transport.auth_publickey(route.user, key):
                    return
                refused.append(f"{label} (the board asks for a second factor)")
            except paramiko.BadAuthenticationType as error:
                accepted = list(error.allowed_types)
                refused.append(label)
            except paramiko.AuthenticationException as error:
                if not transport.is_active():
                    refused.append(f"{label} (then the board hung up: {printable(str(error).encode())})")
                    break
                refused.append(label)
    tried = "; ".join(refused) or "no key: there is no agent, and no key file in ~/.ssh"
    takes = f"; it takes: {', '.join(accepted)}" if accepted and "publickey" not in accepted else ""
    raise AuthenticationError(f"{route.address} lets nobody in with what was offered ({tried}){takes}")


def _keys(route: Route, stack: contextlib.ExitStack, refused: list[str]) -> Iterator[tuple[str, paramiko.PKey]]:
    """The user's keys, best first; what cannot be used is put on `refused` with its reason."""
    for file in route.identity_files:
        if (key := _load(file, refused, must_exist=True)) is not None:
            yield str(file), key
    if route.use_agent:
        with contextlib.suppress(paramiko.SSHException, OSError):
            agent = paramiko.Agent()
            stack.callback(agent.close)
            for agent_key in agent.get_keys():
                yield f"agent key {fingerprint(agent_key.asbytes())}", agent_key
    for file in route.default_keys:
        if file not in route.identity_files and (key := _load(file, refused, must_exist=False)) is not None:
            yield str(file), key


def _load(file: Path, refused: list[str], *, must_exist: bool) -> paramiko.PKey | None:
    try:
        return paramiko.PKey.from_path(file)
    except FileNotFoundError:
        if must_exist:
            refused.append(f"{file} (no such file)")
    except OSError as error:
        refused.append(f"{file} ({error.strerror})")
    except (paramiko.PasswordRequiredException, TypeError):
        refused.append(f"{file} (has a passphrase: ssh-add it)")
    except (paramiko.SSHException, ValueError) as error:
        refused.append(f"{file} (unreadable: {printable(str(error).encode(), 80)})")
    except Exception as error:  # cryptography has several of its own for damaged keys
        refused.append(f"{file} (unreadable: {type(error).__name__})")
    return None
