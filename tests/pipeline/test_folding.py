"""Folding inside a build: what is tried, kept and told, and that the file it makes is the same model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ramp_edge.build import build
from ramp_edge.calibrate.text import TextWindows
from ramp_edge.events import EventBus
from ramp_edge.fold.plan import FoldPlan
from ramp_edge.model.gguf_file import GgufTensors
from ramp_edge.pipeline.calibration import held_out_windows, settings_for
from ramp_edge.pipeline.folded_model import folding_record
from ramp_edge.pipeline.folding import Folded
from ramp_edge.pipeline.record import BuildRecord, CandidateRecord, to_plain
from ramp_edge.pipeline.request import BuildRequest, Effort, Fold
from ramp_edge.records import Divergence, ErrorTable, EvaluationResult, Perplexity

Make = Callable[..., BuildRequest]


@pytest.fixture(scope="module")
def loud_gguf(make_tiny_gguf: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model whose norms have loud channels, as trained ones do: there is something to gain."""

    def edit(weights: dict[str, np.ndarray]) -> None:
        rng = np.random.default_rng(7)
        for name in [n for n in weights if "norm" in n and n != "output_norm.weight"]:
            weights[name] *= np.exp(1.0 * rng.standard_normal(weights[name].shape)).astype(np.float32)
        columns = weights["token_embd.weight"].shape[1]
        weights["token_embd.weight"] *= np.exp(0.5 * rng.standard_normal(columns)).astype(np.float32)

    return make_tiny_gguf(tmp_path_factory.mktemp("loud") / "loud.gguf", edit=edit)


def folded(make: Make, model: Path, output: Path, mode: Fold, effort: Effort = Effort.FAST) -> BuildRecord:
    request = make(model=str(model), output=output, effort=effort, fold=mode, target_bpw=4.6)
    return build(request, EventBus())


def kl(record: BuildRecord) -> float:
    assert record.evaluation is not None and record.evaluation.divergence is not None
    return record.evaluation.divergence.mean_kl


def test_folding_pays_where_channels_are_loud(tiny_request: Make, loud_gguf: Path, tmp_path: Path) -> None:
    plain = folded(tiny_request, loud_gguf, tmp_path / "plain", Fold.OFF)
    record = folded(tiny_request, loud_gguf, tmp_path / "folded", Fold.AUTO)
    assert plain.folding is None
    assert record.folding is not None
    assert record.file_bytes <= plain.file_bytes + 4096
    assert record.folding.groups_kept > 0
    assert record.folding.predicted_kl_folded is not None and record.folding.predicted_kl_unfolded is not None
    assert record.folding.predicted_kl_folded < record.folding.predicted_kl_unfolded
    assert kl(record) < 0.95 * kl(plain)  # measured KL_RATIO
    marks = [GgufTensors(tmp_path / name / "model.gguf").metadata("ramp_edge.folded") for name in ("plain", "folded")]
    assert marks == [0, 1]


def test_every_group_is_accounted_for(tiny_request: Make, loud_gguf: Path, tmp_path: Path) -> None:
    record = folded(tiny_request, loud_gguf, tmp_path / "out", Fold.ALWAYS)
    assert record.folding is not None
    by_name = {g.group: g for g in record.folding.groups}
    sites = [f"blk.{layer}.{site}" for layer in (0, 1) for site in ("attn_in", "attn_out", "ffn_in", "ffn_down")]
    assert set(by_name) == {"residual stream", "head", *sites}
    assert not by_name["head"].kept
    assert "input embedding" in by_name["head"].reason
    for name in ("residual stream", *sites):
        group = by_name[name]
        assert group.kept and group.reason == "as --fold always asks"
        assert group.kl_before is not None and group.kl_after is not None and group.kl_noise is not None
    assert record.folding.reordered
    assert json.loads(json.dumps(to_plain(record.folding)))["groups"][0]["group"] == "residual stream"


def test_balanced_measures_both_and_keeps_the_better(tiny_request: Make, loud_gguf: Path, tmp_path: Path) -> None:
    record = folded(tiny_request, loud_gguf, tmp_path / "out", Fold.AUTO, Effort.BALANCED)
    measured = {c.folded: c for c in record.candidates if c.evaluation is not None and c.codec == "feedback"}
    assert set(measured) == {True, False}
    found = record.folding
    assert found is not None and found.measured_kl_folded is not None and found.measured_kl_unfolded is not None
    chosen = next(c for c in record.candidates if c.chosen)
    assert chosen.folded == (found.measured_kl_folded < found.measured_kl_unfolded)


def test_the_default_follows_the_effort(tiny_request: Make) -> None:
    assert tiny_request(effort=Effort.FAST).folding is Fold.OFF
    assert tiny_request(effort=Effort.BALANCED).folding is Fold.AUTO
    assert tiny_request(effort=Effort.FAST, fold=Fold.ALWAYS).folding is Fold.ALWAYS
    assert tiny_request(fold=Fold.ALWAYS).fingerprint() != tiny_request(fold=Fold.OFF).fingerprint()


def test_one_kind_gets_no_try_more() -> None:
    def measured(origin: str, kl: float, *, folded: bool) -> CandidateRecord:
        result = EvaluationResult(
            label=origin, file_bytes=1, perplexity=Perplexity(value=9.0, std_error=0.1, n_tokens=9, n_windows=1), seconds=0.1,
            divergence=Divergence(mean_kl=kl, std_error=0.0, median_kl=kl, p99_kl=kl, top_token_agreement=1.0, n_tokens=9),
        )  # fmt: skip
        return CandidateRecord(
            origin=origin, codec="feedback", file_bytes=1, predicted_kl=kl, evaluation=result, chosen=False, folded=folded
        )  # fmt: skip

    folded = Folded(plan=FoldPlan(order=None, scales={}), groups=(), outcomes=(), table=ErrorTable(kl={}), rounds=1)
    knapsack = [measured("knapsack", 0.04, folded=True), measured("knapsack", 0.05, folded=False)]
    ramp = measured("ramp", 0.03, folded=True)
    for candidates in (knapsack, [*knapsack, ramp]):
        record = folding_record("auto", folded, candidates)
        assert (record.measured_kl_folded, record.measured_kl_unfolded) == (0.04, 0.05)
    alone = folding_record("auto", folded, [ramp])
    assert (alone.measured_kl_folded, alone.measured_kl_unfolded) == (0.03, None)


def test_windows_are_held_out_only_where_they_judge(tiny_request: Make) -> None:
    for fold, n_sequences, wanted in ((Fold.AUTO, 40, 2), (Fold.AUTO, 15, 0), (Fold.OFF, 40, 0)):
        request = tiny_request(fold=fold)
        assert held_out_windows(request, n_sequences) == wanted
        windows = np.zeros((n_sequences, 64), np.int32)
        text = TextWindows(calibration=windows, held_out=windows[:0], source="zeros")
        assert settings_for(request, text).held_out_sequences == wanted


def test_too_little_text_is_said(tiny_request: Make, tmp_path: Path) -> None:
    text = tmp_path / "short.txt"
    text.write_text("the small board reads a page of words and writes the next one while it waits. " * 60)
    events, warnings = EventBus(), []
    request = tiny_request(calibration=(text,), eval_text=text, fold=Fold.AUTO)
    record = build(request, events)
    warnings = list(record.warnings)
    assert record.folding is None
    assert any("too short to judge folds" in w for w in warnings)
