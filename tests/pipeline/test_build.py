"""Whole builds on the tiny model: what is written, what is promised, what is refused."""

from __future__ import annotations

import dataclasses
import json
import resource
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from ramp_edge.build import build
from ramp_edge.codec.types import QuantType
from ramp_edge.errors import (
    CalibrationError,
    InfeasibleBudgetError,
    OutputError,
    ProfileError,
    ResumeError,
    UnsupportedModelError,
    UsageError,
)
from ramp_edge.events import Event, EventBus, StageStarted
from ramp_edge.model.gguf_file import GgufTensors, file_sha256, open_inventory
from ramp_edge.pipeline.record import read_record
from ramp_edge.pipeline.request import BuildRequest, Effort

Make = Callable[..., BuildRequest]


def test_build_writes_the_planned_file(tiny_request: Make, tiny_gguf: Path, tmp_path: Path) -> None:
    record = build(tiny_request(), EventBus())
    out = tmp_path / "out"
    assert sorted(p.name for p in out.iterdir()) == ["build.json", "model.gguf", "report.html"]
    assert record.file_bytes == (out / "model.gguf").stat().st_size
    assert record.file_sha256 == file_sha256(out / "model.gguf")
    emitted = GgufTensors(out / "model.gguf")
    assert {t.name: t.type for t in record.tensors} == {
        t.name: emitted.quant_type(t.name).name for t in emitted.header.tensors
    }
    assert emitted.metadata("ramp_edge.device") == "raspberry-pi-5-8gb"
    source = GgufTensors(tiny_gguf)
    assert emitted.metadata_bytes("tokenizer.ggml.tokens") == source.metadata_bytes("tokenizer.ggml.tokens")
    saved = read_record(out / "build.json")
    assert saved["file_sha256"] == record.file_sha256
    assert saved["memory"]["total_bytes"] == record.memory.total_bytes
    assert record.bits_per_weight <= 4.85
    assert record.evaluation is not None and record.evaluation.divergence is not None
    assert 0 <= record.evaluation.divergence.mean_kl < 1.0


def test_balanced_measures_a_stock_preset_and_never_loses_to_it(tiny_request: Make) -> None:
    record = build(tiny_request(effort=Effort.BALANCED), EventBus())
    stock = [c for c in record.candidates if c.codec == "stock"]
    assert stock and stock[0].evaluation is not None and stock[0].evaluation.divergence is not None
    assert record.evaluation is not None and record.evaluation.divergence is not None
    assert record.evaluation.divergence.mean_kl <= stock[0].evaluation.divergence.mean_kl
    assert sum(c.chosen for c in record.candidates) == 1


def test_same_request_gives_the_same_bytes_for_any_thread_count(tiny_request: Make, tmp_path: Path) -> None:
    first = build(tiny_request(output=tmp_path / "a", threads=1), EventBus())
    second = build(tiny_request(output=tmp_path / "b", threads=3), EventBus())
    assert first.file_sha256 == second.file_sha256


def test_dry_run_writes_nothing(tiny_request: Make, tmp_path: Path) -> None:
    record = build(tiny_request(dry_run=True), EventBus())
    assert not (tmp_path / "out").exists()
    real = build(tiny_request(), EventBus())
    assert record.file_bytes == real.file_bytes
    assert record.predicted_decode_tok_s == real.predicted_decode_tok_s


@pytest.mark.parametrize("size_bytes", [700_000, 1_000_000])
def test_target_size_is_kept_and_used(tiny_request: Make, tiny_gguf: Path, size_bytes: int) -> None:
    inventory, _ = open_inventory(tiny_gguf)
    low = sum(QuantType.Q4_0.row_bytes(t.n_cols) * t.n_rows for t in inventory.quantizable)
    limit = int(low * size_bytes / 600_000) + inventory.file_bytes - sum(t.source_bytes for t in inventory.tensors)
    record = build(tiny_request(target_size_bytes=limit), EventBus())
    assert record.file_bytes <= limit
    assert record.file_bytes > 0.97 * limit


def test_types_option_restricts(tiny_request: Make) -> None:
    record = build(tiny_request(types=frozenset({QuantType.Q4_0, QuantType.Q8_0})), EventBus())
    assert {t.type for t in record.tensors if t.kept_reason is None} <= {"Q4_0", "Q8_0"}
    assert any("excluded by --types" in reason for t in record.tensors for reason in t.illegal_types.values())


def test_own_eval_and_calibration_text(tiny_request: Make, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text(" ".join(f"the {n} little words" for n in range(6000)))
    record = build(tiny_request(calibration=(text,)), EventBus())
    assert record.calibration["source"] == "text.txt"
    assert "held-out windows" in record.calibration["evaluation"]


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"device": "raspbery-pi-5"}, ProfileError, "raspberry-pi-5"),
        ({"ctx": 1 << 20}, UsageError, "trained for contexts"),
        ({"ctx": 0}, UsageError, "--ctx 0"),
        ({"target_bpw": 99.0}, UsageError, "outside 1 to"),
        ({"target_bpw": 1.1}, InfeasibleBudgetError, "smallest legal types need"),
        ({"target_size_bytes": 1000}, InfeasibleBudgetError, "too much"),
        ({"target_bpw": 4.0, "target_size_bytes": 10**6}, UsageError, "exclude each other"),
        ({"min_decode_tok_s": 1e9}, InfeasibleBudgetError, "fastest legal plan"),
        ({"types": frozenset({QuantType.IQ1_S})}, UsageError, "runs none of them"),
    ],
)
def test_impossible_requests_are_named(
    tiny_request: Make, tmp_path: Path, changes: dict[str, object], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match="(?s)" + words.replace("(", r"\(")):
        build(tiny_request(**changes), EventBus())
    assert not (tmp_path / "out" / "model.gguf").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "empty"), (b"ten tokens are far too few to calibrate", "tokens in all"), (b"\x00\x01\x02" * 4000, "binary")],
)
def test_bad_calibration_text_is_named(tiny_request: Make, tmp_path: Path, content: bytes, words: str) -> None:
    text = tmp_path / "calibration.txt"
    text.write_bytes(content)
    with pytest.raises(CalibrationError, match=words) as caught:
        build(tiny_request(calibration=(text,)), EventBus())
    assert "calibration.txt" in caught.value.message


def test_nan_weights_are_named(tiny_request: Make, tiny_gguf: Path, tmp_path: Path) -> None:
    from ramp_edge.errors import ModelFileError

    broken = tmp_path / "nan.gguf"
    data = bytearray(tiny_gguf.read_bytes())
    tensors = GgufTensors(tiny_gguf)
    entry = next(t for t in tensors.header.tensors if t.name == "blk.1.ffn_up.weight")
    start = tensors.header.data_offset + entry.offset + 2 * 300
    data[start : start + 2] = np.array([np.nan], dtype=np.float16).tobytes()
    broken.write_bytes(bytes(data))
    with pytest.raises(ModelFileError, match=r"blk\.1\.ffn_up\.weight.*row 1, column 44"):
        build(tiny_request(model=str(broken)), EventBus())


def test_resume_refuses_other_settings(tiny_request: Make, tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop(event: Event) -> None:
        if isinstance(event, StageStarted) and event.name == "verify":
            raise Stop

    with pytest.raises(Stop):
        build(tiny_request(), EventBus(listeners=[stop]))
    assert not (tmp_path / "out" / "model.gguf").exists()
    with pytest.raises(ResumeError, match=r"target_bpw: None -> 5\.0"):
        build(tiny_request(resume=True, target_bpw=5.0), EventBus())
    assert build(tiny_request(resume=True), EventBus()).file_bytes > 0


def test_a_failed_build_keeps_the_old_result(tiny_request: Make, tmp_path: Path) -> None:
    build(tiny_request(), EventBus())
    before = (tmp_path / "out" / "model.gguf").read_bytes()
    with pytest.raises(InfeasibleBudgetError):
        build(tiny_request(target_size_bytes=1000), EventBus())
    assert (tmp_path / "out" / "model.gguf").read_bytes() == before


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder that takes 300 kB: a file system of its own, or where mounting is not allowed the process's own limit."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(disk)], check=False, capture_output=True
    )
    if mounted.returncode == 0:
        yield disk
        subprocess.run(["umount", str(disk)], check=True)
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))
    yield disk
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_disk_full_is_named_and_nothing_is_left(tiny_request: Make, tmp_path: Path, small_disk: Path) -> None:
    build(tiny_request(dry_run=True), EventBus())  # calibration goes to the cache, which has room
    with pytest.raises(OutputError, match=r"free|limit of the disk"):
        build(tiny_request(output=small_disk / "out"), EventBus())
    assert not list(small_disk.rglob("*.gguf*"))


def test_requantizing_needs_consent(tiny_request: Make, tmp_path: Path) -> None:
    build(tiny_request(), EventBus())
    quantized = str(tmp_path / "out" / "model.gguf")
    with pytest.raises(UnsupportedModelError, match="already quantized"):
        build(tiny_request(model=quantized, output=tmp_path / "again"), EventBus())
    events = EventBus()
    record = build(
        tiny_request(model=quantized, output=tmp_path / "again", allow_requantize=True, target_bpw=4.5), events
    )
    assert any("already quantized" in warning for warning in record.warnings)


def test_unsupported_architecture_is_named(tiny_request: Make, tiny_gguf: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.gguf"
    data = tiny_gguf.read_bytes()
    # Same lengths keep every offset: general.architecture and the keys that begin with it.
    other.write_bytes(data.replace(b"llama", b"zzama"))
    with pytest.raises(UnsupportedModelError, match="zzama"):
        build(tiny_request(model=str(other)), EventBus())


def test_record_json_round_trips_numbers(tiny_request: Make, tmp_path: Path) -> None:
    record = build(tiny_request(), EventBus())
    saved = json.loads((tmp_path / "out" / "build.json").read_text())
    assert saved["tensors"][0]["name"] == record.tensors[0].name
    assert set(saved) == {f.name for f in dataclasses.fields(record)}
