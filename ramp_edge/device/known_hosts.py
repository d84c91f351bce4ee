"""OpenSSH's record of host keys: read with everything that may stand in it, and added to line by line.

A line is `[@marker] names type base64`. Names are patterns with `*` and `?`, `!` in front refuses; or one hashed name. A host may
have several keys, of one type too (while it changes them). `@revoked` keys are never taken; certificate authorities are not
used.
"""

from __future__ import annotations

import base64
import binascii
import fnmatch
import hashlib
import hmac
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ramp_edge.errors import HostKeyError

SSH_PORT = 22


@dataclass(frozen=True, kw_only=True, slots=True)
class HostKey:
    """A public key as it is on record."""

    type: str
    blob: bytes
    place: str
    """File and line."""

    @property
    def fingerprint(self) -> str:
        """As `ssh-keygen -l` prints it."""
        return fingerprint(self.blob)


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownKeys:
    """What is on record for one host."""

    keys: tuple[HostKey, ...]
    portless: tuple[HostKey, ...]
    """Under the bare name, where the port is not 22: good to recognise the host by, not to refuse it by."""
    revoked: tuple[HostKey, ...]

    @property
    def types(self) -> tuple[str, ...]:
        """Types of the keys, each once."""
        return tuple(dict.fromkeys(key.type for key in (*self.keys, *self.portless)))


def fingerprint(blob: bytes) -> str:
    """SHA256:... of a public key, as `ssh-keygen -l` prints it."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def host_name(host: str, port: int) -> str:
    """How a host is named in the file."""
    return host.lower() if port == SSH_PORT else f"[{host.lower()}]:{port}"


def known_keys(files: Sequence[Path], host: str, port: int) -> KnownKeys:
    """The keys on record. Files that are not there hold none. Raises HostKeyError where one cannot be read."""
    name, bare = host_name(host, port), host.lower()
    keys, portless, revoked = [], [], []
    for file in files:
        for marker, names, key in _lines(file):
            if marker == "@revoked" and (_matches(names, name) or _matches(names, bare)):
                revoked.append(key)
            elif not marker and _matches(names, name):
                keys.append(key)
            elif not marker and _matches(names, bare):
                portless.append(key)
    return KnownKeys(keys=tuple(keys), portless=tuple(portless), revoked=tuple(revoked))


def add_key(file: Path, host: str, port: int, key_type: str, blob: bytes) -> None:
    """Put a key on record. In one write at the end: several may do so at once. Raises HostKeyError."""
    line = f"{host_name(host, port)} {key_type} {base64.b64encode(blob).decode()}\n".encode()
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(file, "a+b", buffering=0, opener=partial(os.open, mode=0o600)) as stream:
            if size_bytes := stream.seek(0, os.SEEK_END):
                stream.seek(size_bytes - 1)
                line = line if stream.read(1) == b"\n" else b"\n" + line
            stream.write(line)
            os.fsync(stream.fileno())
    except OSError as error:
        raise HostKeyError(f"the host key cannot be put on record: {file}: {error.strerror}") from error


def _lines(file: Path) -> Iterator[tuple[str, str, HostKey]]:
    """(marker, names, key) of every line that is whole."""
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return
    except OSError as error:
        raise HostKeyError(f"{file} cannot be read: {error.strerror}", hint="check its permissions") from error
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.split()
        marker = words.pop(0) if words and words[0].startswith("@") else ""
        if len(words) < 3 or words[0].startswith("#"):
            continue
        try:
            blob = base64.b64decode(words[2], validate=True)
        except binascii.Error:
            continue
        yield marker, words[0], HostKey(type=words[1], blob=blob, place=f"{file}:{number}")


def _matches(names: str, wanted: str) -> bool:
    found = False
    for pattern in names.split(","):
        if pattern.startswith("|1|"):
            found = found or _is_hash_of(pattern, wanted)
        elif pattern.startswith("!"):
            if _fits(pattern[1:], wanted):
                return False
        else:
            found = found or _fits(pattern, wanted)
    return found


def _fits(pattern: str, name: str) -> bool:
    # Brackets are part of a name with a port, not a set of letters.
    quoted = re.sub(r"\[", "[[]", pattern.lower())
    return fnmatch.fnmatchcase(name, quoted)


def _is_hash_of(hashed: str, name: str) -> bool:
    try:
        salt, digest = (base64.b64decode(part) for part in hashed.split("|")[2:4])
    except ValueError:
        return False
    return hmac.compare_digest(hmac.new(salt, name.encode(), "sha1").digest(), digest)
