"""Scores on disk, one JSON line an item, appended as they come: what was finished before a stop is not done again.

The file's name is a hash of everything that decides its numbers. A line that was cut short is passed over.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ramp_edge.cache import cache_error
from ramp_edge.evaluate.tasks.records import ItemScore, TaskData

CODE_VERSION = 1
"""Raise it when prompts, borders or the meaning of the numbers change."""


class ScoreCache:
    """Scores of one model on one sample of one task; without a folder, nothing is kept."""

    def __init__(
        self, folder: Path | None, *, data: TaskData, model_sha256: str, n_ctx: int, engine_version: str
    ) -> None:
        parts = (CODE_VERSION, engine_version, model_sha256, data.definition.name, data.sha256, data.limit, n_ctx)
        key = hashlib.sha256("|".join(map(str, parts)).encode()).hexdigest()[:32]
        self.path = None if folder is None else folder / f"{data.definition.name}-{key}.jsonl"
        self._n_choices = {item.index: item.n_choices for item in data.items}

    def load(self) -> dict[int, ItemScore]:
        """Item index -> score of what is stored and whole."""
        if self.path is None:
            return {}
        try:
            lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return {}
        scores = (self._score(line) for line in lines)
        return {score.index: score for score in scores if score is not None}

    def append(self, scores: list[ItemScore]) -> None:
        """Add scores. Raises CacheError where the disk refuses."""
        if self.path is None or not scores:
            return
        # The leading line break ends a line that a stop cut short.
        text = "".join(f"\n{json.dumps(asdict(score))}" for score in scores) + "\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise cache_error(self.path, error) from error

    def _score(self, line: str) -> ItemScore | None:
        try:
            record = json.loads(line)
            score = ItemScore(
                index=record["index"],
                log_likelihoods=_numbers(record["log_likelihoods"]),
                token_means=_numbers(record["token_means"]),
                cut=bool(record["cut"]),
            )
        except (ValueError, TypeError, KeyError):
            return None
        n = self._n_choices.get(score.index)
        return score if len(score.log_likelihoods) == len(score.token_means) == n else None


def _numbers(values: Any) -> tuple[float, ...]:
    numbers = tuple(float(value) for value in values)
    if not all(map(math.isfinite, numbers)):
        raise ValueError("not finite")
    return numbers
