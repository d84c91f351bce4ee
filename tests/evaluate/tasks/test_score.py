"""Packed scoring against one sequence at a time, the cache, and llama.cpp's own HellaSwag score."""

from __future__ import annotations

import bz2
import json
import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ramp_edge.codec.libllama_quantize import quantize_preset
from ramp_edge.errors import EvaluationError
from ramp_edge.evaluate.llama import LlamaSession
from ramp_edge.evaluate.llama_packed import PackedSession
from ramp_edge.evaluate.tasks.accuracy import answer, answers
from ramp_edge.evaluate.tasks.definitions import TASKS, Metric
from ramp_edge.evaluate.tasks.files import find_task_files
from ramp_edge.evaluate.tasks.parse import load_task, spread_indices
from ramp_edge.evaluate.tasks.records import ItemScore, TaskData, TaskItem, TaskRun
from ramp_edge.evaluate.tasks.score import score_task
from ramp_edge.events import Event, EventBus, StageAdvanced


def data_of(folder: Path, name: str, limit: int | None = None) -> TaskData:
    return load_task(TASKS[name], find_task_files(folder, (TASKS[name],))[name], limit=limit)


def score(path: Path, data: TaskData, *, cache: Path | None = None, events: EventBus | None = None) -> TaskRun:
    return score_task(path, data, model_sha256="0" * 64, n_ctx=512, cache_dir=cache, threads=1, events=events)


def one_by_one(path: Path, items: tuple[TaskItem, ...]) -> list[list[float]]:
    """The definition, word for word: tokenize, feed, add up log p."""
    sums: list[list[float]] = []
    with LlamaSession(path, n_ctx=512, threads=1) as session:
        for item in items:
            sums.append([])
            for context, continuation in zip(item.contexts, item.continuations, strict=True):
                begin = [session.bos] if session.add_bos else []
                ids = [*begin, *session.tokenize(context + continuation, add_special=False)]
                border = len(begin) + len(session.tokenize(context.rstrip(), add_special=False))
                session.clear()
                logits = session.logits(np.array(ids[:-1], dtype=np.int32), 0).astype(np.float64)
                peak = logits.max(axis=1, keepdims=True)
                log_p = logits - peak - np.log(np.exp(logits - peak).sum(axis=1, keepdims=True))
                sums[-1].append(sum(log_p[at - 1, ids[at]] for at in range(border, len(ids))))
    return sums


@pytest.mark.parametrize("name", TASKS)
def test_packs_give_what_single_sequences_give(embedded: Path, task_folder: Path, name: str) -> None:
    data = data_of(task_folder, name, limit=8)
    run = score(embedded, data)
    plain = one_by_one(embedded, data.items)
    for item, found, expected in zip(data.items, run.scores, plain, strict=True):
        assert found.index == item.index
        assert not found.cut
        assert found.log_likelihoods == pytest.approx(
            expected, abs=0.02
        )  # measured 0.0054: other kernels for other batches
    assert run.n_evaluated == 8


@pytest.mark.hf
@pytest.mark.slow
def test_packs_with_a_sliding_window(converted: Callable[[str], Path], task_folder: Path) -> None:
    """Gemma 3: two caches, the window (32 tokens) shorter than the items, and a begin-of-text token."""
    data = data_of(task_folder, "hellaswag", limit=6)
    path = converted("gemma3")
    plain = one_by_one(path, data.items)
    for found, expected in zip(score(path, data).scores, plain, strict=True):
        assert found.log_likelihoods == pytest.approx(expected, abs=0.03)  # measured 0.0065


def test_few_outputs_a_call_change_nothing(embedded: Path, task_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As for a vocabulary of 262,144, where 128 rows of logits fill the buffer."""
    data = data_of(task_folder, "hellaswag", limit=4)
    whole = score(embedded, data)
    made = PackedSession.__init__
    monkeypatch.setattr(PackedSession, "__init__", lambda self, *a, **k: made(self, *a, **{**k, "max_outputs": 5}))
    pieces = score(embedded, data)
    for one, other in zip(whole.scores, pieces.scores, strict=True):
        assert one.log_likelihoods == pytest.approx(other.log_likelihoods, abs=0.02)


def test_a_pack_of_many_tiny_items(embedded: Path) -> None:
    """More sequences than one item's tokens, and choices that share all that is read."""
    item = TaskItem(
        index=0, line=1, contexts=("rain",) * 5, continuations=tuple(f" {c}" for c in "abcde"), n_characters=(1,) * 5, gold=0
    )  # fmt: skip
    items = tuple(replace(item, index=i) for i in range(30))
    data = TaskData(definition=TASKS["openbookqa"], path=Path("x"), sha256="", n_available=30, items=items, limit=None)
    scores = score(embedded, data).scores
    table = np.array([one.log_likelihoods for one in scores])
    assert np.abs(table - table[0]).max() < 0.02
    assert table[0] == pytest.approx(one_by_one(embedded, items[:1])[0], abs=0.02)


def test_scores_are_kept_and_used(embedded: Path, task_folder: Path, tmp_path: Path) -> None:
    data = data_of(task_folder, "openbookqa")
    first = score(embedded, data, cache=tmp_path)
    again = score(embedded, data, cache=tmp_path)
    assert (first.n_evaluated, again.n_evaluated) == (12, 0)
    assert again.scores == first.scores
    # Another model, limit or context is another file.
    assert score(embedded, data_of(task_folder, "openbookqa", limit=3), cache=tmp_path).n_evaluated == 3
    other = score_task(embedded, data, model_sha256="1" * 64, n_ctx=512, cache_dir=tmp_path, threads=1)
    assert other.n_evaluated == 12
    assert len(list(tmp_path.iterdir())) == 3


def test_a_stopped_run_goes_on(embedded: Path, task_folder: Path, tmp_path: Path) -> None:
    data = data_of(task_folder, "hellaswag")
    whole = score(embedded, data)
    advances = 0

    def stop(event: Event) -> None:
        nonlocal advances
        advances += isinstance(event, StageAdvanced) and event.done > 0
        if advances == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score(embedded, data, cache=tmp_path, events=EventBus(listeners=[stop]))
    (file,) = tmp_path.iterdir()
    # As if the disk had got half of the last line.
    file.write_bytes(file.read_bytes()[:-30])
    rest = score(embedded, data, cache=tmp_path)
    assert 0 < rest.n_evaluated < 12
    assert rest.scores == whole.scores
    assert score(embedded, data, cache=tmp_path).n_evaluated == 0


@pytest.mark.parametrize(
    "line",
    ["", "{", "[1]", "null", '{"index": 0}', '{"index": 0, "log_likelihoods": [1], "token_means": [1], "cut": false}',
     '{"index": 0, "log_likelihoods": [1, 2, 3, NaN], "token_means": [1, 2, 3, 4], "cut": false}'],
)  # fmt: skip
def test_damaged_scores_are_made_again(embedded: Path, task_folder: Path, tmp_path: Path, line: str) -> None:
    data = data_of(task_folder, "hellaswag", limit=1)
    first = score(embedded, data, cache=tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_text(line + "\n", encoding="utf-8")
    assert score(embedded, data, cache=tmp_path).scores == first.scores


def test_weights_that_are_not_finite(make_tiny_gguf: Callable[..., Path], task_folder: Path, tmp_path: Path) -> None:
    def spoil(weights: dict[str, np.ndarray]) -> None:  # type: ignore[type-arg]
        weights["output_norm.weight"][:] = np.nan

    path = make_tiny_gguf(tmp_path / "nan.gguf", edit=spoil)
    with pytest.raises(EvaluationError, match=r"nan\.gguf gives log-likelihoods that are not finite"):
        score(path, data_of(task_folder, "openbookqa", limit=2))


def test_what_would_abort_the_process_raises(embedded: Path) -> None:
    ids = np.arange(10, 14, dtype=np.int32)
    rows, wanted = [range(2)] * 4, np.ones(4, dtype=np.bool_)
    with pytest.raises(ValueError, match="300 sequences"):
        PackedSession(embedded, n_cells=256, n_sequences=300)
    with PackedSession(embedded, n_cells=4, n_sequences=2, threads=1) as session:
        with pytest.raises(ValueError, match="belongs to sequences"):
            list(session.packed_logits(ids, ids - 10, [range(1, 3)] * 4, wanted))
        with pytest.raises(ValueError, match="not described"):
            list(session.packed_logits(ids, ids - 10, rows[:3], wanted))
        with pytest.raises(EvaluationError, match="token ids reach"):
            list(session.packed_logits(ids + 10**6, ids - 10, rows, wanted))


def test_answers_by_each_metric() -> None:
    item = TaskItem(
        index=0, line=1, contexts=("c",) * 3, continuations=(" a", " bbbb", " cc"), n_characters=(1, 4, 2), gold=1
    )
    found = ItemScore(index=0, log_likelihoods=(-2.0, -4.0, -3.0), token_means=(-2.0, -2.0, -1.0), cut=False)
    assert [answer(item, found, metric) for metric in (Metric.ACC, Metric.ACC_NORM, Metric.ACC_TOKEN)] == [0, 1, 2]
    tied = replace(found, log_likelihoods=(-2.0, -2.0, -3.0))
    assert answer(item, tied, Metric.ACC) == 0


def agreement_with_llama_perplexity(llama_bin: Path, model: Path, text: str, folder: Path) -> float:
    """Our answers go into the file as the right ones, so that its accuracy is the share of answers that agree."""
    file = folder / "hellaswag.txt"
    file.write_text(text, encoding="utf-8")
    run = score(model, load_task(TASKS["hellaswag"], file))
    n = len(run.scores)
    lines = text.split("\n")
    lines[1::6] = [str(choice) for choice in answers(run, Metric.ACC_TOKEN)]
    file.write_text("\n".join(lines), encoding="utf-8")
    # All items of the file: fewer would be drawn at random.
    command = [llama_bin / "llama-perplexity", "-m", model, "-f", file, "--hellaswag", "--hellaswag-tasks", str(n)]
    done = subprocess.run(
        [*command, "-t", "1", "-c", "512", "-b", "512"], capture_output=True, text=True, check=True, errors="replace"
    )
    (percent,) = re.findall(rf"^{n}\t([0-9.]+)%", done.stdout, flags=re.MULTILINE)
    other = answers(run, Metric.ACC) == answers(run, Metric.ACC_TOKEN)
    assert other.mean() < 0.9, "another normalisation would not show"
    return float(percent) / 100


def test_hellaswag_agrees_with_llama_perplexity(
    llama_bin: Path, embedded: Path, hellaswag_file: Path, tmp_path: Path
) -> None:
    model = tmp_path / "q4_0.gguf"
    quantize_preset(embedded, model, "Q4_0", threads=1)
    text = hellaswag_file.read_text(encoding="utf-8")
    # One of the 48 may be a tie to within rounding. Measured: all agree.
    assert agreement_with_llama_perplexity(llama_bin, model, text, tmp_path) > 46.5 / 48


@pytest.mark.shared_data
def test_the_real_hellaswag_agrees_with_llama_perplexity(
    llama_bin: Path, embedded: Path, shared_data: Path, tmp_path: Path
) -> None:
    (file,) = shared_data.glob("hellaswag*.txt.bz2")
    lines = bz2.decompress(file.read_bytes()).decode("utf-8").split("\n")
    starts = [6 * i for i in spread_indices(len(lines) // 6, 100)]
    text = "\n".join(line for at in starts for line in lines[at : at + 6])
    assert agreement_with_llama_perplexity(llama_bin, embedded, text, tmp_path) > 0.985  # measured: all agree


def test_the_cache_holds_one_json_line_an_item(embedded: Path, task_folder: Path, tmp_path: Path) -> None:
    score(embedded, data_of(task_folder, "boolq"), cache=tmp_path)
    (file,) = tmp_path.iterdir()
    records = [json.loads(line) for line in file.read_text("utf-8").splitlines() if line]
    assert [record["index"] for record in records] == list(range(12))
    assert file.name.startswith("boolq-")
