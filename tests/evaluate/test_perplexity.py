"""The definition of perplexity, checked against a plain numpy calculation from the raw logits."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ramp_edge.errors import CalibrationError
from ramp_edge.evaluate.evaluator import evaluate_model
from ramp_edge.evaluate.llama import LlamaSession
from ramp_edge.evaluate.perplexity import mean_and_std_error, plan_windows, scored_pieces

Tokens = npt.NDArray[np.int32]


def window_logits(path: Path, window: Tokens) -> npt.NDArray[np.float64]:
    """Logits after every token of one window, from a single decode call: [n_ctx, n_vocab]."""
    with LlamaSession(path, n_ctx=len(window), threads=1) as session:
        return session.logits(window, 0).astype(np.float64)


def log_softmax(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    peak = logits.max(axis=1, keepdims=True)
    result: npt.NDArray[np.float64] = logits - peak - np.log(np.exp(logits - peak).sum(axis=1, keepdims=True))
    return result


@pytest.mark.parametrize("n_ctx", [64, 96])
def test_equals_the_definition_in_numpy(tiny_gguf: Path, tokens: Tokens, n_ctx: int) -> None:
    result = evaluate_model(tiny_gguf, tokens, n_ctx=n_ctx, n_windows=3, threads=1)
    nll: list[float] = []
    for start in range(0, 3 * n_ctx, n_ctx):
        log_p = log_softmax(window_logits(tiny_gguf, tokens[start : start + n_ctx]))
        # Scored: predictions made at n_ctx/2 .. n_ctx-2, of the token after each.
        nll += [-log_p[i, tokens[start + i + 1]] for i in range(n_ctx // 2, n_ctx - 1)]
    mean = sum(nll) / len(nll)
    variance = sum(v * v for v in nll) / len(nll) - mean * mean
    expected = math.exp(mean)
    assert result.perplexity.n_tokens == len(nll) == 3 * (n_ctx - 1 - n_ctx // 2)
    # Other batch shapes round activations to F16 elsewhere: measured 2e-6 to 1.1e-4 of the logarithm.
    assert math.log(result.perplexity.value) == pytest.approx(mean, rel=1e-3)
    assert result.perplexity.std_error == pytest.approx(expected * math.sqrt(variance / (len(nll) - 1)), rel=5e-3)
    assert result.divergence is None
    assert result.file_bytes == tiny_gguf.stat().st_size


def test_all_full_windows_are_used_and_more_cannot_be(tokens: Tokens) -> None:
    assert plan_windows(tokens[:200], n_ctx=64, n_windows=None).n_windows == 3
    assert plan_windows(tokens[:200], n_ctx=64, n_windows=9).n_windows == 3
    assert plan_windows(tokens[:200], n_ctx=64, n_windows=2).n_windows == 2


def test_a_text_of_less_than_one_window_is_refused(tokens: Tokens) -> None:
    with pytest.raises(CalibrationError, match=r"has 10 tokens, one window needs 64"):
        plan_windows(tokens[:10], n_ctx=64, n_windows=None)


class _RecordingSession:
    """Stands in for libllama and keeps what it is fed."""

    threads_fixed = True
    with_hidden = False
    add_bos = True
    bos = 7
    max_outputs = 3

    def __init__(self) -> None:
        self.fed: list[tuple[int, list[int]]] = []

    def clear(self) -> None:
        self.fed.append((-1, []))

    def feed(self, tokens: Tokens, start: int) -> None:
        self.fed.append((start, tokens.tolist()))

    def logits(self, tokens: Tokens, start: int) -> npt.NDArray[np.float32]:
        self.fed.append((start, tokens.tolist()))
        return np.zeros((len(tokens), 4), dtype=np.float32)


def test_bos_replaces_the_first_token_and_pieces_cover_the_second_half() -> None:
    session: Any = _RecordingSession()
    plan = plan_windows(np.arange(100, 120, dtype=np.int32), n_ctx=10, n_windows=2)
    pieces = list(scored_pieces(session, plan))
    assert session.fed[:4] == [(-1, []), (0, [7, 101, 102, 103, 104]), (5, [105, 106, 107]), (8, [108])]
    assert session.fed[4:6] == [(-1, []), (0, [7, 111, 112, 113, 114])]
    assert [p.start for p in pieces] == [0, 3, 4, 7]
    assert [p.targets.tolist() for p in pieces] == [[106, 107, 108], [109], [116, 117, 118], [119]]
    assert [p.ends_window for p in pieces] == [False, True, False, True]


def test_std_error_divides_by_n_minus_one() -> None:
    mean, std_error = mean_and_std_error(np.array([1.0, 2.0, 3.0, 6.0]))
    assert mean == 3.0
    assert std_error == pytest.approx(math.sqrt(3.5 / 3))  # population variance 3.5 over n - 1
    assert mean_and_std_error(np.array([2.0])) == (2.0, 0.0)
