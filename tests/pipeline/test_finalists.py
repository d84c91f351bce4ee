"""Who wins: never a stock preset outside the user's limits, and one inside them only where it measured better."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from ramp_edge.build import build
from ramp_edge.cli.summary import summary_lines
from ramp_edge.codec.types import QuantType
from ramp_edge.errors import ArtifactMismatchError
from ramp_edge.events import EventBus
from ramp_edge.model.gguf_file import GgufTensors
from ramp_edge.pipeline.finalists import Finalists
from ramp_edge.pipeline.record import BuildRecord
from ramp_edge.pipeline.request import BuildRequest, Effort
from ramp_edge.pipeline.verification import verify_stock_file
from ramp_edge.records import EvaluationResult

Make = Callable[..., BuildRequest]


@pytest.fixture
def balanced(tiny_request: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., BuildRecord]:
    """Balanced builds in which every stock preset seems perfect."""
    measure = Finalists._measure

    def flattering(self: Finalists, key: str, path: Path, label: str) -> EvaluationResult:
        result = measure(self, key, path, label)
        if not key.startswith("preset-"):
            return result
        assert result.divergence is not None
        return dataclasses.replace(result, divergence=dataclasses.replace(result.divergence, mean_kl=1e-9))

    monkeypatch.setattr(Finalists, "_measure", flattering)
    text = tmp_path / "text.txt"
    text.write_text("the small board reads a page of words and writes the next one. " * 400)

    def run(**changes: object) -> BuildRecord:
        return build(tiny_request(effort=Effort.BALANCED, calibration=(text,), **changes), EventBus())

    return run


def test_a_stock_preset_with_excluded_types_is_measured_but_never_wins(
    balanced: Callable[..., BuildRecord], tmp_path: Path
) -> None:
    allowed = frozenset({QuantType.Q4_0, QuantType.Q5_0})
    record = balanced(types=allowed)
    stock = [c for c in record.candidates if c.codec == "stock"]
    assert stock and stock[0].evaluation is not None and not stock[0].chosen
    assert record.best_preset == stock[0], "it is there to compare with"
    emitted = GgufTensors(tmp_path / "out" / "model.gguf")
    made = {emitted.quant_type(t.name) for t in record.tensors if t.kept_reason is None}
    assert made <= allowed
    [warning] = [w for w in record.warnings if "may not be taken" in w]
    assert "excluded by --types" in warning


def test_a_stock_preset_beyond_a_limit_never_wins(
    balanced: Callable[..., BuildRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    rivals = Finalists._rivals

    def too_large(self: Finalists) -> object:
        # Limits shrink between our plans and the presets, so that only these exceed them.
        limits = dataclasses.replace(self._problem.limits, max_decode_seconds=1e-9)
        self._problem = dataclasses.replace(self._problem, limits=limits)
        return rivals(self)

    monkeypatch.setattr(Finalists, "_rivals", too_large)
    record = balanced()
    assert not any(c.chosen for c in record.candidates if c.codec == "stock")
    assert any("may not be taken: it has " in w and "--min-decode-tok-s 1e+09" in w for w in record.warnings)


def test_a_stock_preset_inside_the_limits_may_win_and_is_told_once(
    balanced: Callable[..., BuildRecord], tmp_path: Path
) -> None:
    record = balanced()
    assert record.best_preset is not None and record.best_preset.chosen and record.best_preset.codec == "stock"
    name = record.origin.removeprefix("preset:")
    emitted = GgufTensors(tmp_path / "out" / "model.gguf")
    assert all(emitted.quant_type(t.name).name == t.type for t in record.tensors)
    text = "\n".join(summary_lines(record, Path("out")))
    assert f"this file is llama.cpp's stock {name}: it measured better" in text
    assert text.count("    stock ") == 0 and "that preset's" not in text
    ours = min((c for c in record.candidates if c.codec == "feedback"), key=lambda c: c.measured_kl or float("inf"))
    assert f"    our {ours.origin} " in text


def test_a_stock_file_that_is_not_as_planned_is_refused(tiny_gguf: Path) -> None:
    stored = GgufTensors(tiny_gguf)
    types = {t.name: stored.quant_type(t.name) for t in stored.header.tensors}
    size = tiny_gguf.stat().st_size
    verify_stock_file(tiny_gguf, types, size, EventBus())
    with pytest.raises(ArtifactMismatchError, match=rf"has {size} bytes, the budget {size - 1}"):
        verify_stock_file(tiny_gguf, types, size - 1, EventBus())
    with pytest.raises(ArtifactMismatchError, match=r"blk\.0\.attn_q\.weight' is F16, planned Q4_0"):
        verify_stock_file(tiny_gguf, {**types, "blk.0.attn_q.weight": QuantType.Q4_0}, None, EventBus())
