"""The work folder: texts, finished files and finished figures, so that a run that was stopped goes on where it was."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ramp_edge.evaluate.evaluator import read_text
from ramp_edge.evaluate.llama import LlamaVocabulary
from ramp_edge.model.gguf_file import GgufTensors


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """A file to compare, and how long it took to make (None: made elsewhere)."""

    label: str
    kind: str
    path: Path
    at: str | None = None
    seconds: float | None = None


class Workshop:
    """A folder of finished things by name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, name: str) -> Path:
        """A file of the folder; labels become names."""
        return self.folder / name.replace(":", "+").replace("/", "_").replace(" ", "_")

    def figure(self, name: str, measure: Callable[[], Any]) -> Any:
        """A JSON value, measured once."""
        path = self.path(f"{name}.json")
        if not path.exists():
            say(f"{name} ...")
            partial = path.with_suffix(".partial")
            partial.write_text(json.dumps(measure()))
            partial.replace(path)
        return json.loads(path.read_text())

    def make(self, label: str, kind: str, write: Callable[[Path], Any], at: str | None = None) -> Made:
        """A GGUF, written once; its seconds are kept beside it."""
        path = self.path(f"{label}.gguf")

        def timed() -> float:
            partial = path.with_suffix(".part")
            started = time.perf_counter()
            write(partial)
            seconds = time.perf_counter() - started
            partial.replace(path)
            return seconds

        took = self.path(f"{label}.seconds.json")
        if not path.exists():
            took.unlink(missing_ok=True)
        return Made(label=label, kind=kind, path=path, at=at, seconds=self.figure(f"{label}.seconds", timed))


def say(text: str) -> None:
    """Progress, to stderr."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def bits_per_weight(path: Path) -> float:
    """Bits of all tensors over the number of weights."""
    tensors = GgufTensors(path).header.tensors
    return 8 * sum(t.size_bytes for t in tensors) / sum(int(np.prod(t.shape)) for t in tensors)


def calibration_text(reference: Path, texts: list[Path], n_tokens: int) -> str:
    """The heads of several texts, an equal share of tokens from each; 0: the whole texts."""
    read = [read_text(path) for path in texts]
    if not n_tokens:
        return "".join(read)
    with LlamaVocabulary(reference) as vocabulary:
        return "".join(_head(vocabulary, text, n_tokens // len(read)) for text in read)


def _head(vocabulary: LlamaVocabulary, text: str, n_tokens: int) -> str:
    """The longest beginning of `text` that tokenizes to at most `n_tokens` tokens."""
    low, high = 0, min(len(text), 40 * n_tokens)
    while low < high:
        middle = (low + high + 1) // 2
        fits = len(vocabulary.tokenize(text[:middle], add_special=False)) <= n_tokens
        low, high = (middle, high) if fits else (low, middle - 1)
    return text[:low]


def evaluation_text(path: Path, tail_bytes: int) -> str:
    """The end of a text, cut to whole characters; 0: all of it."""
    data = path.read_bytes()
    return (data[-tail_bytes:] if tail_bytes else data).decode("utf-8", errors="ignore")
