"""What a program's header says."""

from __future__ import annotations

import platform
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ramp_edge.errors import RuntimeToolError
from ramp_edge.runtime.elf import read_elf


@pytest.mark.parametrize(("machine", "name"), [(183, "aarch64"), (62, "x86_64"), (7, "machine 7")])
@pytest.mark.parametrize("loader", [False, True])
def test_machine_and_loader(program: Callable[..., Path], machine: int, name: str, loader: bool) -> None:
    facts = read_elf(program(machine, loader=loader))
    assert (facts.machine, facts.is_static) == (name, not loader)


@pytest.mark.skipif(sys.platform != "linux", reason="needs a Linux program")
def test_this_machine_s_own_programs() -> None:
    shell = shutil.which("sh")
    assert shell is not None
    assert read_elf(Path(shell).resolve()).machine == platform.machine()


@pytest.mark.parametrize(
    "data", [b"", b"#!/bin/sh\n", b"\x7fELF\x01\x01" + bytes(100), b"\xcf\xfa\xed\xfe" + bytes(100)]
)
def test_what_is_no_such_program(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(data)
    with pytest.raises(RuntimeToolError, match="file is not a 64-bit Linux program"):
        read_elf(path)


def test_what_is_not_there_or_cut_short(tmp_path: Path, program: Callable[..., Path]) -> None:
    with pytest.raises(RuntimeToolError, match="absent: No such file"):
        read_elf(tmp_path / "absent")
    whole = program().read_bytes()
    cut = tmp_path / "cut"
    for size in (64, 80, len(whole) - 1):
        cut.write_bytes(whole[:size])
        with pytest.raises(RuntimeToolError, match="cut is a truncated program"):
            read_elf(cut)


@given(tail=st.binary(max_size=200))
def test_hostile_headers_end_in_an_error_or_facts(tmp_path_factory: pytest.TempPathFactory, tail: bytes) -> None:
    path = tmp_path_factory.mktemp("elf") / "file"
    path.write_bytes(b"\x7fELF\x02\x01" + tail)
    try:
        facts = read_elf(path)
    except RuntimeToolError:
        return
    assert facts.machine
