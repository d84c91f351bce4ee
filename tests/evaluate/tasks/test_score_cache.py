"""Scores on disk: what cannot be written is an error of the cache, with the file's name in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ramp_edge.errors import CacheError
from ramp_edge.evaluate.tasks.definitions import TASKS
from ramp_edge.evaluate.tasks.files import find_task_files
from ramp_edge.evaluate.tasks.parse import load_task
from ramp_edge.evaluate.tasks.records import ItemScore
from ramp_edge.evaluate.tasks.score_cache import ScoreCache


def test_a_folder_that_cannot_be_made_is_a_cache_error(task_folder: Path, tmp_path: Path) -> None:
    definition = TASKS["hellaswag"]
    data = load_task(definition, find_task_files(task_folder, (definition,))["hellaswag"], limit=1)
    (tmp_path / "cache").write_text("a file where the folder should be")
    cache = ScoreCache(tmp_path / "cache", data=data, model_sha256="0" * 64, n_ctx=512, engine_version="1")
    n = data.items[0].n_choices
    score = ItemScore(index=data.items[0].index, log_likelihoods=(-1.0,) * n, token_means=(-1.0,) * n, cut=False)
    with pytest.raises(CacheError, match="hellaswag-"):
        cache.append([score])
