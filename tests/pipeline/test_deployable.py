"""What of a build goes to a board, and that a build which was altered does not."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from ramp_edge.errors import ArtifactMismatchError, ResumeError, UsageError
from ramp_edge.pipeline.deployable import files_of_build

MODEL = b"GGUF and so on"


def write_build(folder: Path, **changes: object) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "model.gguf").write_bytes(MODEL)
    record = {"schema_version": 1, "file_name": "model.gguf", "file_sha256": hashlib.sha256(MODEL).hexdigest()}
    (folder / "build.json").write_text(json.dumps(record | changes))
    return folder


def test_the_model_and_its_record(tmp_path: Path) -> None:
    out = write_build(tmp_path / "out")
    (out / "notes.txt").write_text("mine")
    files = files_of_build(out)
    assert {name: file.path for name, file in files.items()} == {
        "model.gguf": out / "model.gguf",
        "build.json": out / "build.json",
    }
    assert files["model.gguf"].sha256 == hashlib.sha256(MODEL).hexdigest()
    assert not any(file.executable for file in files.values())


@pytest.mark.parametrize("content", [b"GGUF and so On", MODEL + b"x", b""])
def test_a_model_that_was_altered_here(tmp_path: Path, content: bytes) -> None:
    out = write_build(tmp_path / "out")
    (out / "model.gguf").write_bytes(content)
    with pytest.raises(ArtifactMismatchError, match="is not the file that was built"):
        files_of_build(out)


def test_folders_that_hold_no_build(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no build"):
        files_of_build(tmp_path / "none")
    with pytest.raises(UsageError, match="dry run"):
        files_of_build(write_build(tmp_path / "dry", file_name=None, file_sha256=None))
    with pytest.raises(UsageError, match="dry run"):
        files_of_build(write_build(tmp_path / "odd", file_name="../model.gguf"))
    out = write_build(tmp_path / "gone")
    (out / "model.gguf").unlink()
    with pytest.raises(UsageError, match="cannot be read"):
        files_of_build(out)
    with pytest.raises(ResumeError, match="schema version 9"):
        files_of_build(write_build(tmp_path / "new", schema_version=9))
