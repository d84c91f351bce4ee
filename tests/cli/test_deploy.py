"""`ramp-edge deploy` and `ramp-edge targets` as a user runs them; boards over SSH are in tests/device."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from ramp_edge.cli.main import app
from ramp_edge.errors import (
    ArtifactMismatchError,
    BoardMismatchError,
    ConnectionFailedError,
    RampEdgeError,
    TargetsFileError,
    UsageError,
)

FILE = """\
targets:
  first:
    host: local
    folder: {one}
    tags: [lab]
  second:
    host: local
    folder: {two}
    profile: raspberry-pi-5-8gb
    tags: [lab, attic]
  away:
    host: nobody@127.0.0.1:1
"""


@pytest.fixture(autouse=True)
def own_boards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("RAMP_EDGE_CONFIG", str(tmp_path))
    monkeypatch.delenv("RAMP_EDGE_TARGETS", raising=False)
    monkeypatch.setenv("RAMP_EDGE_PROGRESS", "off")
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "targets.yaml").write_text(FILE.format(one=tmp_path / "board 1", two=tmp_path / "board 2"))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return write_build(tmp_path / "out", b"model one")


def write_build(folder: Path, model: bytes) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "model.gguf").write_bytes(model)
    record = {"schema_version": 1, "file_name": "model.gguf", "file_sha256": hashlib.sha256(model).hexdigest()}
    (folder / "build.json").write_text(json.dumps(record))
    return folder


def run(*args: str | Path) -> Result:
    return CliRunner().invoke(app, [str(a) for a in args])


def record_of(*args: str | Path) -> list[dict[str, Any]]:
    result = run(*args, "--json")
    if result.exception is not None and not isinstance(result.exception, RampEdgeError):
        raise result.exception
    targets: list[dict[str, Any]] = json.loads(result.stdout)["targets"]
    return targets


def test_a_build_goes_to_two_boards_by_their_tag(out: Path, tmp_path: Path) -> None:
    result = run("deploy", out, "--target", "lab")
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.stdout.splitlines() if line.strip()]
    assert lines[0][:2] == ["Board", "Result"]
    assert [line[:2] for line in lines[2:]] == [["first", "deployed"], ["second", "deployed"]]
    for board in ("board 1", "board 2"):
        assert (tmp_path / board / "current" / "model.gguf").read_bytes() == b"model one"
    again = record_of("deploy", out, "-t", "first", "-t", "lab")
    assert [(r["target"], r["result"], r["sent_bytes"]) for r in again] == [
        ("first", "already there", 0), ("second", "already there", 0)
    ]  # fmt: skip
    assert all(r["error"] is None and r["seconds"] < 5 for r in again)


def test_one_board_s_failure_does_not_stop_the_others(out: Path, tmp_path: Path) -> None:
    result = run("deploy", out, "--target", "all", "--timeout", "3")
    assert isinstance(result.exception, ConnectionFailedError)
    assert result.exception.message.startswith("1 of 3 boards failed\naway: nobody@127.0.0.1:1 cannot be reached")
    rows = [line.split() for line in result.stdout.splitlines() if line.strip()][2:]
    assert [row[:2] for row in rows] == [["first", "deployed"], ["second", "deployed"], ["away", "failed"]]
    assert (tmp_path / "board 2" / "current" / "model.gguf").exists()
    failed = record_of("deploy", out, "--target", "all", "--timeout", "3")[2]
    assert failed["error"]["exit_code"] == 19 and failed["error"]["class"] == "ConnectionFailedError"
    alone = run("deploy", out, "--target", "away", "--timeout", "3")
    assert isinstance(alone.exception, ConnectionFailedError) and "boards failed" not in alone.exception.message
    assert alone.stdout == ""


def test_a_dry_run_tells_and_sends_nothing(out: Path, tmp_path: Path) -> None:
    (record,) = record_of("deploy", out, "--target", "first", "--dry-run")
    size = sum(p.stat().st_size for p in out.iterdir())
    assert (record["result"], record["sent_bytes"], record["there_bytes"]) == ("would be deployed", size, 0)
    assert record["free_bytes"] > 0 and not (tmp_path / "board 1").exists()
    assert "would be deployed" in run("deploy", out, "--target", "first", "--dry-run").stdout


def test_rollback_and_verify(out: Path, tmp_path: Path) -> None:
    record_of("deploy", out, "--target", "first")
    newer = write_build(tmp_path / "newer", b"model two")
    (deployed,) = record_of("deploy", newer, "--target", "first")
    assert "whole: 2 releases" in run("deploy", "--target", "first", "--verify").stdout
    (back,) = record_of("deploy", "--target", "first", "--rollback")
    assert back["result"] == "rolled back" and back["release"] != deployed["release"]
    current = tmp_path / "board 1" / "current" / "model.gguf"
    assert current.read_bytes() == b"model one"
    place = current.resolve()
    place.chmod(0o644)
    place.write_bytes(b"tampered!")
    result = run("deploy", "--target", "first", "--verify")
    assert isinstance(result.exception, BoardMismatchError) and "model.gguf was altered" in result.exception.message


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["deploy", "OUT"], "no board is named"),
        (["deploy", "--target", "first"], "no build is named"),
        (["deploy", "OUT", "--target", "first", "--rollback"], "leave"),
        (["deploy", "--target", "first", "--rollback", "--verify"], "cannot be combined"),
        (["deploy", "nowhere", "--target", "first"], "holds no build"),
        (["deploy", "OUT", "--target", "first", "--targets-file", "none.yaml"], "does not exist"),
        (["deploy", "--target", "first", "--rollback"], "nothing was ever deployed"),
    ],
)
def test_what_makes_no_sense_is_told(out: Path, args: list[str], expected: str) -> None:
    result = run(*(out if arg == "OUT" else arg for arg in args))
    assert isinstance(result.exception, UsageError) and expected in result.exception.message


def test_a_build_that_was_altered_is_not_sent(out: Path, tmp_path: Path) -> None:
    (out / "model.gguf").write_bytes(b"model 0ne")
    assert isinstance(run("deploy", out, "--target", "first").exception, ArtifactMismatchError)
    assert not (tmp_path / "board 1").exists()


def test_a_misspelt_board(out: Path) -> None:
    result = run("deploy", out, "--target", "frist")
    assert isinstance(result.exception, TargetsFileError) and "did you mean 'first'" in result.exception.message


def test_boards_are_listed(tmp_path: Path) -> None:
    text = run("targets", "list").stdout
    for word in ("first", "this machine", "lab, attic", "raspberry-pi-5-8gb", "nobody@127.0.0.1:1"):
        assert word in text
    listed = json.loads(run("targets", "list", "--json").stdout)
    assert listed["file"] == str(tmp_path / "targets.yaml")
    assert [t["target"] for t in listed["targets"]] == ["first", "second", "away"]
    (tmp_path / "targets.yaml").unlink()
    assert "names no board yet" in run("targets", "list").stdout


def test_boards_are_checked(out: Path) -> None:
    (deployed,) = record_of("deploy", out, "--target", "first")
    checked = record_of("targets", "check", "lab")
    assert [(c["target"], c["release"], c["error"]) for c in checked] == [
        ("first", deployed["release"], None), ("second", None, None)
    ]  # fmt: skip
    assert checked[0]["machine"] == f"{os.uname().sysname} {os.uname().machine}" and checked[0]["free_bytes"] > 0
    result = run("targets", "check", "--timeout", "3")
    assert isinstance(result.exception, ConnectionFailedError) and result.exception.message.startswith("1 of 3")
    rows = [line.split() for line in result.stdout.splitlines() if line.strip()][2:]
    assert [(row[0], "yes" in row) for row in rows] == [("first", True), ("second", True), ("away", False)]
