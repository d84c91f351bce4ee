"""KL divergence against a plain numpy calculation, and the compact forms of the reference."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from ramp_edge.errors import EvaluationError
from ramp_edge.evaluate import evaluator
from ramp_edge.evaluate.divergence import summarize_divergence
from ramp_edge.evaluate.evaluator import evaluate_model, reference_logits, same_windows, tokenize_text
from ramp_edge.evaluate.llama import LlamaSession
from ramp_edge.evaluate.reference import HiddenReference, SparseReference
from ramp_edge.model.gguf_file import GgufTensors
from ramp_edge.model.output_head import read_output_head
from ramp_edge.records import OutputHead

Tokens = npt.NDArray[np.int32]
CTX = 64


def log_softmax(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    peak = logits.max(axis=1, keepdims=True)
    result: npt.NDArray[np.float64] = logits - peak - np.log(np.exp(logits - peak).sum(axis=1, keepdims=True))
    return result


def numpy_kl(reference: Path, other: Path, tokens: Tokens, n_windows: int) -> npt.NDArray[np.float64]:
    values = []
    with LlamaSession(reference, n_ctx=CTX, threads=1) as a, LlamaSession(other, n_ctx=CTX, threads=1) as b:
        for start in range(0, n_windows * CTX, CTX):
            window = tokens[start : start + CTX]
            a.clear()
            b.clear()
            log_p = log_softmax(a.logits(window, 0).astype(np.float64))[CTX // 2 : CTX - 1]
            log_q = log_softmax(b.logits(window, 0).astype(np.float64))[CTX // 2 : CTX - 1]
            # llama-perplexity leaves out reference probabilities of at most e^-16.
            terms = np.where(log_p > -16.0, np.exp(log_p) * (log_p - log_q), 0.0)
            values.append(terms.sum(axis=1))
    return np.concatenate(values)


def test_equals_the_definition_in_numpy(tiny_gguf: Path, coarse_gguf: Path, tokens: Tokens, head: OutputHead) -> None:
    _, reference = reference_logits(tiny_gguf, tokens, n_ctx=CTX, n_windows=3, head=head, threads=1)
    result = evaluate_model(coarse_gguf, reference=reference, threads=1)
    expected = numpy_kl(tiny_gguf, coarse_gguf, tokens, 3)
    assert result.divergence is not None
    assert expected.mean() > 0.01  # else the test could not fail
    assert result.divergence.n_tokens == len(expected)
    assert result.divergence.mean_kl == pytest.approx(expected.mean(), rel=1e-2)  # other batch shapes round otherwise
    assert result.divergence.median_kl == pytest.approx(np.median(expected), rel=5e-2)  # measured 1.5e-2


def test_a_model_does_not_differ_from_itself(tiny_gguf: Path, tokens: Tokens, head: OutputHead) -> None:
    first, reference = reference_logits(tiny_gguf, tokens, n_ctx=CTX, n_windows=2, head=head, threads=1)
    again = evaluate_model(tiny_gguf, reference=reference, threads=1)
    assert isinstance(reference.store, HiddenReference)
    assert again.divergence is not None
    assert abs(again.divergence.mean_kl) < 1e-7  # measured 5e-9
    assert again.divergence.top_token_agreement == 1.0
    assert again.perplexity == first.perplexity


@pytest.mark.parametrize(("dtype", "tied"), [("f16", True), ("f16", False), ("bf16", True), ("f32", False)])
def test_hidden_states_serve_every_float_head(
    dtype: str, tied: bool, tokens: Tokens, tmp_path: Path, make_tiny_gguf: object
) -> None:
    path = make_tiny_gguf(tmp_path / "m.gguf", dtype=dtype, tied=tied)  # type: ignore[operator]
    head = read_output_head(GgufTensors(path))
    _, reference = reference_logits(path, tokens, n_ctx=CTX, n_windows=1, head=head, threads=1)
    assert isinstance(reference.store, HiddenReference)


def test_a_wrong_head_is_noticed(tiny_gguf: Path, tokens: Tokens, tmp_path: Path, make_tiny_gguf: object) -> None:
    other = make_tiny_gguf(tmp_path / "other.gguf", seed=5)  # type: ignore[operator]
    head = read_output_head(GgufTensors(other))
    _, reference = reference_logits(tiny_gguf, tokens, n_ctx=CTX, n_windows=1, head=head, threads=1)
    assert isinstance(reference.store, SparseReference)


def test_a_quantized_reference_falls_back_to_probable_tokens(coarse_gguf: Path, tokens: Tokens) -> None:
    assert read_output_head(GgufTensors(coarse_gguf)) is None
    _, reference = reference_logits(coarse_gguf, tokens, n_ctx=CTX, n_windows=1, threads=1)
    again = evaluate_model(coarse_gguf, reference=reference, threads=1)
    assert again.divergence is not None
    assert abs(again.divergence.mean_kl) < 1e-5


def test_both_forms_agree(tiny_gguf: Path, coarse_gguf: Path, tokens: Tokens, head: OutputHead) -> None:
    results = [
        evaluate_model(
            coarse_gguf,
            reference=reference_logits(tiny_gguf, tokens, n_ctx=CTX, n_windows=2, head=h, threads=1)[1],
            threads=1,
        ).divergence
        for h in (head, None)
    ]
    assert results[0] is not None and results[1] is not None
    assert results[1].mean_kl == pytest.approx(results[0].mean_kl, rel=0.02)  # the bucket understates a little
    assert results[1].top_token_agreement == results[0].top_token_agreement


def test_fewer_windows_of_a_reference(tiny_gguf: Path, coarse_gguf: Path, tokens: Tokens, head: OutputHead) -> None:
    _, reference = reference_logits(tiny_gguf, tokens, n_ctx=CTX, n_windows=3, head=head, threads=1)
    _, short = reference_logits(tiny_gguf, tokens, n_ctx=CTX, n_windows=1, head=head, threads=1)
    cut = evaluate_model(coarse_gguf, reference=same_windows(reference, 1), threads=1)
    assert cut.divergence == evaluate_model(coarse_gguf, reference=short, threads=1).divergence


def test_the_cache_spares_the_second_run(
    tiny_gguf: Path,
    coarse_gguf: Path,
    tokens: Tokens,
    head: OutputHead,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def run(ids: Tokens) -> tuple[evaluator.EvaluationResult, evaluator.ReferenceLogits]:
        return reference_logits(
            tiny_gguf, ids, n_ctx=CTX, n_windows=2, head=head, cache_dir=tmp_path, model_sha256="ab", threads=1
        )

    result, reference = run(tokens)
    expected = evaluate_model(coarse_gguf, reference=reference, threads=1).divergence
    [stored] = tmp_path.iterdir()
    assert stored.stat().st_size < 2 * reference.stored_bytes

    class Forbidden:
        def __init__(self, *_: object, **__: object) -> None:
            raise AssertionError("the model ran although the cache has its numbers")

    with monkeypatch.context() as patch:
        patch.setattr(evaluator, "LlamaSession", Forbidden)
        again, loaded = run(tokens)
        with pytest.raises(AssertionError, match="ran although"):
            run(tokens[1:])  # other tokens, other key
    assert again.perplexity == result.perplexity
    assert evaluate_model(coarse_gguf, reference=loaded, threads=1).divergence == expected


@pytest.mark.parametrize("damage", [b"", b"not a zip file at all"])
def test_a_damaged_cache_is_made_again(
    tiny_gguf: Path, tokens: Tokens, head: OutputHead, tmp_path: Path, damage: bytes
) -> None:
    def run() -> float:
        return reference_logits(
            tiny_gguf, tokens, n_ctx=CTX, n_windows=1, head=head, cache_dir=tmp_path, model_sha256="ab", threads=1
        )[0].perplexity.value

    value = run()
    [stored] = tmp_path.iterdir()
    stored.write_bytes(damage)
    assert run() == value
    assert [p.name for p in tmp_path.iterdir()] == [stored.name]
    assert stored.stat().st_size > len(damage)


def test_another_vocabulary_is_refused(tokens: Tokens, tiny_gguf: Path, coarse_gguf: Path, head: OutputHead) -> None:
    _, reference = reference_logits(tiny_gguf, tokens, n_ctx=CTX, n_windows=1, head=None, threads=1)
    store = reference.store
    assert isinstance(store, SparseReference)
    foreign = SparseReference(
        offsets=store.offsets, tokens=store.tokens, log_probabilities=store.log_probabilities, n_vocab=store.n_vocab + 1
    )
    with pytest.raises(EvaluationError, match="vocabulary of"):
        evaluate_model(
            coarse_gguf, reference=evaluator.ReferenceLogits(plan=reference.plan, nll=reference.nll, store=foreign)
        )


def test_nan_weights_are_named(tmp_path: Path, text: str, make_tiny_gguf: object) -> None:
    def poison(weights: dict[str, npt.NDArray[np.float32]]) -> None:
        weights["output_norm.weight"][3] = math.nan

    path = make_tiny_gguf(tmp_path / "nan.gguf", edit=poison)  # type: ignore[operator]
    with pytest.raises(EvaluationError, match="not finite"):
        evaluate_model(path, tokenize_text(path, text), n_ctx=CTX, n_windows=1, threads=1)


def test_summary_of_known_values() -> None:
    kl = np.arange(1, 102, dtype=np.float64)
    summary = summarize_divergence(kl, kl > 26)
    assert (summary.mean_kl, summary.median_kl, summary.p99_kl) == (51.0, 51.0, 100.0)
    assert summary.top_token_agreement == pytest.approx(75 / 101)
    assert summary.std_error == pytest.approx(kl.std() / math.sqrt(100))
