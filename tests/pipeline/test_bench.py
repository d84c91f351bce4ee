"""A bench from files on this machine: what a build promised, where the same file lies on a board, and the record's place."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ramp_edge.device import agent_client
from ramp_edge.device.bench_plan import BenchOptions
from ramp_edge.device.bench_records import read_bench
from ramp_edge.device.local import LocalTarget
from ramp_edge.device.target import TargetSpec
from ramp_edge.errors import (
    BoardMismatchError,
    BoardToolError,
    CalibrationError,
    OutputError,
    RuntimeToolError,
    UsageError,
)
from ramp_edge.events import EventBus
from ramp_edge.pipeline.bench import BenchRequest, bench_target, check_bench_output, write_bench
from ramp_edge.pipeline.bench_sources import bench_text, read_sources
from ramp_edge.pipeline.on_board import deployed_model, deployed_tools

LOCAL = TargetSpec(name="local", host=None)
OPTIONS = BenchOptions(threads=(1,), timeout_s=120.0)


@pytest.fixture
def out(tiny_gguf: Path, tmp_path: Path) -> Path:
    """The folder of a build, as far as a bench reads it."""
    folder = tmp_path / "kitchen"
    folder.mkdir()
    shutil.copy(tiny_gguf, folder / "model.gguf")
    write_build(folder)
    return folder


def write_build(folder: Path, **changes: Any) -> None:
    record = {
        "schema_version": 1,
        "file_sha256": hashlib.sha256((folder / "model.gguf").read_bytes()).hexdigest(),
        "model": {"ctx": 256, "kv_type": "Q8_0"},
        "predicted_decode_tok_s": 50.0,
        "memory": {"total_bytes": 9_000_000},
        **changes,
    }
    (folder / "build.json").write_text(json.dumps(record))


def test_a_build_is_measured_beside_its_promise(
    out: Path, tiny_gguf: Path, llama_bin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_client, "LOAD_WINDOW_S", 0.05)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    request = BenchRequest(models=(out / "model.gguf", tiny_gguf), spec=LOCAL, options=OPTIONS, runtime=str(llama_bin))
    record = bench_target(request, EventBus())
    ours, other = record.models
    assert (ours.label, other.label) == ("kitchen", "tiny-f16")
    assert (ours.kv_type, other.kv_type) == ("q8_0", "f16")
    assert ours.sha256 == other.sha256 == hashlib.sha256(tiny_gguf.read_bytes()).hexdigest()
    assert ours.prediction is not None and ours.prediction.depth_tokens == 128
    assert ours.prediction.measured_tok_s in [s.median_tok_s for s in ours.decode]
    assert ours.memory[0].predicted_bytes == 9_000_000 and ours.memory[0].n_ctx == 256
    assert ours.perplexity is not None and other.perplexity is not None
    assert ours.perplexity.text == "bench-text.txt" and ours.perplexity.n_windows == 4
    assert other.prediction is None
    assert len(record.ratios) == 2 * len(ours.decode)
    path = out / "bench.json"
    write_bench(path, record)
    assert read_bench(path) == record
    assert list(out.glob("*.partial")) == []
    check_bench_output(path)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"file_sha256": "0" * 64}, "describes another file"),
        ({"schema_version": 99}, "schema version 99"),
        ({"model": None}, "is damaged"),
        ({"model": {"ctx": "many", "kv_type": "F16"}}, "is damaged"),
        ({"memory": {}}, "is damaged"),
    ],
)
def test_a_promise_that_cannot_be_trusted_is_left_out(changes: dict[str, Any], expected: str, out: Path) -> None:
    write_build(out, **changes)
    events = EventBus()
    (source,) = read_sources([out / "model.gguf"], events)
    assert source.promise is None
    (warning,) = events.warnings
    assert expected in warning


def test_files_of_one_name_are_told_apart(out: Path, tiny_gguf: Path, tmp_path: Path) -> None:
    sources = read_sources([tiny_gguf, tiny_gguf, out / "model.gguf"], EventBus())
    assert [s.label for s in sources] == ["tiny-f16 (1)", "tiny-f16 (2)", "kitchen"]
    assert sources[0].promise is None and sources[2].promise is not None


def test_the_text_must_be_long_enough(out: Path, tmp_path: Path) -> None:
    (source,) = read_sources([out / "model.gguf"], EventBus())
    short = tmp_path / "short.txt"
    short.write_text("too short\n")
    with pytest.raises(CalibrationError, match=r"has \d+ tokens of kitchen, perplexity on the board needs 512"):
        bench_text(source, short, EventBus())
    long = tmp_path / "long.txt"
    long.write_text("é" * 100_000)
    found = bench_text(source, long, EventBus())
    assert len(found.data) <= 65536 and found.data.decode("utf-8")


def test_tools_that_are_not_there(out: Path, tmp_path: Path) -> None:
    request = BenchRequest(models=(out / "model.gguf",), spec=LOCAL, runtime=str(tmp_path))
    with pytest.raises(RuntimeToolError, match=r"no llama-bench and no llama-perplexity in"):
        bench_target(request, EventBus())
    with pytest.raises(RuntimeToolError, match=r"no llama-bench in"):
        bench_target(replace(request, with_perplexity=False), EventBus())


class TestDeployed:
    """This machine's own file system stands for the board's."""

    @pytest.fixture
    def board(self, tmp_path: Path) -> LocalTarget:
        return LocalTarget(replace(LOCAL, name="pi"), home=tmp_path / "home")

    def release(self, board: LocalTarget, name: str, out: Path) -> Path:
        folder = Path(board.files.home) / "ramp-edge" / "releases" / name
        shutil.copytree(out, folder)
        current = folder.parent.parent / "current"
        current.unlink(missing_ok=True)
        current.symlink_to(folder)
        return folder

    def test_the_release_in_use(self, board: LocalTarget, out: Path) -> None:
        (source,) = read_sources([out / "model.gguf"], EventBus())
        self.release(board, "r1", out)
        assert deployed_model(board, source) == f"{board.files.home}/ramp-edge/current/model.gguf"
        assert deployed_tools(board) == f"{board.files.home}/ramp-edge/current/bin"

    def test_an_earlier_release(self, board: LocalTarget, out: Path, make_tiny_gguf: Any, tmp_path: Path) -> None:
        (source,) = read_sources([out / "model.gguf"], EventBus())
        earlier = self.release(board, "r1", out)
        later = tmp_path / "later"
        later.mkdir()
        make_tiny_gguf(later / "model.gguf", seed=5)
        write_build(later)
        self.release(board, "r2", later)
        assert deployed_model(board, source) == str(earlier / "model.gguf")

    @pytest.mark.parametrize("how", ["nothing deployed", "another file", "another size", "no record", "damaged record"])
    def test_another_file_is_not_measured(self, how: str, board: LocalTarget, out: Path) -> None:
        (source,) = read_sources([out / "model.gguf"], EventBus())
        if how != "nothing deployed":
            folder = self.release(board, "r1", out)
            if how == "another file":
                write_build(folder, file_sha256="1" * 64)
            elif how == "another size":
                (folder / "model.gguf").chmod(0o644)
                (folder / "model.gguf").write_bytes(b"x" * (source.file_bytes - 1))
            elif how == "no record":
                (folder / "build.json").unlink()
            else:
                (folder / "build.json").write_text("[")
        with pytest.raises(BoardMismatchError, match=r"is not on pi: no release in .*/ramp-edge has sha256") as caught:
            deployed_model(board, source)
        assert "ramp-edge deploy" in caught.value.hint


class TestOutput:
    def test_a_file_of_another_kind_is_kept(self, tmp_path: Path) -> None:
        path = tmp_path / "bench.json"
        for content in ('{"mine": 1}', "[]", "text"):
            path.write_text(content)
            with pytest.raises(UsageError, match="was not written by ramp-edge bench"):
                check_bench_output(path)
            assert path.read_text() == content

    def test_places_that_cannot_be(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="is a folder"):
            check_bench_output(tmp_path)
        with pytest.raises(UsageError, match="does not exist"):
            check_bench_output(tmp_path / "no" / "bench.json")


def test_a_record_that_cannot_be_written_leaves_the_old_one(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ramp_edge.pipeline import bench as module

    monkeypatch.setattr(module, "bench_json", lambda record: "new")
    path = tmp_path / "bench.json"
    path.write_text("old")

    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OutputError, match="the disk is full"):
        write_bench(path, None)  # type: ignore[arg-type]
    assert path.read_text() == "old"
    assert list(tmp_path.glob("*.partial")) == []


def test_board_tools_are_looked_for_on_the_board(tmp_path: Path) -> None:
    from ramp_edge.pipeline.bench import _board_tools

    board = LocalTarget(replace(LOCAL, name="pi"), home=tmp_path / "home")
    with pytest.raises(BoardToolError, match=r"pi: no llama-bench in .*/home/ramp-edge/current/bin"):
        _board_tools(board, None, with_perplexity=False)
    tools = tmp_path / "home" / "my tools"
    tools.mkdir(parents=True)
    (tools / "llama-bench").touch()
    assert _board_tools(board, "my tools", with_perplexity=False).bench == f"{tools}/llama-bench"
