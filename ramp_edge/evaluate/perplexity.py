"""Perplexity as llama.cpp's `llama-perplexity` defines it (tools/perplexity/perplexity.cpp at the pinned version).

The text is cut into windows of `n_ctx` tokens without overlap. Where the tokenizer adds a BOS, it replaces each
window's first token. Scored are the predictions made at positions n_ctx/2 ... n_ctx-2, so that each has at
least half a window of context.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ramp_edge.errors import CalibrationError
from ramp_edge.evaluate.llama import Float32, LlamaSession, Tokens
from ramp_edge.records import Perplexity
from ramp_edge.threads import ThreadChoice, default_threads

if TYPE_CHECKING:
    import torch

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class WindowPlan:
    """Which tokens are read and scored."""

    tokens: Tokens
    """int32 [n_windows, n_ctx], BOS not yet in place."""

    @property
    def n_windows(self) -> int:
        return int(self.tokens.shape[0])

    @property
    def n_ctx(self) -> int:
        return int(self.tokens.shape[1])

    @property
    def first_scored(self) -> int:
        """Position of the first scored prediction."""
        return self.n_ctx // 2

    @property
    def scored_per_window(self) -> int:
        return self.n_ctx - 1 - self.first_scored

    @property
    def n_scored(self) -> int:
        return self.n_windows * self.scored_per_window


def plan_windows(tokens: Tokens, *, n_ctx: int, n_windows: int | None) -> WindowPlan:
    """The first `n_windows` windows (None: all that are full). Raises CalibrationError without one full window."""
    if n_ctx < 4:
        raise ValueError(f"a window of {n_ctx} tokens has nothing to score")
    available = len(tokens) // n_ctx
    if available == 0:
        raise CalibrationError(
            f"the evaluation text has {len(tokens)} tokens, one window needs {n_ctx}",
            hint="give more text or a smaller window",
        )
    used = available if n_windows is None else min(n_windows, available)
    if used < 1:
        raise ValueError(f"{n_windows} windows cannot be scored")
    return WindowPlan(tokens=tokens[: used * n_ctx].reshape(used, n_ctx))


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredPiece:
    """Consecutive scored positions of one window, as many as one decode call may output."""

    start: int
    """Index of the first position among all scored positions of the plan."""
    logits: Float32
    """[n, n_vocab], valid until the next piece."""
    hidden: Float32 | None
    """[n, n_embd] where the session yields hidden states, valid until the next piece."""
    targets: Tokens
    """[n] the tokens that really follow."""
    ends_window: bool


def scored_pieces(session: LlamaSession, plan: WindowPlan) -> Iterator[ScoredPiece]:
    """Run the plan's windows through a session, yielding the scored logits piece by piece."""
    choice = None if session.threads_fixed else ThreadChoice(default_threads())
    for index, window in enumerate(plan.tokens):
        ids = window.copy()
        if session.add_bos:
            ids[0] = session.bos
        session.clear()
        if choice is not None:
            session.set_threads(choice.threads)
        start_s = time.perf_counter()
        session.feed(ids[: plan.first_scored], 0)
        if choice is not None:
            choice.report(time.perf_counter() - start_s)
        base = index * plan.scored_per_window - plan.first_scored
        for start in range(plan.first_scored, plan.n_ctx - 1, session.max_outputs):
            end = min(start + session.max_outputs, plan.n_ctx - 1)
            logits = session.logits(ids[start:end], start)
            yield ScoredPiece(
                start=base + start,
                logits=logits,
                hidden=session.hidden(end - start) if session.with_hidden else None,
                targets=window[start + 1 : end + 1],
                ends_window=end == plan.n_ctx - 1,
            )


def log_normalizers(logits: torch.Tensor) -> torch.Tensor:
    """log(sum(exp(logits))) of each row: float32 [n, n_vocab] -> float64 [n]."""
    import torch

    peak = logits.amax(dim=1, keepdim=True)
    # Sums in float64: a float32 sum over 262,144 terms loses digits that a small divergence needs.
    total = (logits - peak).exp_().sum(dim=1, dtype=torch.float64)
    return total.log_() + peak.squeeze(1).double()


def negative_log_likelihoods(logits: torch.Tensor, normalizers: torch.Tensor, targets: Tokens) -> Float64:
    """-log p(target) of each row, nats, float64 [n]."""
    import torch

    rows = torch.arange(len(targets))
    picked = logits[rows, torch.from_numpy(targets.astype(np.int64))].double()
    values: Float64 = (normalizers - picked).numpy()
    return values


def mean_and_std_error(values: Float64) -> tuple[float, float]:
    """Mean and its standard error, with llama.cpp's estimator (population variance over n - 1)."""
    mean = float(values.mean())
    variance = float((values * values).mean()) - mean * mean
    n = len(values)
    return mean, math.sqrt(variance / (n - 1)) if variance > 0 and n > 1 else 0.0


def summarize_perplexity(nll: Float64, *, n_windows: int) -> Perplexity:
    """Perplexity of per-token negative log-likelihoods [n_scored]."""
    mean, std_error = mean_and_std_error(nll)
    value = math.exp(mean)
    return Perplexity(value=value, std_error=value * std_error, n_tokens=len(nll), n_windows=n_windows)
