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
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
from embedded.corpus import prepare
from embedded.export import export
from embedded.network import Network, Shape
from embedded.training import Plan, Trainer, held_out_loss, unigram_perplexity


def train(args: argparse.Namespace) -> dict[str, object]:
    """The whole run, text to GGUF; returns the figures of the model card."""
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    corpus = prepare(args.text, args.work_dir, args.vocab_size, args.seed)
    # A short text can have fewer merges than were asked for; the embedding has exactly the tokenizer's rows.
    vocab_size = corpus.tokenizer.get_vocab_size()
    network = Network(Shape(vocab_size=vocab_size, n_layer=args.layers, context_length=args.context))
    names = Plan.__dataclass_fields__
    trainer = Trainer(network, corpus, Plan(**{k: v for k, v in vars(args).items() if k in names}))
    if args.resume:
        trainer.resume()
    trainer.run()
    export(network, corpus.tokenizer, args.output, name=args.name)
    loss = held_out_loss(network, corpus.held_out, args.context, len(corpus.held_out))
    bytes_per_token = corpus.held_out_bytes / len(corpus.held_out)
    return {
        "held_out_perplexity": math.exp(loss),
        "bits_per_byte": loss / math.log(2) / bytes_per_token,
        "unigram_perplexity": unigram_perplexity(corpus, vocab_size),
        "held_out_tokens": len(corpus.held_out),
        "train_tokens_available": len(corpus.train),
        "tokens_seen": trainer.progress.tokens,
        "steps": trainer.progress.step,
        "seconds": trainer.progress.seconds,
        "parameters": sum(p.numel() for p in network.parameters()),
        "curve": trainer.progress.curve,
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
    parser.add_argument("--save-seconds", type=float, default=240.0)
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=False)
    parser.add_argument("--resume", action="store_true", help="continue from the work directory's checkpoint")
    args = parser.parse_args(argv)
    if not args.minutes and not args.tokens:
        parser.error("give --minutes or --tokens")
    return args


if __name__ == "__main__":
    arguments = parse()
    result = train(arguments)
    (arguments.work_dir / "result.json").write_text(json.dumps(result, indent=1))
    print(json.dumps(result, indent=1))
