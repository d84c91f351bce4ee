"""Every family end to end: Hugging Face directory -> llama.cpp's converter -> inventory -> our forward pass = libllama's."""

from __future__ import annotations

import dataclasses
import re
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from ramp_edge.calibrate.decoder import DecoderModel
from ramp_edge.model.architecture import architecture_facts
from ramp_edge.model.gguf_file import GgufTensors, check_finite, open_inventory
from ramp_edge.records import ArchitectureFacts, ModelInventory, Role

pytestmark = pytest.mark.hf

Convert = Callable[[str], Path]
FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma3")
N_TOKENS = 160
KL_BOUND = 1e-5  # measured 3.3e-7 to 4.1e-7: libllama multiplies in float16, we in float32
NOTICED = 1e-3  # least KL when one fact about the family is wrong; measured 6.2e-3 and more


def libllama_log_probs(path: Path, tokens: list[int]) -> torch.Tensor:
    import llama_cpp

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = llama_cpp.Llama(str(path), n_ctx=256, logits_all=True, verbose=False, n_threads=2)
        model.eval(tokens)
        scores = torch.from_numpy(np.array(model.scores[: len(tokens)])).float()
        model.close()
    return scores.log_softmax(-1)


def mean_kl(
    reference: torch.Tensor, inventory: ModelInventory, facts: ArchitectureFacts, tensors: GgufTensors
) -> float:
    decoder = DecoderModel(inventory, facts, tensors.load_tensor, torch.float32)
    logits = decoder.logits(np.array([sample_tokens()], dtype=np.int32))[0].log_softmax(-1)
    return float((reference.exp() * (reference - logits)).sum(-1).mean())


def sample_tokens() -> list[int]:
    return [1, *np.random.default_rng(2).integers(260, 384, N_TOKENS - 1).tolist()]


@pytest.mark.parametrize("family", FAMILIES)
def test_inventory(family: str, converted: Convert) -> None:
    inventory, tensors = open_inventory(converted(family))
    assert inventory.architecture == {"mistral": "llama"}.get(family, family)
    assert inventory.tied_embedding == (family in ("qwen2", "qwen3", "gemma3"))
    hyper = inventory.hyper
    assert (hyper.n_layer, hyper.n_embd, hyper.n_ff) == (7 if family == "gemma3" else 2, 256, 512)
    assert (hyper.n_head, hyper.n_head_kv, hyper.context_length) == (4, 2, 512)
    assert hyper.head_dim_k == (128 if family == "qwen3" else 64)
    names = {t.name for t in inventory.tensors}
    assert ("blk.0.attn_q_norm.weight" in names) == (family in ("qwen3", "gemma3"))
    assert ("blk.0.attn_q.bias" in names) == (family == "qwen2")
    assert ("blk.0.post_ffw_norm.weight" in names) == (family == "gemma3")
    assert all(t.role is not Role.OTHER for t in inventory.tensors)
    assert all(t.source_type.name == "F16" for t in inventory.quantizable)
    if family == "gemma3":
        assert hyper.sliding_window == 32 and hyper.swa_layers == (True,) * 5 + (False, True)
    check_finite(tensors, inventory)


@pytest.mark.parametrize("family", FAMILIES)
def test_forward_pass_equals_libllamas(family: str, converted: Convert) -> None:
    inventory, tensors = open_inventory(converted(family))
    facts = architecture_facts(inventory.architecture)
    assert facts is not None
    reference = libllama_log_probs(inventory.path, sample_tokens())
    assert mean_kl(reference, inventory, facts, tensors) < KL_BOUND


def _wrong_facts(
    facts: ArchitectureFacts, inventory: ModelInventory
) -> dict[str, tuple[ArchitectureFacts, ModelInventory]]:
    """One mistake each."""
    wrong = {"rope style": (dataclasses.replace(facts, rope_neox=not facts.rope_neox), inventory)}
    hyper = inventory.hyper
    if facts.name == "gemma3":
        for field in ("gelu", "scaled_embedding", "post_norms"):
            wrong[field] = (dataclasses.replace(facts, **{field: False}), inventory)
        full = dataclasses.replace(hyper, swa_layers=(False,) * hyper.n_layer)
        wrong["no window"] = (facts, dataclasses.replace(inventory, hyper=full))
        base = dataclasses.replace(hyper, rope_base_swa=hyper.rope_base)
        wrong["one rope base"] = (facts, dataclasses.replace(inventory, hyper=base))
    for part in ("attn_q_norm.weight", "attn_q.bias"):
        if any(t.name.endswith(part) for t in inventory.tensors):
            kept = tuple(t for t in inventory.tensors if not t.name.endswith(part))
            wrong[f"no {part}"] = (facts, dataclasses.replace(inventory, tensors=kept))
    return wrong


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gemma3"])
def test_the_comparison_notices_one_wrong_fact(family: str, converted: Convert) -> None:
    inventory, tensors = open_inventory(converted(family))
    facts = architecture_facts(inventory.architecture)
    assert facts is not None
    reference = libllama_log_probs(inventory.path, sample_tokens())
    kls = {
        name: mean_kl(reference, changed, wrong, tensors)
        for name, (wrong, changed) in _wrong_facts(facts, inventory).items()
    }
    assert all(kl > NOTICED for kl in kls.values()), kls


def test_conversion_is_cached_and_leaves_nothing_half_done(
    tiny_hf_model: Callable[[str], Path], converter_source: Path, tmp_path: Path
) -> None:
    from ramp_edge.events import EventBus
    from ramp_edge.model.converter import convert_hf

    events = EventBus()
    first = convert_hf(tiny_hf_model("llama"), converter_source=converter_source, cache=tmp_path, events=events)
    stamp = first.stat().st_mtime_ns
    again = convert_hf(tiny_hf_model("llama"), converter_source=converter_source, cache=tmp_path, events=EventBus())
    assert again == first and first.stat().st_mtime_ns == stamp
    assert [p.name for p in (tmp_path / "converted").iterdir()] == [first.name]
    assert re.fullmatch(r"hf-llama\d+-[0-9a-f]{16}\.gguf", first.name)
    assert "convert the Hugging Face model" in events.stage_seconds
