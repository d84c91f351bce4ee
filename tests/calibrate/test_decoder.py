"""Our forward pass against libllama, family by family."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ramp_edge.calibrate.decoder import DecoderModel, attention_scale, fast_dtype
from ramp_edge.errors import UnsupportedModelError

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma3")
KL_BOUND = 4e-6
"""Measured 3.3e-7 to 3.9e-7 for the five families: libllama keeps keys and values in f16."""


def mean_kl(reference: Any, logits: torch.Tensor) -> float:
    """KL per position in nats, of [n, vocab] logits."""
    p = torch.from_numpy(reference).double().log_softmax(-1)
    return float((p.exp() * (p - logits.double().log_softmax(-1))).sum(-1).mean())


@pytest.mark.hf
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_equal_libllama(family: str, converted: Callable[[str], Path], decoders: Any) -> None:
    path = converted(family)
    model = decoders.open(path)
    # Longer than Gemma's window of 32, so that its mask matters.
    tokens = decoders.tokens(model, 1, 160)
    reference = decoders.libllama_logits(path, tokens[0])
    ours = model.logits(tokens)[0]
    assert mean_kl(reference, ours) < KL_BOUND
    # The bound means something: the same logits one position off are far away.
    assert mean_kl(reference[1:], ours[:-1]) > 0.1  # measured 0.59 to 0.81


def test_tied_gguf_equals_libllama(tiny_gguf: Path, decoders: Any) -> None:
    model = decoders.open(tiny_gguf)
    tokens = decoders.tokens(model, 1, 128)
    assert mean_kl(decoders.libllama_logits(tiny_gguf, tokens[0]), model.logits(tokens)[0]) < 4e-5  # measured 4.0e-6


def test_rope_factors_and_linear_scaling(
    tiny_gguf: Path, rewrite_gguf: Callable[..., Path], tmp_path: Path, decoders: Any
) -> None:
    plain = decoders.open(tiny_gguf)
    half = plain.inventory.hyper.rope_dim // 2
    path = rewrite_gguf(
        tiny_gguf,
        tmp_path / "scaled.gguf",
        {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0},
        {"rope_freqs.weight": np.linspace(1, 8, half, dtype=np.float32)},
    )
    model = decoders.open(path)
    tokens = decoders.tokens(model, 1, 128)
    reference = decoders.libllama_logits(path, tokens[0])
    assert mean_kl(reference, model.logits(tokens)[0]) < 1e-4
    assert mean_kl(reference, plain.logits(tokens)[0]) > 1e-2


def test_bfloat16_stays_close(tiny_gguf: Path, decoders: Any) -> None:
    exact, fast = decoders.open(tiny_gguf), decoders.open(tiny_gguf, torch.bfloat16)
    tokens = decoders.tokens(exact, 2, 64)
    assert mean_kl(exact.logits(tokens)[0].numpy(), fast.logits(tokens)[0]) < 5e-3  # measured 7.6e-4


def test_positions_see_only_the_past(tiny_gguf: Path, decoders: Any) -> None:
    model = decoders.open(tiny_gguf)
    tokens = decoders.tokens(model, 1, 48)
    changed = tokens.copy()
    changed[0, 32:] = 0
    before, after = model.logits(tokens)[0], model.logits(changed)[0]
    torch.testing.assert_close(before[:32], after[:32], rtol=1e-5, atol=1e-4)
    assert not torch.allclose(before[32:], after[32:], atol=1e-2)


def test_taps_hand_out_every_linear_layer(tiny_gguf: Path, decoders: Any) -> None:
    model = decoders.open(tiny_gguf)
    seen: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    hidden = model.embed(decoders.tokens(model, 2, 16))
    with torch.no_grad():
        model.layer(1).forward(hidden, lambda name, x, y: seen.__setitem__(name, (x, y)))
    wanted = {t.name for t in model.inventory.quantizable if t.layer == 1}
    assert set(seen) == wanted
    for name, (x, y) in seen.items():
        torch.testing.assert_close(x @ model.as_tensor(name, None).T, y, rtol=1e-4, atol=1e-4)


def test_embedding_rows_and_scale(converted: Callable[[str], Path], decoders: Any) -> None:
    model = decoders.open(converted("gemma3"))
    tokens = np.array([[5, 9, 5]], dtype=np.int32)
    rows = model.as_tensor("token_embd.weight", None)[[5, 9, 5]]
    torch.testing.assert_close(model.embed(tokens)[0], rows * model.inventory.hyper.n_embd**0.5)


def test_attention_scale_of_gemma_27b(converted: Callable[[str], Path], decoders: Any) -> None:
    from dataclasses import replace

    model = decoders.open(converted("gemma3"))
    hyper = model.inventory.hyper
    assert attention_scale(hyper, model.facts) == pytest.approx(hyper.head_dim_k**-0.5)
    large = replace(hyper, n_layer=62, n_embd=5376, n_head=32, head_dim_k=128)
    assert attention_scale(large, model.facts) == pytest.approx(168**-0.5)


def test_unknown_tensors_are_named(
    tiny_gguf: Path, rewrite_gguf: Callable[..., Path], tmp_path: Path, decoders: Any
) -> None:
    extra = {"blk.1.attn_sub_norm.weight": np.ones(256, dtype=np.float32)}
    path = rewrite_gguf(tiny_gguf, tmp_path / "extra.gguf", {}, extra)
    with pytest.raises(UnsupportedModelError, match=r"1 tensors .*blk\.1\.attn_sub_norm\.weight"):
        decoders.open(path)


def test_a_layer_is_all_that_is_held(tiny_gguf: Path, decoders: Any) -> None:
    loaded: list[str] = []
    model = decoders.open(tiny_gguf)
    inner = model._load
    watched = DecoderModel(
        model.inventory, model.facts, lambda name, *rows: (loaded.append(name), inner(name, *rows))[1]
    )
    assert watched.dtype is fast_dtype()
    assert loaded == ["output_norm.weight"]
    watched.layer(0)
    assert {name.split(".")[1] for name in loaded[1:]} == {"0"}
