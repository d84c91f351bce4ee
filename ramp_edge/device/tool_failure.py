"""Why a tool does not run on a board: missing, built for another processor, or for a newer one."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from typing import NoReturn

from ramp_edge.device.target import Target, printable
from ramp_edge.device.tool_run import ToolRun
from ramp_edge.errors import BoardStorageError, BoardToolError

_ELF_MACHINES = {3: "i386", 40: "arm", 62: "x86_64", 183: "aarch64", 243: "riscv64", 258: "loongarch64"}
_SAME = {"arm64": "aarch64", "amd64": "x86_64", "armv7l": "arm", "armv6l": "arm", "i686": "i386"}
_MACHINE_TIMEOUT_S = 15.0
_HEADER_BYTES = 20


def elf_machine(header: bytes) -> str | None:
    """What processor an ELF file is for, in `uname -m`'s words; None for another kind of file."""
    if len(header) < _HEADER_BYTES or header[:4] != b"\x7fELF":
        return None
    number = int.from_bytes(header[18:20], "big" if header[5] == 2 else "little")
    return _ELF_MACHINES.get(number, f"ELF machine {number}")


def foreign(target: Target, path: str) -> str | None:
    """A sentence where the file at `path` is for another processor than the board's, or is not there."""
    try:
        header = target.files.read(path, _HEADER_BYTES)
    except BoardStorageError:
        return f"there is no {path}"
    built_for = elf_machine(header)
    result = target.run(["uname", "-m"], timeout_s=_MACHINE_TIMEOUT_S)
    board = printable(result.stdout)
    # A 32-bit program may run on a 64-bit system of the same family, so these two are no proof.
    if result.exit_code or built_for in (None, "i386", "arm") or built_for == _SAME.get(board, board):
        return None
    return f"it is built for {built_for}, the board is {board}"


def raise_not_started(target: Target, argv: Sequence[str], reason: str) -> NoReturn:
    """Raise BoardToolError for a command that could not be started at all."""
    name = argv[0].rpartition("/")[2]
    why = None if target.spec.exec_prefix else foreign(target, argv[0])
    raise BoardToolError(f"{name} cannot run on {target.spec.name}: {reason}" + (f" ({why})" if why else ""))


def check_success(target: Target, argv: Sequence[str], run: ToolRun) -> None:
    """Raise BoardToolError for a tool that failed: with its own words, and what they mean where that is known."""
    if run.exit_code == 0:
        return
    name = argv[0].rpartition("/")[2]
    where = f"{name} on {target.spec.name}"
    how = f"ended by signal {-run.exit_code}" if run.exit_code < 0 else f"failed with status {run.exit_code}"
    if run.exit_code == -signal.SIGILL:
        raise BoardToolError(
            f"{where} uses an instruction that this processor does not have",
            hint="deploy the runtime that is built for the board's profile: ramp-edge runtime list shows them",
        )
    if run.exit_code == -signal.SIGKILL:
        raise BoardToolError(
            f"{where} was killed; most likely the board ran out of memory", hint="build for a smaller memory budget"
        )
    why = foreign(target, argv[0])
    raise BoardToolError(f"{where} {how}: {why or printable(run.last_words.encode('utf-8', 'replace'))}")
