"""Text to token memmap: books separated by a NUL line, whole books held out, byte-level BPE of our own.

The pre-tokenizer is GPT-2's regular expression, so that llama.cpp's `gpt-2` pre-tokenizer splits text the same way.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

END_OF_TEXT = "<|endoftext|>"
HELD_OUT_SHARE = 0.02
"""Share of the characters, in whole books, that no training step ever sees."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Corpus:
    """Token streams as uint16 memmaps, and the bytes that they stand for."""

    tokenizer: Tokenizer
    train: npt.NDArray[np.uint16]
    held_out: npt.NDArray[np.uint16]
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


def _encode(tokenizer: Tokenizer, books: list[str], path: Path) -> None:
    parts: list[npt.NDArray[np.uint16]] = []
    end = tokenizer.token_to_id(END_OF_TEXT)
    for book in books:
        parts.append(np.array([end], dtype=np.uint16))
        # Pieces keep the encoder's memory small; a cut at a newline rarely splits a word.
        lines = book.splitlines(keepends=True)
        for start in range(0, len(lines), 2000):
            ids = tokenizer.encode("".join(lines[start : start + 2000])).ids
            parts.append(np.array(ids, dtype=np.uint16))
    np.save(path, np.concatenate(parts))


def _claim(work_dir: Path, key: dict[str, object]) -> bool:
    """True where `work_dir` already holds the tokens of `key`; refuses those of another text, vocabulary or seed.

    Mixing two splits would train on held-out books without a sign of it.
    """
    path = work_dir / "corpus.json"
    if not path.exists():
        return False
    if json.loads(path.read_text()) != key:
        raise ValueError(f"{work_dir} holds the tokens of another text, vocabulary or seed; give a fresh --work-dir")
    return True


def prepare(text: Path, work_dir: Path, vocab_size: int, seed: int) -> Corpus:
    """Tokenizer and token files under `work_dir`, made once and reused for the same text, vocabulary and seed."""
    work_dir.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(text.read_bytes()).hexdigest()
    key: dict[str, object] = {"sha256": digest, "vocab_size": vocab_size, "seed": seed}
    train_books, held_out_books = split_books(read_books(text), seed)
    tokenizer_path, train_path, held_out_path = (
        work_dir / name for name in ("tokenizer.json", "train.npy", "held_out.npy")
    )
    if not _claim(work_dir, key):
        tokenizer = train_tokenizer(train_books, vocab_size)
        tokenizer.save(str(tokenizer_path))
        _encode(tokenizer, train_books, train_path)
        _encode(tokenizer, held_out_books, held_out_path)
        # Last, so that files of an interrupted preparation are made again.
        (work_dir / "corpus.json").write_text(json.dumps(key))
    return Corpus(
        tokenizer=Tokenizer.from_file(str(tokenizer_path)),
        train=np.load(train_path, mmap_mode="r"),
        held_out=np.load(held_out_path, mmap_mode="r"),
        held_out_bytes=sum(len(b.encode()) for b in held_out_books),
    )
