"""sha256 of a file, worked out on the board by whatever it has for that."""

from __future__ import annotations

import re

from ramp_edge.device.target import Target, printable
from ramp_edge.errors import BoardMismatchError, BoardStorageError, BoardToolError

_SLOWEST_BYTES_S = 2_000_000
"""Of any board's disk and hash together, with much to spare."""
_TIMEOUT_S = 60.0
_NO_TOOL = 90
_NO_FILE = 91
# The file comes by stdin: then no program says anything about its name. openssl is two to four times as quick as sha256sum where
# the processor has instructions for it.
_SCRIPT = f"""\
exec <"$1" || exit {_NO_FILE}
[ "$3" = sync ] && {{ sync "$1" 2>/dev/null || sync; }}
has() {{ command -v "$1" >/dev/null 2>&1; }}
if has openssl; then exec openssl dgst -sha256 -r; fi
if has sha256sum; then exec sha256sum; fi
if has shasum; then exec shasum -a 256; fi
if has "$2"; then
  exec "$2" -c 'import hashlib, sys
h = hashlib.sha256()
for b in iter(lambda: sys.stdin.buffer.read(1 << 20), b""): h.update(b)
print(h.hexdigest())'
fi
exit {_NO_TOOL}
"""
_DIGEST = re.compile(rb"\\?([0-9a-f]{64})\b")


def board_sha256(target: Target, path: str, size_bytes: int, *, sync: bool = False) -> str:
    """Hash of a file on the board; with `sync` it is first brought from memory to the disk. `size_bytes` sets the deadline.

    Raises BoardToolError where the board cannot hash, BoardStorageError where the file cannot be read, DeadlineError.
    """
    result = target.run(
        ["sh", "-c", _SCRIPT, "sh", path, target.spec.python, "sync" if sync else ""],
        timeout_s=_TIMEOUT_S + size_bytes / _SLOWEST_BYTES_S,
    )
    where = f"{target.spec.name}: {printable(path.encode())}"
    if result.exit_code == _NO_TOOL:
        raise BoardToolError(
            f"{target.spec.name}: nothing there can work out a sha256",
            hint="install one of openssl, coreutils (sha256sum), perl (shasum) or python3 on the board",
        )
    found = _DIGEST.match(result.stdout)
    if result.exit_code or found is None:
        if found is None and not result.exit_code:
            raise BoardToolError(f"{where}: the board's sha256 makes no sense: {printable(result.stdout)}")
        raise BoardStorageError(f"{where} cannot be read there: {result.error_text}")
    return found[1].decode()


def check_sha256(target: Target, path: str, size_bytes: int, sha256: str, name: str) -> None:
    """Raises BoardMismatchError where the file on the board is another one."""
    found = board_sha256(target, path, size_bytes)
    if found != sha256:
        raise BoardMismatchError(
            f"{target.spec.name}: {name} was altered on the board: sha256 {found[:16]}..., not {sha256[:16]}..."
        )
