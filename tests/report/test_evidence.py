"""Which records belong together, and what is said of those that do not."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ramp_edge.errors import UsageError
from ramp_edge.report.evidence import gather

from .conftest import ASSETS, MINIMAL

Record = Callable[..., dict[str, Any]]
Folder = Callable[..., Path]


def test_a_folder_is_a_build_with_its_benches(record: Record, folder: Folder) -> None:
    bench = record("new/bench.json")
    kitchen = bench | {"target": "kitchen-pi"}
    place = folder(build=record("new/build.json"), bench=bench, **{"bench-kitchen-pi": kitchen})
    evidence = gather([place])
    assert [build.label for build in evidence.builds] == ["out"]
    assert [bench.label for bench in evidence.benches] == ["local", "kitchen-pi"]
    assert all(bench.build is evidence.builds[0] for bench in evidence.benches)
    assert evidence.notes == ()


def test_a_bench_of_an_earlier_build_is_left_out_and_said(record: Record, folder: Folder) -> None:
    place = folder(build=record("new/build.json"), bench=record("old/bench.json"))
    evidence = gather([place])
    assert evidence.benches == ()
    assert len(evidence.notes) == 1
    assert "bench.json measured another file" in evidence.notes[0]


def test_a_bench_that_was_named_must_belong(record: Record, folder: Folder) -> None:
    place = folder(build=record("new/build.json"))
    with pytest.raises(UsageError, match="measured none of the files that were built"):
        gather([place, ASSETS / "old" / "bench.json"])


def test_the_model_of_the_build_counts_among_several(record: Record, folder: Folder) -> None:
    bench, other = record("new/bench.json"), record("old/bench.json")
    place = folder(build=record("new/build.json"), bench=bench | {"models": [other["models"][0], bench["models"][0]]})
    assert gather([place]).benches[0].model.label == "new"
    assert gather([place / "bench.json"]).benches[0].model.label == "old"


def test_labels_tell_records_apart(tmp_path: Path) -> None:
    for parent in ("a", "b"):
        shutil.copytree(ASSETS / "new", tmp_path / parent / "out")
    assert [b.label for b in gather([ASSETS / "new", ASSETS / "old"]).builds] == ["new", "old"]
    labels = [b.label for b in gather([tmp_path / "a" / "out", tmp_path / "b" / "out"]).builds]
    assert len(set(labels)) == 2
    assert all(label.endswith(f"{parent}/out/build.json") for label, parent in zip(labels, "ab", strict=True))


def test_the_same_record_twice_is_one() -> None:
    evidence = gather([ASSETS / "new", ASSETS / "new" / "build.json"])
    assert (len(evidence.builds), len(evidence.benches)) == (1, 1)


def test_a_record_that_knows_little_is_read() -> None:
    assert gather([MINIMAL]).builds[0].document.device.types == {}


def test_every_unreadable_record_is_named(tmp_path: Path, record: Record, folder: Folder) -> None:
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    half = record("new/build.json")
    del half["memory"]
    newer = record("new/bench.json", schema_version=99)
    place = folder(build=half, bench=newer)
    with pytest.raises(UsageError) as caught:
        gather([broken, place, tmp_path / "nowhere.json", ASSETS / "new" / "eval.json", tmp_path / "out" / ".."])
    said = caught.value.message
    assert "broken.json is not JSON" in said
    assert "build.json is no whole record: memory" in said
    assert "schema version 99" in said
    assert "nowhere.json cannot be read" in said
    assert "eval.json is a task evaluation" in said
    assert "holds neither build.json nor bench.json" in said


@pytest.mark.parametrize("value", ["NaN", "Infinity", '"5"', "null", "-1", "true"])
def test_numbers_that_are_none_are_refused(tmp_path: Path, value: str) -> None:
    text = (ASSETS / "new" / "build.json").read_text()
    path = tmp_path / "build.json"
    path.write_text(text.replace('"predicted_decode_tok_s": ', f'"predicted_decode_tok_s": {value}, "was": ', 1))
    with pytest.raises(UsageError, match="predicted_decode_tok_s"):
        gather([path])
