"""Generation in process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ramp_edge.errors import EvaluationError, UsageError
from ramp_edge.evaluate.generate import continue_text, generate, pick_token


def test_the_same_seed_gives_the_same_text(tiny_gguf: Path) -> None:
    def text(seed: int, temperature: float) -> str:
        return generate(tiny_gguf, "the board", n_tokens=12, seed=seed, temperature=temperature, threads=1)

    assert text(1, 1.5) == text(1, 1.5)
    assert len({text(seed, 1.5) for seed in range(4)}) > 1
    assert text(0, 0.0) == text(9, 0.0)


def test_pieces_join_to_the_text(tiny_gguf: Path) -> None:
    pieces: list[str] = []
    result = continue_text(tiny_gguf, "the board", n_tokens=10, temperature=1.0, on_text=pieces.append)
    assert "".join(pieces) == result.text
    assert 1 <= result.generated_tokens <= 10
    assert result.prompt_tokens > 0 and result.prefill_tok_s > 0 and result.decode_tok_s > 0


def test_generation_ends_where_the_context_is_full(tiny_gguf: Path) -> None:
    prompt = "the board " * 230
    result = continue_text(tiny_gguf, prompt, n_tokens=100_000, threads=1)
    assert result.prompt_tokens + result.generated_tokens <= 512
    assert result.full_context == 512
    assert continue_text(tiny_gguf, prompt, n_tokens=1, threads=1).full_context is None
    exactly = continue_text(tiny_gguf, prompt, n_tokens=512 - result.prompt_tokens, threads=1)
    assert exactly.full_context is None, "nothing was cut off"
    with pytest.raises(UsageError, match="the context of"):
        continue_text(tiny_gguf, "rain and apples " * 2000, n_tokens=5)


def test_a_prompt_that_is_not_utf8(tiny_gguf: Path) -> None:
    with pytest.raises(UsageError, match="not UTF-8: byte 0xff at character 2"):
        continue_text(tiny_gguf, b"a\xff b".decode("utf-8", "surrogateescape"), n_tokens=3)


def test_an_empty_prompt_begins_a_text(tiny_gguf: Path) -> None:
    assert continue_text(tiny_gguf, "", n_tokens=3, threads=1).prompt_tokens == 1


@pytest.mark.parametrize(("n_tokens", "temperature"), [(0, 0.0), (5, -1.0), (5, float("nan"))])
def test_senseless_settings(tiny_gguf: Path, n_tokens: int, temperature: float) -> None:
    with pytest.raises(UsageError):
        continue_text(tiny_gguf, "x", n_tokens=n_tokens, temperature=temperature)


def test_sampling_follows_the_probabilities() -> None:
    # Shares 2/3 and 1/3; the third token lies below the floor of 5 % of the best and never comes.
    logits = np.log(np.array([0.64, 0.32, 0.03], dtype=np.float32))
    rng = np.random.default_rng(0)
    picks = np.bincount([pick_token(logits, 1.0, rng, Path("m")) for _ in range(3000)], minlength=3)
    assert picks[2] == 0
    assert picks[0] / 3000 == pytest.approx(2 / 3, abs=0.03)
    assert pick_token(logits, 0.0, rng, Path("m")) == 0
    with pytest.raises(EvaluationError, match="not finite"):
        pick_token(np.array([np.nan, 1.0], dtype=np.float32), 0.0, rng, Path("m"))
