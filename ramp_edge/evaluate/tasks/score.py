"""Log-likelihoods of every choice of every item by one model, pack by pack, resumable."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ramp_edge.errors import EvaluationError
from ramp_edge.evaluate.evaluator import engine_version
from ramp_edge.evaluate.llama import LlamaVocabulary, Tokens
from ramp_edge.evaluate.llama_packed import PackedSession
from ramp_edge.evaluate.perplexity import Float64, log_normalizers
from ramp_edge.evaluate.tasks.encode import EncodedItem, encode_item
from ramp_edge.evaluate.tasks.pack import Pack, build_pack, group_items
from ramp_edge.evaluate.tasks.records import ItemScore, TaskData, TaskRun
from ramp_edge.evaluate.tasks.score_cache import ScoreCache
from ramp_edge.events import EventBus
from ramp_edge.threads import ThreadChoice, default_threads

_PACKS_PER_CHOICE = 64
"""Packs after which the number of threads is chosen again, about a minute of a model of 135 million weights."""


def score_task(
    path: Path,
    data: TaskData,
    *,
    model_sha256: str,
    n_ctx: int,
    cache_dir: Path | None = None,
    label: str | None = None,
    threads: int | None = None,
    events: EventBus | None = None,
) -> TaskRun:
    """Score a task's items, or take them from the cache. `n_ctx` is the longest sequence, in tokens.

    Raises EvaluationError where the model does not load, run or give finite numbers, TaskDataError where a choice
    is longer than the context.
    """
    cache = ScoreCache(cache_dir, data=data, model_sha256=model_sha256, n_ctx=n_ctx, engine_version=engine_version())
    start_s = time.perf_counter()
    scores = cache.load()
    n_stored = sum(item.index in scores for item in data.items)
    if n_stored < len(data.items):
        name = f"{data.definition.name} {label or path.name}"
        with (events or EventBus()).stage(name, total=len(data.items), unit="items") as stage:
            groups = group_items(encode_task(path, data, n_ctx))
            open_groups = [group for group in groups if any(item.index not in scores for item in group)]
            # Packs stay what they are without a stop, so that a resumed run gives the same numbers.
            n_stored = len(data.items) - sum(map(len, open_groups))
            stage.advance(n_stored)
            for new in _score_groups(path, open_groups, threads):
                cache.append(new)
                scores.update({score.index: score for score in new})
                stage.advance(len(new))
    return TaskRun(
        data=data,
        scores=tuple(scores[item.index] for item in data.items),
        n_ctx=n_ctx,
        n_evaluated=len(data.items) - n_stored,
        seconds=time.perf_counter() - start_s,
    )


def encode_task(path: Path, data: TaskData, n_ctx: int) -> list[EncodedItem]:
    """A task's items by the tokenizer of the model at `path`, for a context of `n_ctx` tokens."""
    with LlamaVocabulary(path) as vocabulary:
        # Only a beginning is added: what a tokenizer may put at the end would shift the border.
        bos = vocabulary.bos if vocabulary.add_bos and vocabulary.bos >= 0 else None

        def tokenize(text: str) -> Tokens:
            return vocabulary.tokenize(text, add_special=False)

        return [encode_item(item, tokenize, bos=bos, n_ctx=n_ctx, path=data.path) for item in data.items]


def _score_groups(path: Path, groups: list[tuple[EncodedItem, ...]], threads: int | None) -> Iterator[list[ItemScore]]:
    n_cells = max(sum(item.n_read for item in group) for group in groups)
    n_sequences = max(sum(len(item.choices) for item in group) for group in groups)
    choice: ThreadChoice | None = None
    with PackedSession(path, n_cells=n_cells, n_sequences=n_sequences, threads=threads) as session:
        for number, group in enumerate(groups):
            # Not by the first pack: its time is that of loading torch and of reading the file. Other programs come
            # and go during a run of many minutes, so the choice is made anew now and then.
            if threads is None and number % _PACKS_PER_CHOICE == 1:
                choice = ThreadChoice(default_threads())
            if choice is not None:
                session.set_threads(choice.threads)
            start_s = time.perf_counter()
            pack = build_pack(group)
            scores = score_pack(session, pack)
            if choice is not None:
                choice.report((time.perf_counter() - start_s) / pack.n_rows)
            yield scores


def score_pack(session: PackedSession, pack: Pack) -> list[ItemScore]:
    """Scores of a pack's items, in order."""
    import torch

    target_rows = np.array([target.row for target in pack.targets])
    target_tokens = torch.tensor([target.token for target in pack.targets])
    wanted = np.zeros(pack.n_rows, dtype=np.bool_)
    wanted[target_rows] = True
    ranks = (np.cumsum(wanted) - 1)[target_rows]  # [n_targets] ascending, as the targets are
    log_p: Float64 = np.empty(len(pack.targets))
    for first, logits in session.packed_logits(pack.tokens, pack.positions, pack.sequences, wanted):
        table = torch.from_numpy(logits)
        normalizers = log_normalizers(table)
        here = slice(*np.searchsorted(ranks, [first, first + len(logits)]))
        rows = torch.from_numpy(ranks[here] - first)
        log_p[here] = (table[rows, target_tokens[here]].double() - normalizers[rows]).numpy()
    if not np.isfinite(log_p).all():
        raise EvaluationError(
            f"{session.path.name} gives log-likelihoods that are not finite",
            hint="the file holds damaged or overflowing weights",
        )
    return _sum_up(pack, log_p)


def _sum_up(pack: Pack, log_p: Float64) -> list[ItemScore]:
    sums = [np.zeros((2, len(item.choices))) for item in pack.items]  # all continuation tokens, those not shared
    counts = [np.zeros(len(item.choices)) for item in pack.items]
    for target, value in zip(pack.targets, log_p, strict=True):
        sums[target.item][0, target.choice] += value
        if target.position >= pack.items[target.item].n_shared:
            sums[target.item][1, target.choice] += value
            counts[target.item][target.choice] += 1
    return [
        ItemScore(
            index=item.index,
            log_likelihoods=tuple(map(float, total[0])),
            token_means=tuple(map(float, total[1] / count)),
            cut=item.cut,
        )
        for item, total, count in zip(pack.items, sums, counts, strict=True)
    ]
