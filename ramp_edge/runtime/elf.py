"""What a Linux program says about itself in its ELF header: which machine it is for, and whether it needs a loader."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from ramp_edge.errors import RuntimeToolError

_MACHINES = {3: "i386", 40: "arm", 62: "x86_64", 183: "aarch64", 243: "riscv64"}
"""e_machine -> `uname -m`."""
_HEADER = struct.Struct("<16sHHIQQQIHHH")
"""ELF64, little-endian, up to e_phnum."""
_PT_INTERP = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class ElfFacts:
    """A program's own words."""

    machine: str
    """As `uname -m` says it, or `machine N` for one that is not known here."""
    is_static: bool
    """It names no loader, so it needs no library of the board."""


def read_elf(path: Path) -> ElfFacts:
    """Header facts of a 64-bit little-endian program. Raises RuntimeToolError where the file is none."""
    try:
        with path.open("rb") as stream:
            head = stream.read(_HEADER.size)
            if len(head) < _HEADER.size or head[:6] != b"\x7fELF\x02\x01":
                raise RuntimeToolError(f"{path} is not a 64-bit Linux program (it begins with {head[:6].hex(' ')})")
            _, _, machine, _, _, table_at, _, _, _, entry_bytes, n_entries = _HEADER.unpack(head)
            stream.seek(table_at)
            table = stream.read(entry_bytes * n_entries)
    except OSError as error:
        raise RuntimeToolError(f"{path}: {error.strerror or error}") from error
    if entry_bytes < 4 or len(table) < entry_bytes * n_entries:
        raise RuntimeToolError(f"{path} is a truncated program")
    kinds = {struct.unpack_from("<I", table, at)[0] for at in range(0, len(table), entry_bytes)}
    return ElfFacts(machine=_MACHINES.get(machine, f"machine {machine}"), is_static=_PT_INTERP not in kinds)
