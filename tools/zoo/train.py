"""Trains the zoo's models one after the other; a finished file is not trained again."""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
from embedded.corpus import prepare
from embedded.export import export
from embedded.network import Network, Shape
from embedded.training import Plan, Trainer, held_out_loss

from zoo.shapes import VOCABULARY

_HELD_OUT_TOKENS = 65_536
_DESCRIPTION = "A small model to learn bit allocation on, trained a little on public-domain books"


def train_one(name: str, shape: Shape, text: Path, folder: Path, minutes: float, seed: int) -> Path:
    """`folder`/NAME.gguf, with NAME.json beside it: tokens seen, held-out perplexity."""
    path = folder / f"{name}.gguf"
    if path.exists():
        return path
    torch.manual_seed(seed)
    corpus = prepare(text, folder / "corpus", VOCABULARY, 0)
    network = Network(shape)
    work = folder / f"{name}.work"
    work.mkdir(exist_ok=True)
    plan = Plan(
        work_dir=work, name=name, minutes=minutes, tokens=0, long_from=1.0, batch_tokens=2048, rate=4e-3, seed=seed, bf16=True,
        note_seconds=60.0, save_seconds=1e9,
    )  # fmt: skip
    trainer = Trainer(network, corpus, plan)
    trainer.progress.next_eval = math.inf  # a curve would cost more than these few minutes of training
    trainer.run()
    loss = held_out_loss(network, corpus.held_out, shape.context_length, _HELD_OUT_TOKENS)
    figures = {"tokens_seen": trainer.progress.tokens, "held_out_perplexity": math.exp(loss), "minutes": minutes}
    path.with_suffix(".json").write_text(json.dumps(figures))
    for left_over in work.iterdir():
        left_over.unlink()
    work.rmdir()
    export(network, corpus.tokenizer, path, name=name, description=_DESCRIPTION)
    return path
