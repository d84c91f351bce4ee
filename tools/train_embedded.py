#!/usr/bin/env python3
"""Train the embedded default model from plain text and export it as a GGUF.

Why a model of our own: the first command of a new user must do the real job offline, so the package carries a
model small enough to ship (at most 16 MB in F16) that has learned enough for perplexity and KL to mean something.
Muon on the matrices and AdamW on the embedding learn most per CPU second at this size; the rate
falls linearly to zero over a budget of minutes or tokens, so any machine gets a finished model.

    python tools/train_embedded.py --text books.txt.xz --work-dir run/ --minutes 70 -o model.gguf
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
from embedded.corpus import Corpus, prepare
from embedded.export import export
from embedded.network import Network, Shape


def batch(stream: np.ndarray, rng: np.random.Generator, rows: int, time_steps: int) -> torch.Tensor:
    """Random windows [rows, time_steps + 1] of the token stream."""
    starts = rng.integers(0, len(stream) - time_steps - 1, rows)
    return torch.from_numpy(np.stack([stream[s : s + time_steps + 1] for s in starts]).astype(np.int64))


@torch.no_grad()
def held_out_loss(network: Network, stream: np.ndarray, time_steps: int, limit_tokens: int) -> float:
    """Mean loss in nats over consecutive windows, every position scored."""
    windows = max(1, min(limit_tokens, len(stream) - 1) // time_steps)
    starts = np.linspace(0, len(stream) - time_steps - 1, windows).astype(np.int64)
    total = 0.0
    for first in range(0, windows, 16):
        rows = np.stack([stream[s : s + time_steps + 1] for s in starts[first : first + 16]]).astype(np.int64)
        total += float(network.loss(torch.from_numpy(rows))) * len(rows)
    return total / windows


def unigram_perplexity(corpus: Corpus, vocab_size: int) -> float:
    """Perplexity of held-out tokens under add-one unigram frequencies of the training tokens."""
    counts = np.bincount(corpus.train, minlength=vocab_size) + 1.0
    log_p = np.log(counts / counts.sum())
    return float(np.exp(-log_p[corpus.held_out].mean()))


def train(args: argparse.Namespace) -> dict[str, object]:
    """The training loop; returns the figures of the model card."""
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    corpus = prepare(args.text, args.work_dir, args.vocab_size, args.seed)
    shape = Shape(vocab_size=args.vocab_size, n_layer=args.layers, context_length=args.context)
    network = Network(shape)
    matrices = [p for n, p in network.named_parameters() if p.ndim == 2 and not n.startswith("token_embd")]
    others = [p for n, p in network.named_parameters() if p.ndim != 2 or n.startswith("token_embd")]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.Muon(matrices, lr=args.rate, momentum=0.95, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=args.rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]
    state = {"step": 0, "tokens": 0, "seconds": 0.0, "curve": []}
    checkpoint = args.work_dir / "checkpoint.pt"
    if args.resume and checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=False)
        network.load_state_dict(saved["network"])
        for optimizer, values in zip(optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(values)
        state = saved["state"]
    started = time.monotonic() - state["seconds"]
    last_note = last_save = time.monotonic()

    def progress() -> float:
        by_time = (time.monotonic() - started) / (60 * args.minutes) if args.minutes else 0.0
        by_tokens = state["tokens"] / args.tokens if args.tokens else 0.0
        return max(by_time, by_tokens)

    def save() -> None:
        state["seconds"] = time.monotonic() - started
        partial = checkpoint.with_suffix(".partial")
        torch.save(
            {
                "network": network.state_dict(),
                "optimizers": [o.state_dict() for o in optimizers],
                "state": state,
            },
            partial,
        )
        partial.replace(checkpoint)
        export(network, corpus.tokenizer, args.work_dir / "early.gguf", name=args.name)

    next_eval = 0.0
    while (done := progress()) < 1.0:
        # Short windows first (cheaper attention, more variety), the full context for the last part.
        time_steps = args.context if done > args.long_from else min(256, args.context)
        warm = min(1.0, (state["step"] + 1) / 100)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = args.rate * warm * max(0.02, min(1.0, (1.0 - done) / 0.7))
        rng = np.random.default_rng((args.seed, state["step"]))
        tokens = batch(corpus.train, rng, args.batch_tokens // time_steps, time_steps)
        parts = tokens.split(max(1, 4096 // time_steps))
        value = 0.0
        for part in parts:
            with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
                loss = network.loss(part)
            (loss * len(part) / len(tokens)).backward()
            value += float(loss.detach()) * len(part) / len(tokens)
        torch.nn.utils.clip_grad_norm_(others, 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        state["step"] += 1
        state["tokens"] += tokens.shape[0] * time_steps
        now = time.monotonic()
        if now - last_note > args.note_seconds:
            rate = state["tokens"] / (now - started)
            print(
                f"{done:6.1%} step {state['step']} tokens {state['tokens']:,} loss {value:.3f} {rate:.0f} tok/s",
                flush=True,
            )
            last_note = now
        if done >= next_eval:
            held_out = held_out_loss(network, corpus.held_out, args.context, 32_768)
            state["curve"].append([state["tokens"], round(math.exp(held_out), 2)])
            print(f"held-out perplexity {math.exp(held_out):.2f} at {state['tokens']:,} tokens", flush=True)
            next_eval = done + 0.08
        if now - last_save > 240:
            save()
            last_save = now
    save()
    final = held_out_loss(network, corpus.held_out, args.context, len(corpus.held_out))
    export(network, corpus.tokenizer, args.output, name=args.name)
    bytes_per_token = corpus.held_out_bytes / len(corpus.held_out)
    return {
        "held_out_perplexity": math.exp(final),
        "bits_per_byte": final / math.log(2) / bytes_per_token,
        "unigram_perplexity": unigram_perplexity(corpus, args.vocab_size),
        "held_out_tokens": len(corpus.held_out),
        "train_tokens_available": len(corpus.train),
        "tokens_seen": state["tokens"],
        "steps": state["step"],
        "seconds": state["seconds"],
        "parameters": sum(p.numel() for p in network.parameters()),
        "curve": state["curve"],
    }


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True, help=".txt or .xz; documents separated by NUL lines")
    parser.add_argument("--work-dir", type=Path, required=True, help="tokens, checkpoints, early exports")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the GGUF to write")
    parser.add_argument("--minutes", type=float, default=0.0, help="wall-time budget")
    parser.add_argument("--tokens", type=int, default=0, help="token budget")
    parser.add_argument("--name", default="ramp-edge-books-6m")
    parser.add_argument("--vocab-size", type=int, default=4096)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--long-from", type=float, default=0.75, help="share of the budget before full-context windows")
    parser.add_argument("--batch-tokens", type=int, default=8192)
    parser.add_argument("--rate", type=float, default=4e-3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--note-seconds", type=float, default=20.0)
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=False)
    parser.add_argument("--resume", action="store_true")
    args = parser.parse_args(argv)
    if not args.minutes and not args.tokens:
        parser.error("give --minutes or --tokens")
    return args


if __name__ == "__main__":
    arguments = parse()
    result = train(arguments)
    (arguments.work_dir / "result.json").write_text(json.dumps(result, indent=1))
    print(json.dumps(result, indent=1))
