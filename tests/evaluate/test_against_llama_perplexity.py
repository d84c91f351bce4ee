"""The evaluator against llama.cpp's own `llama-perplexity`."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from ramp_edge.evaluate.evaluator import evaluate_model, read_text, reference_logits, tokenize_text
from ramp_edge.records import OutputHead

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def llama_tools() -> ModuleType:
    spec = importlib.util.spec_from_file_location("llama_tools", REPOSITORY / "tools" / "comparison" / "llama_tools.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["llama_tools"] = module
    spec.loader.exec_module(module)
    return module


def test_perplexity_and_divergence_agree(
    llama_bin: Path,
    llama_tools: ModuleType,
    tiny_gguf: Path,
    coarse_gguf: Path,
    head: OutputHead,
    text: str,
    tmp_path: Path,
) -> None:
    file = tmp_path / "text.txt"
    file.write_text(text + "\n", encoding="utf-8")
    tools = llama_tools.LlamaTools(folder=llama_bin, threads=1)
    base = tmp_path / "kl.base"
    theirs = tools.perplexity(tiny_gguf, file, n_ctx=256, windows=4, base=base, log=tmp_path / "reference.log")
    theirs_coarse = tools.divergence(coarse_gguf, n_ctx=256, base=base, log=tmp_path / "coarse.log")

    tokens = tokenize_text(tiny_gguf, read_text(file))
    ours, reference = reference_logits(tiny_gguf, tokens, n_ctx=256, n_windows=4, head=head, threads=1)
    ours_coarse = evaluate_model(coarse_gguf, reference=reference, threads=1)

    assert ours.perplexity.value == pytest.approx(theirs.ppl, rel=1e-4)
    assert ours.perplexity.std_error == pytest.approx(theirs.ppl_std_error, rel=1e-3)
    assert ours_coarse.divergence is not None
    assert ours_coarse.perplexity.value == pytest.approx(theirs_coarse.ppl, rel=5e-4)
    assert ours_coarse.divergence.mean_kl == pytest.approx(theirs_coarse.mean_kl, rel=5e-3)
    assert abs(ours_coarse.divergence.mean_kl - theirs_coarse.mean_kl) < theirs_coarse.kl_std_error
    assert ours_coarse.divergence.std_error == pytest.approx(theirs_coarse.kl_std_error, rel=1e-2)
    assert ours_coarse.divergence.top_token_agreement == pytest.approx(theirs_coarse.same_top, abs=0.01)
