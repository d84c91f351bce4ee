"""The command of a record does again what the record did: read back, it is the same request."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ramp_edge.pipeline.request import AllocatorChoice, BuildRequest, Effort, Fold
from ramp_edge.report.compose import report_of
from ramp_edge.report.view import Commands

Record = Callable[..., dict[str, Any]]
Folder = Callable[..., Path]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, []),
        ({"fold": Fold.OFF, "tune": 150, "allocator": AllocatorChoice.BEST}, ["--tune", "150", "--fold", "off"]),
        ({"effort": Effort.FAST}, ["--effort", "fast"]),
        ({"effort": Effort.FAST, "fold": Fold.AUTO}, ["--effort", "fast", "--allocator", "knapsack", "--fold", "auto"]),
        ({"effort": Effort.FAST, "tune": 9}, ["--effort", "fast", "--tune", "9", "--allocator", "knapsack"]),
        ({"allocator": AllocatorChoice.KNAPSACK}, ["--allocator", "knapsack"]),
        ({"allocator": AllocatorChoice.RAMP, "policy": Path("p.onnx")}, ["--allocator", "ramp", "--policy", "p.onnx"]),
    ],
)  # fmt: skip
def test_every_option_that_changes_a_build_is_in_the_command(
    changes: dict[str, Any], expected: list[str], record: Record, folder: Folder
) -> None:
    request = BuildRequest(model="m.gguf", device="raspberry-pi-5", output=Path("out"), **changes)
    report = report_of([folder(build=record("new/build.json", settings=request.settings()))])
    commands = [b for s in report.sections if s.anchor == "reproduce" for b in s.blocks if isinstance(b, Commands)]
    words = shlex.split(commands[0].lines[0])
    assert words == ["ramp-edge", "build", "m.gguf", "--device", "raspberry-pi-5", *expected, "-o", "out"]
