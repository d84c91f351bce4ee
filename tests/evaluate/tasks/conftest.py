"""Small task files for the embedded model: words in random order, so that answers vary."""

from __future__ import annotations

import bz2
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest

WORDS = tuple(
    [
        "river",
        "stone",
        "boat",
        "rain",
        "light",
        "harbour",
        "letter",
        "window",
        "garden",
        "horse",
        "winter",
        "bread",
        "silver",
        "road",
        "child",
        "mother",
        "captain",
        "quiet",
        "narrow",
        "evening",
        "walked",
        "opened",
        "carried",
        "laughed",
        "waited",
        "across",
        "under",
        "before",
        "slowly",
    ]
)


class Writer:
    """Random words, the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def text(self, low: int, high: int) -> str:
        return " ".join(self._rng.choice(WORDS, self._rng.integers(low, high)))

    def gold(self, n: int) -> int:
        return int(self._rng.integers(n))


def _jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def hellaswag_text(made: Writer, n_items: int) -> str:
    """Items in HellaSwag's text layout."""
    lines: list[str] = []
    for _ in range(n_items):
        lines += [f"Walk: {made.text(6, 20)}", str(made.gold(4)), *(made.text(2, 12) + "." for _ in range(4))]
    return "\n".join(lines) + "\n"


def write_tasks(folder: Path, n_items: int, seed: int = 0) -> Path:
    """All seven files under the names that the table knows; HellaSwag in a subfolder and packed."""
    made = Writer(seed)
    (folder / "more").mkdir(parents=True, exist_ok=True)
    (folder / "more" / "hellaswag_val_full.txt.bz2").write_bytes(bz2.compress(hellaswag_text(made, n_items).encode()))
    question = {
        "piqa.jsonl": ("query", "Question: {}\n", 2),
        "ARC-Easy-Test.normalized.jsonl": ("question", "{}?", 4),
        "ARC-Challenge-Test.normalized.jsonl": ("question", "{}?", 5),
        "openbook_qa.jsonl": ("query", "{}", 4),
    }
    for name, (key, form, n) in question.items():
        _jsonl(
            folder / name,
            [
                {
                    key: form.format(made.text(4, 12)),
                    "choices": [made.text(1, 6) for _ in range(n)],
                    "gold": made.gold(n),
                }
                for _ in range(n_items)
            ],
        )
    boolq = [
        {
            "query": f"Passage: {made.text(40, 80)}.\nQuestion: {made.text(4, 8)}?",
            "choices": ["no", "yes"],
            "gold": made.gold(2),
        }
        for _ in range(n_items)
    ]
    _jsonl(folder / "boolq.jsonl", boolq)
    winogrande = []
    for _ in range(n_items):
        start = made.text(5, 10)
        options = [f"{start} Anna", f"{start} the captain"]
        winogrande.append({"context_options": options, "continuation": made.text(2, 6) + ".", "gold": made.gold(2)})
    _jsonl(folder / "winogrande.jsonl", winogrande)
    return folder


@pytest.fixture(scope="session")
def embedded() -> Path:
    """The embedded default model."""
    return Path(str(files("ramp_edge"))) / "data" / "ramp-edge-default-f16.gguf"


@pytest.fixture(scope="session")
def task_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve items of every task."""
    return write_tasks(tmp_path_factory.mktemp("tasks"), 12)


@pytest.fixture(scope="session")
def hellaswag_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 items of HellaSwag, plain."""
    path = tmp_path_factory.mktemp("hellaswag") / "hellaswag.txt"
    path.write_text(hellaswag_text(Writer(1), 48), encoding="utf-8")
    return path
