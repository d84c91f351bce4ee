"""The folder of a build: inputs and other people's files survive, one build at a time, nothing empty is left behind."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ramp_edge.build import build
from ramp_edge.errors import InfeasibleBudgetError, OutputError, UsageError
from ramp_edge.events import Event, EventBus, StageStarted
from ramp_edge.pipeline.output_folder import check_inputs, check_output, check_replaced, claimed
from ramp_edge.pipeline.request import BuildRequest

Make = Callable[..., BuildRequest]


class Stop(Exception):
    """Ends a build in a test."""


def stopping_at(stage: str) -> EventBus:
    def stop(event: Event) -> None:
        if isinstance(event, StageStarted) and event.name == stage:
            raise Stop

    return EventBus(listeners=[stop])


def record_in(folder: Path) -> None:
    (folder / "build.json").write_text(json.dumps({"schema_version": 1, "file_sha256": "0"}))


@pytest.mark.parametrize("dry_run", [False, True])
@pytest.mark.parametrize("with_record", [False, True])
def test_the_source_in_the_output_folder_survives(
    tiny_request: Make, tiny_gguf: Path, tmp_path: Path, dry_run: bool, with_record: bool
) -> None:
    source = tmp_path / "out" / "model.gguf"
    source.parent.mkdir()
    shutil.copy(tiny_gguf, source)
    if with_record:
        record_in(source.parent)
    before = sorted(p.name for p in source.parent.iterdir())
    with pytest.raises(UsageError, match=r"would overwrite the model .*out/model\.gguf"):
        build(tiny_request(model=str(source), dry_run=dry_run), stopping_at("moments"))
    assert source.read_bytes() == tiny_gguf.read_bytes()
    assert sorted(p.name for p in source.parent.iterdir()) == before


def test_inputs_are_seen_through_links_and_other_spellings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "model.gguf").write_bytes(b"model")
    record_in(out)
    (tmp_path / "link.gguf").symlink_to(out / "model.gguf")
    (tmp_path / "alias").symlink_to(out)
    monkeypatch.chdir(tmp_path)
    for folder in (out, Path("out"), Path("alias")):
        for path in (out / "model.gguf", Path("link.gguf"), Path("out/../out/model.gguf"), Path("alias/model.gguf")):
            with pytest.raises(UsageError, match="would overwrite the model"):
                check_inputs(folder, [("the model", path)])
    with pytest.raises(UsageError, match=r"would overwrite --eval-text out/build\.json"):
        check_inputs(out, [("--eval-text", Path("out/build.json"))])
    check_inputs(out, [("the model", tmp_path / "other.gguf")])
    check_inputs(tmp_path / "elsewhere", [("the model", out / "model.gguf")])


def test_a_link_named_like_the_result_is_not_replaced(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (tmp_path / "source.gguf").write_bytes(b"model")
    (out / "model.gguf").symlink_to(tmp_path / "source.gguf")
    record_in(out)
    with pytest.raises(UsageError, match="would overwrite"):
        check_inputs(out, [("the model", out / "model.gguf")])
    with pytest.raises(UsageError, match="would overwrite"):
        check_inputs(out, [("the model", tmp_path / "source.gguf")])


def test_unfinished_work_is_no_input(tmp_path: Path) -> None:
    candidate = tmp_path / "out" / ".ramp-edge-build" / "candidate-0.gguf"
    candidate.parent.mkdir(parents=True)
    candidate.write_bytes(b"model")
    with pytest.raises(UsageError, match="which the build clears"):
        check_inputs(tmp_path / "out", [("the model", candidate)])


@pytest.mark.parametrize("name", ["model.gguf", "build.json"])
def test_files_of_others_are_not_overwritten(tiny_request: Make, tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_text('{"mine": 1}')
    with pytest.raises(UsageError, match=rf"{name}.* ramp-edge.* would overwrite") as caught:
        build(tiny_request(), EventBus())
    assert "-o" in caught.value.hint
    assert [p.name for p in out.iterdir()] == [name]
    assert (out / name).read_text() == '{"mine": 1}'


def test_an_earlier_build_is_replaced(tiny_request: Make, tmp_path: Path) -> None:
    first = build(tiny_request(), EventBus())
    second = build(tiny_request(target_bpw=6.0), EventBus())
    assert first.file_sha256 != second.file_sha256
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["build.json", "model.gguf", "report.html"]


def test_a_build_stopped_while_publishing_is_an_earlier_build(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"model")
    (tmp_path / "build.json.partial").write_text("{}")
    check_replaced(tmp_path)


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(UsageError, match="file is a file"):
        check_output(file)
    with pytest.raises(UsageError, match=r"-o .*below/it: .*file is a file"):
        check_output(file / "below" / "it")
    (tmp_path / "build.json").mkdir()
    with pytest.raises(UsageError, match=r"build\.json is a folder"):
        check_output(tmp_path)


def test_a_folder_without_permission_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Root may write everywhere, so the answer is made up.
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(OutputError, match=f"{tmp_path} cannot be written"):
        check_output(tmp_path / "new" / "out")


def test_a_folder_that_cannot_be_made_is_told_at_once(tiny_request: Make) -> None:
    if not Path("/proc/self").is_dir():
        pytest.skip("no /proc, where nobody can make folders")
    with pytest.raises(OutputError, match="cannot write /proc"):
        build(tiny_request(output=Path("/proc/ramp-edge/out")), stopping_at("check the weights"))


@pytest.mark.parametrize("error", [Stop, InfeasibleBudgetError])
def test_a_failed_build_leaves_no_empty_folders(tiny_request: Make, tmp_path: Path, error: type[Exception]) -> None:
    size = 1000 if error is InfeasibleBudgetError else None
    with pytest.raises(error):
        build(tiny_request(output=tmp_path / "new" / "out", target_size_bytes=size), stopping_at("write"))
    assert not (tmp_path / "new").exists()
    kept = tmp_path / "kept"
    kept.mkdir()
    with pytest.raises(error):
        build(tiny_request(output=kept, target_size_bytes=size), stopping_at("write"))
    assert list(kept.iterdir()) == []


def test_finished_work_is_kept_for_resuming(tiny_request: Make, tmp_path: Path) -> None:
    with pytest.raises(Stop):
        build(tiny_request(), stopping_at("verify"))
    work = tmp_path / "out" / ".ramp-edge-build"
    assert (work / "candidate-0.gguf").exists()
    with pytest.raises(InfeasibleBudgetError):
        build(tiny_request(target_size_bytes=1000), EventBus())
    assert (work / "candidate-0.gguf").exists()
    build(tiny_request(resume=True), stopping_at("write"))  # the candidate is not written again
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["build.json", "model.gguf", "report.html"]


HOLDER = """
import sys
from pathlib import Path
from ramp_edge.pipeline.output_folder import claimed

with claimed(Path(sys.argv[1])):
    print("claimed", flush=True)
    sys.stdin.read()
"""


def test_a_second_build_into_the_folder_is_told_who_is_first(tiny_request: Make, tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    out = tmp_path / "out"
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(out)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as first:
        assert first.stdout is not None and first.stdin is not None
        assert first.stdout.readline() == "claimed\n"
        candidate = out / ".ramp-edge-build" / "candidate-0.gguf"
        candidate.write_bytes(b"half")
        with pytest.raises(OutputError, match=rf"another build is writing to .*out, started by process {first.pid}"):
            build(tiny_request(), stopping_at("check the weights"))
        assert candidate.read_bytes() == b"half"
        # A dead process holds nothing.
        first.kill()
        first.wait()
    assert (out / ".ramp-edge-build" / "lock").exists()
    with claimed(out):
        assert (out / ".ramp-edge-build" / "lock").read_text() == str(os.getpid())
    assert candidate.exists(), "work of a killed build is kept"
    build(tiny_request(), EventBus())
    assert sorted(p.name for p in out.iterdir()) == ["build.json", "model.gguf", "report.html"]
