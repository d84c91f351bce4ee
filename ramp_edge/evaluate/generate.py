"""Text generation in process: the build's sample, the check that a written file runs, and `ramp-edge run`."""

from __future__ import annotations

import codecs
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ramp_edge.errors import EvaluationError, UsageError
from ramp_edge.evaluate.llama import Float32, LlamaSession, LlamaVocabulary, Tokens, as_tokens
from ramp_edge.threads import ThreadChoice, default_threads

_MIN_P = 0.05
"""Tokens below this share of the best one's probability are never sampled (llama.cpp's default)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Generation:
    """A continuation and how long it took."""

    text: str
    """Without the prompt."""
    prompt_tokens: int
    generated_tokens: int
    prefill_s: float
    decode_s: float
    """Seconds after the first new token."""
    full_context: int | None = None
    """The model's context in tokens, where that ended the text before the number that was asked for."""

    @property
    def prefill_tok_s(self) -> float:
        return self.prompt_tokens / self.prefill_s if self.prefill_s > 0 else 0.0

    @property
    def decode_tok_s(self) -> float:
        return (self.generated_tokens - 1) / self.decode_s if self.decode_s > 0 else 0.0


def generate(
    path: Path, prompt: str, *, n_tokens: int = 64, seed: int = 0, temperature: float = 0.0, threads: int | None = None
) -> str:
    """Continue `prompt` by at most `n_tokens` tokens; temperature 0 takes the most probable token each time."""
    return continue_text(path, prompt, n_tokens=n_tokens, seed=seed, temperature=temperature, threads=threads).text


def continue_text(
    path: Path,
    prompt: str,
    *,
    n_tokens: int = 64,
    seed: int = 0,
    temperature: float = 0.0,
    threads: int | None = None,
    on_text: Callable[[str], None] | None = None,
) -> Generation:
    """Continue `prompt`, handing each piece of text to `on_text` as it comes.

    Stops at the model's end token or where its context is full. Raises UsageError for a prompt that is empty, not
    UTF-8 or longer than the context, EvaluationError where the model does not load or run.
    """
    if n_tokens < 1 or not 0.0 <= temperature < 100.0:
        raise UsageError(f"{n_tokens} tokens at temperature {temperature:g} cannot be generated")
    _check_encoding(prompt)
    ids = _prompt_tokens(path, prompt)
    rng = np.random.default_rng(seed)
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    pieces: list[str] = []
    with LlamaSession(path, n_ctx=len(ids) + n_tokens, cut_to_model=True, max_outputs=1, threads=threads) as session:
        if len(ids) >= session.n_ctx:
            raise UsageError(f"the prompt has {len(ids)} tokens, the context of {path.name} {session.n_ctx}")
        choice = None if session.threads_fixed else ThreadChoice(default_threads())
        start_s = time.perf_counter()
        logits = session.last_logits(ids, 0)
        first_s = time.perf_counter()
        position, n_generated = len(ids), 0
        full_context: int | None = None
        while True:
            token = pick_token(logits, temperature, rng, path)
            if session.is_end(token):
                break
            n_generated += 1
            text = decoder.decode(session.piece(token), final=False)
            pieces.append(text)
            if on_text is not None and text:
                on_text(text)
            if n_generated == session.n_ctx - len(ids):
                full_context = session.n_ctx if n_generated < n_tokens else None
                break
            if choice is not None:
                session.set_threads(choice.threads)
            step_s = time.perf_counter()
            logits = session.last_logits(as_tokens([token]), position)
            if choice is not None:
                choice.report(time.perf_counter() - step_s)
            position += 1
        end_s = time.perf_counter()
    return Generation(
        text="".join(pieces),
        prompt_tokens=len(ids),
        generated_tokens=n_generated,
        prefill_s=first_s - start_s,
        decode_s=end_s - first_s,
        full_context=full_context,
    )


def _check_encoding(prompt: str) -> None:
    """Bytes of a command line that are not UTF-8 reach python as lone surrogates."""
    try:
        prompt.encode("utf-8")
    except UnicodeEncodeError as error:
        byte = ord(prompt[error.start]) & 0xFF
        raise UsageError(
            f"the prompt is not UTF-8: byte 0x{byte:02x} at character {error.start + 1}",
            hint="give it as UTF-8 text; a terminal or script in another encoding sends other bytes",
        ) from None


def _prompt_tokens(path: Path, prompt: str) -> Tokens:
    with LlamaVocabulary(path) as vocabulary:
        ids = vocabulary.tokenize(prompt)
        if len(ids) == 0 and vocabulary.bos >= 0:
            return as_tokens([vocabulary.bos])
    if len(ids) == 0:
        raise UsageError("the prompt is empty and the model has no token that begins a text", hint="give a prompt")
    return ids


def pick_token(logits: Float32, temperature: float, rng: np.random.Generator, path: Path) -> int:
    """One token from logits [n_vocab]: the best at temperature 0, else sampled among those not far below the best."""
    best = int(logits.argmax())
    if not np.isfinite(logits[best]):
        raise EvaluationError(f"{path.name} gives logits that are not finite", hint="the file holds damaged weights")
    if temperature == 0.0:
        return best
    below = logits.astype(np.float64) - float(logits[best])
    ratios = np.where(below < np.log(_MIN_P), 0.0, np.exp(below / temperature))
    cumulative = np.cumsum(ratios)
    return int(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right"))
