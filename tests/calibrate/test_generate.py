"""Text by the model itself: one seed, one text; tokens follow the model's own probabilities."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from ramp_edge.calibrate import generate
from ramp_edge.calibrate.generate import generate_windows, sample_rows
from ramp_edge.errors import EvaluationError
from ramp_edge.events import Event, EventBus, StageAdvanced, StageStarted
from ramp_edge.model.gguf_file import open_inventory
from ramp_edge.threads import ThreadChoice


def windows(
    path: Path,
    seed: int,
    *,
    bos: int | None = 7,
    count: int = 5,
    size: int = 24,
    threads: int | None = 1,
    events: EventBus | None = None,
) -> np.ndarray:
    vocab = open_inventory(path)[0].hyper.vocab_size
    return generate_windows(
        path,
        count=count,
        size=size,
        seed=seed,
        bos=bos,
        vocab_size=vocab,
        kv_bytes_per_token=1024,
        threads=threads,
        events=events or EventBus(),
    )


def test_one_seed_is_one_text(tiny_gguf: Path) -> None:
    first = windows(tiny_gguf, 3)
    assert first.shape == (5, 24)
    assert first.dtype == np.int32
    assert (first == windows(tiny_gguf, 3)).all()
    assert (first[:, 1:] != windows(tiny_gguf, 4)[:, 1:]).any()
    assert len(np.unique(first[:, 1:], axis=0)) == 5, "sequences repeat each other"


def test_windows_begin_as_the_model_expects(tiny_gguf: Path) -> None:
    assert (windows(tiny_gguf, 0, bos=7)[:, 0] == 7).all()
    assert len(np.unique(windows(tiny_gguf, 0, bos=None, count=12)[:, 0])) > 1


def test_groups_that_do_not_fit_at_once_are_decoded_in_turn(tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "KV_LIMIT_BYTES", 2 * 1024 * 24)
    seen: list[Event] = []
    found = windows(tiny_gguf, 3, events=EventBus(listeners=[seen.append]))
    assert len(np.unique(found[:, 1:], axis=0)) == 5
    assert isinstance(seen[0], StageStarted)
    done = [e.done for e in seen if isinstance(e, StageAdvanced)]
    assert done == sorted(done)
    assert done[-1] == seen[0].total, "the bar stops short of its end"


class RecordedChoice(ThreadChoice):
    """Keeps the numbers of threads of all steps."""

    used: ClassVar[list[int]] = []

    @property
    def threads(self) -> int:
        self.used.append(super().threads)
        return self.used[-1]


def test_threads_are_chosen_by_timing_and_do_not_show_in_the_text(
    tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generate, "default_threads", lambda: 4)
    monkeypatch.setattr(generate, "ThreadChoice", RecordedChoice)
    # Beyond 256 positions ggml would split a single sequence's attention among its threads.
    chosen = windows(tiny_gguf, 3, count=2, size=300, threads=None)
    assert set(RecordedChoice.used) == {4, 2}
    assert (chosen == windows(tiny_gguf, 3, count=2, size=300, threads=1)).all()


def test_a_single_sequence_keeps_its_number_of_threads(tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "default_threads", lambda: 3)
    monkeypatch.setattr(generate, "ThreadChoice", RecordedChoice)
    RecordedChoice.used.clear()
    assert (windows(tiny_gguf, 3, count=1, threads=None) == windows(tiny_gguf, 3, count=1, threads=3)).all()
    assert not RecordedChoice.used


def test_tokens_follow_the_model(tiny_gguf: Path) -> None:
    """The model's likely tokens are drawn more often than by chance."""
    from ramp_edge.evaluate.llama import LlamaSession

    found = windows(tiny_gguf, 1, count=8)
    gains = []
    with LlamaSession(tiny_gguf, n_ctx=24, threads=1) as session:
        for window in found:
            session.clear()
            logits = session.logits(window[:-1], 0).astype(np.float64)
            log_p = logits - np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1, keepdims=True))
            log_p -= logits.max(1, keepdims=True)
            entropy = -(np.exp(log_p) * log_p).sum(1)
            gains.append(-log_p[np.arange(23), window[1:]] - entropy)
    # Surprise equals entropy on average: 0 within a few standard errors of 184 draws.
    surplus = np.concatenate(gains)
    assert abs(surplus.mean()) < 4 * surplus.std() / surplus.size**0.5


def test_sampling_inverts_the_softmax() -> None:
    logits = np.log(np.array([[0.1, 0.6, 0.3]], dtype=np.float32)) + 50
    drawn = sample_rows(np.repeat(logits, 20_000, axis=0), np.random.default_rng(0))
    shares = np.bincount(drawn, minlength=3) / drawn.size
    assert shares == pytest.approx([0.1, 0.6, 0.3], abs=0.012)
    certain = np.array([[-1e30, 0.0, -1e30]], dtype=np.float32)
    assert sample_rows(certain, np.random.default_rng(0)).tolist() == [1]


def test_a_file_that_is_no_model_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"GGUF" + bytes(64))
    with pytest.raises(EvaluationError, match=r"cannot load .*broken\.gguf"):
        generate_windows(
            path,
            count=1,
            size=8,
            seed=0,
            bos=None,
            vocab_size=8,
            kv_bytes_per_token=8,
            threads=1,
            events=EventBus(),
        )
