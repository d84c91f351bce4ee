"""Builds whose plans come from the policy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ramp_edge.allocate.episode import N_FEATURES, N_STATE
from ramp_edge.allocate.policy import load_policy
from ramp_edge.build import build
from ramp_edge.codec.types import QuantType
from ramp_edge.errors import PolicyFileError
from ramp_edge.events import EventBus
from ramp_edge.pipeline.request import OUTLINE, TRAINED_POLICY, AllocatorChoice, BuildRequest, Effort, Fold
from ramp_edge.train.onnx_file import write_policy

Make = Callable[..., BuildRequest]


def policy_file(path: Path, bias: float) -> Path:
    """A policy that moves every tensor the same way, as far as it can."""
    weights: dict[str, Any] = {
        "hidden.0.weight": np.zeros((4, N_STATE)),
        "hidden.0.bias": np.zeros(4),
        "hidden.2.weight": np.zeros((4, 4)),
        "hidden.2.bias": np.zeros(4),
        "mean.weight": np.zeros((1, 4)),
        "mean.bias": np.full(1, bias),
        "correction.first.weight": np.zeros((4, N_FEATURES)),
        "correction.second.weight": np.zeros((4, 4)),
        "correction.third.weight": np.zeros((4, 4)),
        "correction.last.weight": np.zeros((1, 4)),
        **{
            f"correction.{name}.bias": np.zeros(n)
            for name, n in (("first", 4), ("second", 4), ("third", 4), ("last", 1))
        },
    }
    write_policy(path, weights, {})
    return path


def test_the_policy_s_build_needs_no_gradients(
    tiny_request: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAMP_EDGE_CACHE", str(tmp_path / "empty"))
    events = EventBus()
    record = build(tiny_request(allocator=AllocatorChoice.RAMP), events)
    assert record.origin == "ramp" and [c.origin for c in record.candidates] == ["ramp"]
    assert {"noise", "features"} <= set(events.stage_seconds)
    assert not {"fisher", "fisher head"} & set(events.stage_seconds)
    assert record.bits_per_weight <= 4.85
    again = build(tiny_request(allocator=AllocatorChoice.RAMP, dry_run=True), EventBus())
    assert again.tensors == record.tensors and again.predicted_kl == record.predicted_kl, "from the cache, the same"
    # Foreseen from forward passes alone, and not far from what is measured.
    assert record.evaluation is not None and record.predicted_kl == pytest.approx(record.evaluation.mean_kl, rel=0.5)
    assert sum(t.predicted_kl or 0.0 for t in record.tensors) == pytest.approx(record.predicted_kl)
    # A preset is no candidate, but there to compare with.
    preset = record.best_preset
    assert preset is not None and preset.predicted_kl is not None and preset.predicted_kl > record.predicted_kl
    assert preset.file_bytes <= record.file_bytes


def test_best_measures_the_knapsack_and_the_policy(tiny_request: Make, tmp_path: Path) -> None:
    policy = policy_file(tmp_path / "down.onnx", -3.0)
    record = build(tiny_request(allocator=AllocatorChoice.BEST, policy=policy, effort=Effort.BALANCED), EventBus())
    measured = [c for c in record.candidates if c.codec == "feedback" and c.measured_kl is not None]
    assert [(c.origin, c.folded) for c in measured] == [("knapsack", True), ("knapsack", False), ("ramp", True)]
    # A policy that gives every tensor fewer bits than the budget allows loses, and is not kept.
    *knapsacks, ramp = measured
    assert max(c.measured_kl or 0.0 for c in knapsacks) < (ramp.measured_kl or 0.0) and not ramp.chosen
    assert (ramp.predicted_kl or 0.0) > 2 * (knapsacks[0].predicted_kl or 0.0), "measured all the same"


def test_a_policy_decides_the_types(tiny_request: Make, tmp_path: Path) -> None:
    plans = {}
    for name, bias in (("down", -3.0), ("up", 3.0)):
        request = tiny_request(
            allocator=AllocatorChoice.RAMP, policy=policy_file(tmp_path / f"{name}.onnx", bias), dry_run=True
        )
        record = build(request, EventBus())
        plans[name] = [QuantType[t.type].bits_per_weight for t in record.tensors if t.kept_reason is None]
        assert record.bits_per_weight <= 4.85
    assert plans["up"] != plans["down"]
    assert np.mean(plans["down"]) < np.mean(plans["up"])


def test_the_package_s_policy_is_asked_unless_the_outline_is(tiny_request: Make) -> None:
    records = {}
    for policy in (None, OUTLINE, TRAINED_POLICY):
        request = tiny_request(allocator=AllocatorChoice.RAMP, policy=policy, dry_run=True)
        records[policy] = build(request, EventBus())
    assert [r.settings["policy"] for r in records.values()] == ["trained", "outline", str(TRAINED_POLICY)]
    assert records[None].tensors == records[TRAINED_POLICY].tensors
    # The first pass moves foreseen KL, whatever becomes of the plan on a model of random weights.
    predicted = {policy: [t.predicted_kl for t in r.tensors] for policy, r in records.items()}
    assert predicted[None] != predicted[OUTLINE]
    assert (
        BuildRequest(model=None, device="x", output=Path("o"), allocator=AllocatorChoice.KNAPSACK).policy_file is None
    )


def test_the_package_s_policy_tells_how_it_came_about() -> None:
    record = load_policy(TRAINED_POLICY).record
    assert len(record["cases"]) >= 8 and {c["family"] for c in record["cases"]} == {"llama", "qwen3", "gemma3"}
    scores = record["kl_over_knapsack"]
    assert scores["policy"]["mean"] < scores["outline"]["mean"] and scores["policy"]["median"] < 1.05
    assert {"seed", "rounds", "correction", "sac", "reward"} <= set(record["settings"])


def test_presets_alone(tiny_request: Make) -> None:
    record = build(tiny_request(allocator=AllocatorChoice.PRESET, dry_run=True), EventBus())
    assert record.origin.startswith("preset:")
    assert all(c.origin.startswith("preset:") for c in record.candidates)


def test_a_file_that_is_no_policy_ends_the_build(tiny_request: Make, tmp_path: Path) -> None:
    (tmp_path / "p.onnx").write_text("not weights")
    with pytest.raises(PolicyFileError, match="no policy"):
        build(tiny_request(allocator=AllocatorChoice.RAMP, policy=tmp_path / "p.onnx", dry_run=True), EventBus())


def test_a_limit_on_speed_is_kept(tiny_request: Make) -> None:
    free = build(tiny_request(allocator=AllocatorChoice.RAMP, dry_run=True), EventBus())
    wanted = 1.0005 * free.predicted_decode_tok_s
    fast = build(tiny_request(allocator=AllocatorChoice.RAMP, dry_run=True, min_decode_tok_s=wanted), EventBus())
    assert fast.predicted_decode_tok_s >= wanted


@pytest.mark.parametrize(
    ("changes", "allocator", "fold"),
    [
        ({"effort": Effort.FAST}, AllocatorChoice.RAMP, Fold.OFF),
        ({"effort": Effort.FAST, "fold": Fold.OFF}, AllocatorChoice.RAMP, Fold.OFF),
        # What needs the error table gets it.
        ({"effort": Effort.FAST, "fold": Fold.AUTO}, AllocatorChoice.KNAPSACK, Fold.AUTO),
        ({"effort": Effort.FAST, "tune": 1}, AllocatorChoice.KNAPSACK, Fold.OFF),
        ({}, AllocatorChoice.BEST, Fold.AUTO),
        ({"effort": Effort.MAX}, AllocatorChoice.BEST, Fold.AUTO),
        ({"effort": Effort.MAX, "fold": Fold.OFF}, AllocatorChoice.BEST, Fold.OFF),
        ({"allocator": AllocatorChoice.RAMP}, AllocatorChoice.RAMP, Fold.OFF),
        ({"allocator": AllocatorChoice.KNAPSACK, "effort": Effort.FAST}, AllocatorChoice.KNAPSACK, Fold.OFF),
    ],
)
def test_the_effort_says_who_allocates(changes: dict[str, Any], allocator: AllocatorChoice, fold: Fold) -> None:
    request = BuildRequest(model=None, device="raspberry-pi-5", output=Path("out"), **changes)
    assert (request.allocating, request.folding) == (allocator, fold)
    assert (request.settings()["allocator"], request.settings()["fold"]) == (allocator.value, fold.value)
