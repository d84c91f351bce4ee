"""The training loop: budget, rate schedule, optimizers, checkpoints that a run resumes from."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from embedded.corpus import Corpus
from embedded.export import export
from embedded.network import Network

EVAL_EVERY = 0.08
"""Share of the budget between two held-out figures of the curve."""
CURVE_TOKENS = 32_768
"""Held-out tokens of a figure of the curve; the final figure scores all of them."""
SHORT_WINDOW = 256
SPLIT_TOKENS = 4096
"""A batch goes through the network in parts of this size, so that the logits stay small."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What a run does; `minutes` and `tokens` are budgets (0 = none), the first that is spent ends it."""

    work_dir: Path
    name: str
    minutes: float
    tokens: int
    long_from: float
    batch_tokens: int
    rate: float
    seed: int
    bf16: bool
    note_seconds: float
    save_seconds: float


@dataclass(kw_only=True, slots=True)
class Progress:
    """How far a run is; travels in the checkpoint. `curve` holds (tokens seen, held-out perplexity)."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    next_eval: float = 0.0
    curve: list[list[float]] = field(default_factory=list)


def batch(stream: npt.NDArray[np.uint16], rng: np.random.Generator, rows: int, time_steps: int) -> Tensor:
    """Random windows [rows, time_steps + 1] of the token stream."""
    starts = rng.integers(0, len(stream) - time_steps - 1, rows)
    return torch.from_numpy(np.stack([stream[s : s + time_steps + 1] for s in starts]).astype(np.int64))


@torch.no_grad()
def held_out_loss(network: Network, stream: npt.NDArray[np.uint16], time_steps: int, limit_tokens: int) -> float:
    """Mean loss in nats over windows spread evenly over the stream, every position scored."""
    windows = max(1, min(limit_tokens, len(stream) - 1) // time_steps)
    starts = np.linspace(0, len(stream) - time_steps - 1, windows).astype(np.int64)
    total = 0.0
    for first in range(0, windows, 16):
        rows = np.stack([stream[s : s + time_steps + 1] for s in starts[first : first + 16]]).astype(np.int64)
        total += float(network.loss(torch.from_numpy(rows))) * len(rows)
    return total / windows


def unigram_perplexity(corpus: Corpus, vocab_size: int) -> float:
    """Perplexity of the held-out tokens under add-one unigram frequencies of the training tokens."""
    counts = np.bincount(corpus.train, minlength=vocab_size) + 1.0
    log_p = np.log(counts / counts.sum())
    return float(np.exp(-log_p[corpus.held_out].mean()))


class Trainer:
    """One run: `run()` spends what is left of the budget, saving as it goes."""

    def __init__(self, network: Network, corpus: Corpus, plan: Plan) -> None:
        self.network, self.corpus, self.plan = network, corpus, plan
        self.progress = Progress()
        named = list(network.named_parameters())
        # Embedding and head are tables of rows, not maps between spaces: Muon's orthogonal updates do not suit them.
        tables = ("token_embd.weight", "output.weight")
        matrices = [p for n, p in named if p.ndim == 2 and n not in tables]
        self.others = [p for n, p in named if p.ndim != 2 or n in tables]
        self.optimizers: list[torch.optim.Optimizer] = [
            torch.optim.Muon(matrices, lr=plan.rate, momentum=0.95, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(self.others, lr=plan.rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
        ]
        self._started = time.monotonic()

    @property
    def checkpoint(self) -> Path:
        return self.plan.work_dir / "checkpoint.pt"

    def resume(self) -> None:
        """Continue from the checkpoint of the work directory, or from nothing where there is none."""
        if not self.checkpoint.exists():
            return
        saved: dict[str, Any] = torch.load(self.checkpoint, weights_only=True)
        self.network.load_state_dict(saved["network"])
        for optimizer, values in zip(self.optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(values)
        self.progress = Progress(**saved["state"])

    def save(self) -> None:
        """Checkpoint and an export of the model as it is, each written beside and renamed."""
        self.progress.seconds = time.monotonic() - self._started
        partial = self.checkpoint.with_suffix(".partial")
        optimizers = [optimizer.state_dict() for optimizer in self.optimizers]
        state = asdict(self.progress)
        torch.save({"network": self.network.state_dict(), "optimizers": optimizers, "state": state}, partial)
        partial.replace(self.checkpoint)
        export(self.network, self.corpus.tokenizer, self.plan.work_dir / "early.gguf", name=self.plan.name)

    def run(self) -> None:
        """Train until the budget is spent."""
        self._started = time.monotonic() - self.progress.seconds
        last_note = last_save = time.monotonic()
        while (done := self._done()) < 1.0:
            loss = self._step(done)
            now = time.monotonic()
            if now - last_note > self.plan.note_seconds:
                self._note(done, loss, now)
                last_note = now
            if done >= self.progress.next_eval:
                self._evaluate(done)
            if now - last_save > self.plan.save_seconds:
                self.save()
                last_save = now
        self.save()

    def _done(self) -> float:
        """Share of the budget that is spent."""
        plan = self.plan
        by_time = (time.monotonic() - self._started) / (60 * plan.minutes) if plan.minutes else 0.0
        by_tokens = self.progress.tokens / plan.tokens if plan.tokens else 0.0
        return max(by_time, by_tokens)

    def _set_rate(self, done: float) -> None:
        warm = min(1.0, (self.progress.step + 1) / 100)
        rate = self.plan.rate * warm * max(0.02, min(1.0, (1.0 - done) / 0.7))
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate

    def _step(self, done: float) -> float:
        """One update; the mean loss of its batch."""
        plan, context = self.plan, self.network.shape.context_length
        # Short windows first (cheaper attention, more variety), the full context for the last part.
        time_steps = context if done > plan.long_from else min(SHORT_WINDOW, context)
        self._set_rate(done)
        # The batch follows from seed and step alone, so that a resumed run sees what an unbroken one would.
        rng = np.random.default_rng((plan.seed, self.progress.step))
        tokens = batch(self.corpus.train, rng, max(1, plan.batch_tokens // time_steps), time_steps)
        mean_loss = 0.0
        for part in torch.split(tokens, max(1, SPLIT_TOKENS // time_steps)):
            share = len(part) / len(tokens)
            with torch.autocast("cpu", torch.bfloat16, enabled=plan.bf16):
                loss = self.network.loss(part)
            torch.autograd.backward(loss * share)
            mean_loss += float(loss.detach()) * share
        torch.nn.utils.clip_grad_norm_(self.others, 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.progress.step += 1
        self.progress.tokens += tokens.shape[0] * time_steps
        return mean_loss

    def _note(self, done: float, loss: float, now: float) -> None:
        step, tokens = self.progress.step, self.progress.tokens
        speed = tokens / (now - self._started)
        print(f"{done:6.1%} step {step} tokens {tokens:,} loss {loss:.3f} {speed:.0f} tok/s", flush=True)

    def _evaluate(self, done: float) -> None:
        context = self.network.shape.context_length
        perplexity = math.exp(held_out_loss(self.network, self.corpus.held_out, context, CURVE_TOKENS))
        self.progress.curve.append([self.progress.tokens, round(perplexity, 2)])
        self.progress.next_eval = done + EVAL_EVERY
        print(f"held-out perplexity {perplexity:.2f} at {self.progress.tokens:,} tokens", flush=True)
