"""Text to token memmap: books separated by a NUL line, whole books held out, byte-level BPE of our own.

The pre-tokenizer is GPT-2's regular expression, so that llama.cpp's `gpt-2` pre-tokenizer splits text the same way.
"""

from __future__ import annotations

import lzma
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

END_OF_TEXT = "<|endoftext|>"
HELD_OUT_SHARE = 0.02
"""Share of the characters, in whole books, that no training step ever sees."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Corpus:
    """Token streams as uint16 memmaps, and the bytes that they stand for."""

    tokenizer: Tokenizer
    train: np.ndarray
    held_out: np.ndarray
    held_out_bytes: int


def read_books(path: Path) -> list[str]:
    """Documents of a .txt or .xz file, split at NUL lines (one document where there is none)."""
    opener = lzma.open if path.suffix == ".xz" else open
    with opener(path, "rt", encoding="utf-8") as stream:
        text = stream.read()
    books = [book.strip() for book in text.split("\0")]
    return [book for book in books if book]


def split_books(books: list[str], seed: int) -> tuple[list[str], list[str]]:
    """(train, held out): whole documents; a lone document gives its tail."""
    if len(books) == 1:
        cut = int(len(books[0]) * (1 - HELD_OUT_SHARE))
        return [books[0][:cut]], [books[0][cut:]]
    order = list(range(len(books)))
    random.Random(seed).shuffle(order)
    wanted = HELD_OUT_SHARE * sum(map(len, books))
    held_out: set[int] = set()
    size = 0
    for index in order:
        # A single giant book must not become the whole validation set.
        if size < wanted and len(books[index]) < wanted:
            held_out.add(index)
            size += len(books[index])
    if not held_out:
        held_out.add(min(order, key=lambda i: len(books[i])))
    return (
        [b for i, b in enumerate(books) if i not in held_out],
        [b for i, b in enumerate(books) if i in held_out],
    )


def train_tokenizer(books: list[str], vocab_size: int, sample_chars: int = 20_000_000) -> Tokenizer:
    """Byte-level BPE; every byte is representable, id 0 is the end-of-text token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    share = min(1.0, sample_chars / max(1, sum(map(len, books))))
    tokenizer.train_from_iterator((b[: int(len(b) * share) + 1] for b in books), trainer)
    return tokenizer


def _encode(tokenizer: Tokenizer, books: list[str], path: Path) -> np.ndarray:
    parts: list[np.ndarray] = []
    end = tokenizer.token_to_id(END_OF_TEXT)
    for book in books:
        parts.append(np.array([end], dtype=np.uint16))
        # Pieces keep the encoder's memory small; a cut at a newline rarely splits a word.
        lines = book.splitlines(keepends=True)
        for start in range(0, len(lines), 2000):
            ids = tokenizer.encode("".join(lines[start : start + 2000])).ids
            parts.append(np.array(ids, dtype=np.uint16))
    np.save(path, np.concatenate(parts))
    return np.load(path, mmap_mode="r")


def prepare(text: Path, work_dir: Path, vocab_size: int, seed: int) -> Corpus:
    """Tokenizer and token files under `work_dir`, made once and reused."""
    work_dir.mkdir(parents=True, exist_ok=True)
    train_books, held_out_books = split_books(read_books(text), seed)
    tokenizer_path = work_dir / "tokenizer.json"
    if not tokenizer_path.exists():
        train_tokenizer(train_books, vocab_size).save(str(tokenizer_path))
    tokenizer = Tokenizer.from_file(str(tokenizer_path))
    streams = []
    for name, books in (("train", train_books), ("held_out", held_out_books)):
        path = work_dir / f"{name}.npy"
        streams.append(np.load(path, mmap_mode="r") if path.exists() else _encode(tokenizer, books, path))
    return Corpus(
        tokenizer=tokenizer,
        train=streams[0],
        held_out=streams[1],
        held_out_bytes=sum(len(b.encode()) for b in held_out_books),
    )
