"""A probe of this machine with the real llama-bench: a valid profile comes out, and nothing stays behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from ramp_edge.codec.types import QuantType
from ramp_edge.device.probe import ProbeOptions
from ramp_edge.device.target import TargetSpec
from ramp_edge.errors import BoardStorageError, UsageError
from ramp_edge.events import EventBus
from ramp_edge.model.synthetic import Shape
from ramp_edge.pipeline import probe as pipeline
from ramp_edge.pipeline.probe import COMMENT, ProbeRequest, probe_bytes, probe_target
from ramp_edge.profile.load import load_profile_file


@pytest.fixture
def small_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shapes whose figures mean nothing and that take no time."""
    monkeypatch.setattr(pipeline, "WIDE", Shape(n_embd=512, n_layer=1, n_vocab=512))
    monkeypatch.setattr(pipeline, "DEEP", Shape(n_embd=256, n_layer=4, n_vocab=512))
    monkeypatch.setattr(pipeline, "TALL", Shape(n_embd=256, n_layer=1, n_vocab=1024))
    monkeypatch.setattr(pipeline, "SMALL", Shape(n_embd=256, n_layer=1, n_vocab=512))
    monkeypatch.setattr(pipeline, "SMALL_DEEP", Shape(n_embd=256, n_layer=2, n_vocab=512))
    monkeypatch.setattr(pipeline, "CACHED", Shape(n_embd=256, n_layer=1, n_vocab=256))
    monkeypatch.setattr("ramp_edge.device.probe_runs.REPEAT_S", 0.02)


def request(tmp_path: Path, llama_bin: Path, **changes: object) -> ProbeRequest:
    fields = {
        "spec": TargetSpec(name="here", host=None, folder=str(tmp_path / "board")),
        "output": tmp_path / "board.yaml",
        "options": ProbeOptions(rounds=3, threads=(1,)),
        "types": (QuantType.F16, QuantType.Q8_0, QuantType.Q4_0, QuantType.IQ3_S),
        "runtime": str(llama_bin),
        **changes,
    }
    return ProbeRequest(**fields)  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_probe_gives_a_profile_that_build_takes(small_models: None, tmp_path: Path, llama_bin: Path) -> None:
    events = EventBus()
    result = probe_target(request(tmp_path, llama_bin), events)
    target = load_profile_file(tmp_path / "board.yaml")
    assert target.measured, "every speed is the board's own"
    assert set(target.types) == {QuantType.F16, QuantType.Q8_0, QuantType.Q4_0, QuantType.IQ3_S}
    assert target.decode_threads == 1
    assert target.backend == "cpu"
    assert 1e8 < target.bandwidth_effective_bytes_s < 1e12
    measured = result.measurements
    assert measured.copy_bytes_s is not None
    assert measured.copy_bytes_s > 1e8
    assert [(s.decode.n_layer, s.filling.depth > 0) for s in measured.q8_0] == [
        (1, False), (1, False), (4, False), (4, True), (1, False), (1, False), (2, False), (2, True),
    ]  # fmt: skip
    assert [s.filling.kv_type for s in measured.kv_types] == [QuantType.Q8_0, QuantType.Q4_0]
    assert all(s.decode.attention_macs > 512 * 4 * 256 * 2 for s in measured.kv_types), "512 positions, keys and values"
    assert set(target.attention_macs_s) <= {QuantType.F16, QuantType.Q8_0, QuantType.Q4_0}
    assert QuantType.Q4_0 in target.attention_macs_s, "its unpacking always costs something"
    own = measured.q8_0[0].decode.seconds
    assert all(0.02 < speed.decode.seconds / own < 50 for speed in measured.types), "the same size, other types"
    # The machine may hide its caches from a virtual one; where it tells, all these models fit into the last.
    assert [s.decode.n_output_rows for s in measured.types_tall] == [1024] * 3
    assert all(s.output_row_s >= 0.0 for s in target.types.values())
    others = {QuantType.F16, QuantType.Q4_0, QuantType.IQ3_S}
    assert {speed.quant_type for speed in measured.types_in_cache} == (others if measured.cache_bytes else set())
    assert (target.bandwidth_in_cache_bytes_s is None) == (not measured.types_in_cache)
    assert all((s.decode_efficiency_in_cache is None) == (not measured.types_in_cache) for s in target.types.values())
    left = sorted(p.name for p in (tmp_path / "board").rglob("*") if p.is_file())
    assert [name.split("-")[0] for name in left] == ["agent", "copy_speed"], "no model stays on the board"
    assert (tmp_path / "board.yaml").read_text().startswith(f"# {COMMENT}\n")
    assert not events.warnings


def test_what_probe_did_not_write_is_not_overwritten(tmp_path: Path, llama_bin: Path) -> None:
    path = tmp_path / "board.yaml"
    path.write_text("title: mine\n")
    with pytest.raises(UsageError, match="was not written by ramp-edge probe"):
        probe_target(request(tmp_path, llama_bin), EventBus())
    assert path.read_text() == "title: mine\n"
    with pytest.raises(UsageError, match=r"ends in \.yaml"):
        probe_target(request(tmp_path, llama_bin, output=tmp_path / "board.txt"), EventBus())


def test_no_room_on_the_board_is_told_with_numbers(
    small_models: None, tmp_path: Path, llama_bin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ramp_edge.device.local._LocalFiles.free_bytes", lambda self, folder: 1000)
    with pytest.raises(BoardStorageError, match="does not fit, 1000 are free"):
        probe_target(request(tmp_path, llama_bin), EventBus())
    assert not (tmp_path / "board.yaml").exists()


def test_the_plan_counts_what_is_sent() -> None:
    sent, held = probe_bytes((QuantType.Q8_0, QuantType.F16))
    wide, narrow = ((n_cols // 32 * 34, 2 * n_cols) for n_cols in (2048, 512))
    assert sent == 256 * (sum(wide) + 2 * sum(narrow))
    assert held == (7 * 4 * 2048 + 4096) * wide[0] + (7 * 2 * 512 + 262144) * narrow[1]
