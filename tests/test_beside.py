"""Written beside and renamed: whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from ramp_edge.beside import written_beside


def test_a_finished_file_takes_its_name(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with written_beside(path) as partial:
        partial.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(RuntimeError), written_beside(path) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_errors_of_the_file_system_come_through(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), written_beside(tmp_path / "absent" / "a") as partial:
        partial.write_text("x")
