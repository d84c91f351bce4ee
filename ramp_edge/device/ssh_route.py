"""How a board is reached: what the user's `~/.ssh/config` says about it, under what its `TargetSpec` says."""

from __future__ import annotations

import getpass
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import paramiko

from ramp_edge.device.known_hosts import SSH_PORT
from ramp_edge.device.target import TargetSpec
from ramp_edge.errors import TargetsFileError

GLOBAL_KNOWN_HOSTS = Path("/etc/ssh/ssh_known_hosts")
DEFAULT_KEYS = ("id_ed25519", "id_ecdsa", "id_rsa")
_MAX_INCLUDES = 16
_SETTING = re.compile(r"^\s*(\w+)(?:\s*=\s*|\s+)(.*?)\s*$")
_UNSAFE = re.compile(r"""[\s'"`\\$;&<>|(){}\x00-\x1f\x7f]""")
"""In a host or user name these could mean something to the shell of a ProxyCommand."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Route:
    """Everything needed to connect."""

    host: str
    """To connect to."""
    port: int
    user: str
    key_name: str
    key_port: int
    """What the host is called in known_hosts."""
    known_hosts: tuple[Path, ...]
    """New keys go into the first."""
    identity_files: tuple[Path, ...]
    """Asked for by name, best first."""
    default_keys: tuple[Path, ...]
    """The usual ones, tried after those of the agent."""
    use_agent: bool
    proxy_command: str | None

    @property
    def address(self) -> str:
        """For people."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.user}@{host}" + (f":{self.port}" if self.port != SSH_PORT else "")


def find_route(spec: TargetSpec, ssh_folder: Path) -> Route:
    """The way to a board. Raises TargetsFileError where names or the configuration make no sense."""
    assert spec.host is not None
    _check_names(spec, spec.host, spec.user)
    config = _lookup(ssh_folder, spec)
    host, user = config.get("hostname", spec.host), config.get("user") or getpass.getuser()
    _check_names(spec, host, user)
    try:
        port = int(config.get("port", SSH_PORT))
    except ValueError:
        raise TargetsFileError(f"{ssh_folder / 'config'}: Port {config['port']!r} is not a number") from None
    named = [spec.identity_file] if spec.identity_file else []
    named += [Path(file).expanduser() for file in config.get("identityfile", ()) if file != "none"]
    only_named = config.get("identitiesonly", "no") == "yes"
    records = [Path(file).expanduser() for file in shlex.split(config.get("userknownhostsfile", ""))]
    return Route(
        host=host,
        port=port,
        user=user,
        key_name=config.get("hostkeyalias", host),
        key_port=SSH_PORT if "hostkeyalias" in config else port,
        known_hosts=(*(records or (ssh_folder / "known_hosts", ssh_folder / "known_hosts2")), GLOBAL_KNOWN_HOSTS),
        identity_files=tuple(dict.fromkeys(named)),
        default_keys=() if only_named else tuple(ssh_folder / name for name in DEFAULT_KEYS),
        use_agent=not only_named,
        proxy_command=_proxy(config, host, port),
    )


def _check_names(spec: TargetSpec, host: str, user: str | None) -> None:
    for what, name in (("host", host), ("user", user or "")):
        if name.startswith("-") or _UNSAFE.search(name):
            raise TargetsFileError(
                f"{spec.name}: {name!r} cannot be a {what} name: it starts with a dash or holds a character of the shell's"
            )


def _proxy(config: paramiko.SSHConfigDict, host: str, port: int) -> str | None:
    if command := config.get("proxycommand"):
        return str(command)
    jumps = config.get("proxyjump", "none")
    if jumps.lower() == "none":
        return None
    # OpenSSH's own client makes the jump: it knows all that the user has set for it, and asks for what it needs.
    *before, last = jumps.split(",")
    via = ["-J", ",".join(before)] if before else []
    forward = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    # A port stands after the jump host's name there, and in an option here.
    last, jump_port = last.rsplit(":", 1) if re.search(r"[^:]:\d+$", last) else (last, "")
    port_words = ["-p", jump_port] if jump_port else []
    return shlex.join(["ssh", *via, *port_words, "-oServerAliveInterval=10", "-W", forward, "--", last])


def _lookup(ssh_folder: Path, spec: TargetSpec) -> paramiko.SSHConfigDict:
    path = ssh_folder / "config"
    # The first word on anything wins, and what it is goes into ProxyCommand.
    first = [f"{key} {value}" for key, value in (("Port", spec.port), ("User", spec.user)) if value is not None]
    try:
        text = "\n".join([*first, *_with_includes(path, ssh_folder, 0)])
        return paramiko.SSHConfig.from_text(text).lookup(spec.host or "")
    except ImportError:
        raise TargetsFileError(
            f"{path}: `Match exec` is not supported here", hint="use Host patterns instead"
        ) from None
    except (OSError, ValueError, KeyError, paramiko.SSHException) as error:
        raise TargetsFileError(
            f"{path} cannot be used: {error}", hint="`ssh -G HOST` shows what ssh makes of it"
        ) from None


def _with_includes(path: Path, ssh_folder: Path, depth: int) -> Iterator[str]:
    """The lines of a configuration with those of the files that it includes, which paramiko does not follow."""
    if not path.is_file():
        return
    if depth > _MAX_INCLUDES:
        raise ValueError(f"{path}: files that include each other more than {_MAX_INCLUDES} deep")
    block = "Host *"
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        key, value = match.groups() if (match := _SETTING.match(line)) else ("", "")
        if key.lower() == "include":
            for pattern in shlex.split(value):
                wanted = ssh_folder / Path(pattern).expanduser()
                for included in sorted(Path(wanted.anchor).glob(str(wanted.relative_to(wanted.anchor)))):
                    yield from _with_includes(included, ssh_folder, depth + 1)
            # What follows belongs to the block that the line stands in, whatever blocks the included file opened.
            yield block
            continue
        if key.lower() in ("host", "match"):
            block = line
        yield line
