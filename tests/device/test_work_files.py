"""Deploy, bench and probe mean the same folder by a target's `folder`, and none takes one that is not its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from ramp_edge.device.local import LocalTarget
from ramp_edge.device.store import BoardStore
from ramp_edge.device.target import TargetSpec
from ramp_edge.device.work_files import put_file
from ramp_edge.errors import TargetsFileError


@pytest.mark.parametrize("folder", ["ramp edge", "~/ramp edge"])
def test_files_for_measuring_lie_where_deploy_keeps_its_own(tmp_path: Path, folder: str) -> None:
    board = LocalTarget(TargetSpec(name="here", host=None, folder=folder), tmp_path)
    path = Path(put_file(board, b"text", "text", ".txt"))
    assert path.read_bytes() == b"text"
    assert path.is_relative_to(tmp_path / "ramp edge")
    assert BoardStore(board).root == str(tmp_path / "ramp edge")


@pytest.mark.parametrize("folder", ["..", "a/../../b", ".", "/"])
def test_nothing_is_written_outside(tmp_path: Path, folder: str) -> None:
    with pytest.raises(TargetsFileError, match="cannot be deploy's folder"):
        put_file(LocalTarget(TargetSpec(name="here", host=None, folder=folder), tmp_path), b"x", "x", ".txt")
    assert list(tmp_path.iterdir()) == []
