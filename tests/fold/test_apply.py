"""Folding changes nothing but rounding: logits of every family, files through libllama, moments against inputs."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ramp_edge.calibrate.decoder import DecoderModel
from ramp_edge.calibrate.moments import moments_pass
from ramp_edge.calibrate.store import CalibrationSettings, CalibrationStore
from ramp_edge.codec.types import QuantType
from ramp_edge.evaluate.evaluator import evaluate_model, reference_logits
from ramp_edge.events import EventBus
from ramp_edge.fold.apply import FoldedTensors, folded_moments
from ramp_edge.fold.plan import FoldPlan
from ramp_edge.model.architecture import architecture_facts
from ramp_edge.model.gguf_file import open_inventory
from ramp_edge.model.output_head import read_output_head
from ramp_edge.pipeline.emission import Emitter
from ramp_edge.pipeline.folded_model import FoldedModel
from ramp_edge.pipeline.model_source import find_model
from ramp_edge.quantize.table import Moments

Planner = Callable[..., Any]

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma3")


def logits(path: Path, random_plan: Planner, seed: int | None) -> torch.Tensor:
    """float32 logits of some tokens by the torch decoder, folded at random by `seed`."""
    inventory, tensors = open_inventory(path)
    facts = architecture_facts(inventory.architecture)
    assert facts is not None
    load = tensors.load_tensor
    if seed is not None:
        plan, groups = random_plan(inventory, seed)
        load = FoldedTensors(tensors, inventory, plan, groups).load_tensor
    model = DecoderModel(inventory, facts, load, torch.float32)
    tokens = np.random.default_rng(1).integers(0, inventory.hyper.vocab_size, (2, 24)).astype(np.int32)
    return model.logits(tokens)


@pytest.mark.hf
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_keeps_its_logits(family: str, converted: Callable[[str], Path], random_plan: Planner) -> None:
    """Biases (Qwen 2), norms on q and k (Qwen 3), norms after layers (Gemma 3), heads that share keys, tied or not."""
    path = converted(family)
    plain = logits(path, random_plan, None)
    for seed in (0, 1):
        folded = logits(path, random_plan, seed)
        error = float((folded - plain).abs().max() / plain.abs().max())
        assert error < 2e-5  # measured FAMILY_MEASURED at most


def test_an_untied_head_folds_with_its_norm(
    make_tiny_gguf: Callable[..., Path], tmp_path: Path, random_plan: Planner
) -> None:
    path = make_tiny_gguf(tmp_path / "untied.gguf", tied=False, dtype="f32")
    plain, folded = logits(path, random_plan, None), logits(path, random_plan, 0)
    assert float((folded - plain).abs().max() / plain.abs().max()) < 2e-5


def test_a_wrong_fold_shows(tiny_gguf: Path, random_plan: Planner) -> None:
    """The comparison is not blind: readers scaled without their producer give other logits."""
    inventory, tensors = open_inventory(tiny_gguf)
    facts = architecture_facts(inventory.architecture)
    plan, groups = random_plan(inventory)
    folded = FoldedTensors(tensors, inventory, plan, groups)

    def load(name: str, first_row: int = 0, last_row: int | None = None) -> np.ndarray:
        source = tensors if name == "blk.1.ffn_norm.weight" else folded
        return source.load_tensor(name, first_row, last_row)

    assert facts is not None
    tokens = np.arange(24, dtype=np.int32)[None]
    plain = DecoderModel(inventory, facts, tensors.load_tensor, torch.float32).logits(tokens)
    wrong = DecoderModel(inventory, facts, load, torch.float32).logits(tokens)
    assert float((wrong - plain).abs().max() / plain.abs().max()) > 0.01


def test_a_folded_f16_file_is_the_same_model_to_libllama(tmp_path: Path, random_plan: Planner) -> None:
    """The embedded model: scaled, reordered, rounded to f16 again, and run by llama.cpp."""
    path = find_model(None, EventBus())
    inventory, tensors = open_inventory(path)
    plan, groups = random_plan(inventory)
    types = {t.name: QuantType.F16 for t in inventory.quantizable}
    out = tmp_path / "folded.gguf"
    with ThreadPoolExecutor(2) as pool:
        model = FoldedModel(tensors, inventory, plan, groups)
        unknown = Moments(site=lambda _: None, load=lambda _: np.eye(1, dtype=np.float32))
        Emitter(inventory, model, unknown, pool, EventBus()).write(out, types, {})
    tokens = np.random.default_rng(0).integers(0, inventory.hyper.vocab_size, 512).astype(np.int32)
    _, reference = reference_logits(
        path, tokens, n_ctx=256, n_windows=2, head=read_output_head(tensors), cache_dir=tmp_path,
        model_sha256=inventory.sha256,
    )  # fmt: skip
    result = evaluate_model(out, reference=reference)
    assert result.divergence is not None
    assert result.divergence.mean_kl < 1e-5  # measured KL_MEASURED
    assert out.read_bytes() != path.read_bytes()


def test_moments_of_the_folded_model_need_no_second_pass(tiny_gguf: Path, tmp_path: Path, random_plan: Planner) -> None:
    inventory, tensors = open_inventory(tiny_gguf)
    facts = architecture_facts(inventory.architecture)
    assert facts is not None
    tokens = np.random.default_rng(0).integers(0, inventory.hyper.vocab_size, (4, 64)).astype(np.int32)
    settings = CalibrationSettings(n_sequences=4, sequence_tokens=64, fisher_sequences=1, fisher_tokens=8)
    plan, groups = random_plan(inventory)
    stores = {}
    for name, load in (
        ("plain", tensors.load_tensor),
        ("folded", FoldedTensors(tensors, inventory, plan, groups).load_tensor),
    ):
        stores[name] = CalibrationStore(tmp_path / name)
        moments_pass(DecoderModel(inventory, facts, load, torch.float32), tokens, settings, stores[name], EventBus())
    transformed = folded_moments(stores["plain"].moments, plan, groups)
    for site in ("blk.1.attn_in", "blk.1.attn_out", "blk.1.ffn_in", "blk.1.ffn_down", "head"):
        found, truth = transformed(site), stores["folded"].moments(site)
        assert np.abs(found - truth).max() < 1e-4 * np.abs(truth).max(), site


def test_rows_come_as_of_the_whole_tensor(tiny_gguf: Path, random_plan: Planner) -> None:
    inventory, tensors = open_inventory(tiny_gguf)
    plan, groups = random_plan(inventory)
    folded = FoldedTensors(tensors, inventory, plan, groups)
    for tensor in inventory.quantizable:
        whole = folded.load_tensor(tensor.name)
        part = folded.load_tensor(tensor.name, 3, 9)
        assert (part == whole[3:9]).all(), tensor.name


def test_an_empty_plan_is_the_source(tiny_gguf: Path) -> None:
    inventory, tensors = open_inventory(tiny_gguf)
    plan = FoldPlan()
    assert not plan.changes_anything
    view = FoldedTensors(tensors, inventory, plan, ())
    for tensor in inventory.tensors:
        assert not view.changes(tensor.name)
        assert (view.raw(tensor.name) == tensors.raw(tensor.name)).all()
    moments = np.diag(np.arange(1, 5)).astype(np.float32)
    assert (folded_moments(lambda _: moments, plan, ())("blk.0.attn_in") == moments).all()
