"""The user's texts: refused by name before anything expensive, short ones named, windows as the evaluator cuts them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ramp_edge.build import build
from ramp_edge.errors import CalibrationError
from ramp_edge.evaluate.evaluator import tokenize_text
from ramp_edge.events import Event, EventBus, StageStarted
from ramp_edge.model.gguf_file import open_inventory
from ramp_edge.pipeline.request import EFFORTS, BuildRequest, Effort
from ramp_edge.pipeline.texts import GivenWindows, cut_texts, read_texts

Make = Callable[..., BuildRequest]
LONG = "the small board reads a page of words and writes the next one. " * 400
SHORT = "too short for one window"


def cut(request: BuildRequest, events: EventBus | None = None) -> GivenWindows:
    assert request.model is not None
    inventory, _ = open_inventory(Path(request.model))
    return cut_texts(request, read_texts(request), inventory, events or EventBus())


@pytest.mark.parametrize("dry_run", [False, True])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read"),
        (b"", "is empty"),
        (SHORT.encode(), r"--eval-text .*: \d+ tokens, one window needs 512"),
        (LONG.encode() + b"\0", "byte 25200 is NUL"),
        (LONG.encode() + b"\xe9", "byte 25200 is 0xE9"),
    ],
)
def test_a_bad_eval_text_is_refused_before_the_work(
    tiny_request: Make, tmp_path: Path, content: bytes | None, words: str, dry_run: bool
) -> None:
    text = tmp_path / "eval.txt"
    if content is not None:
        text.write_bytes(content)

    def no_work(event: Event) -> None:
        assert not isinstance(event, StageStarted) or event.name == "hash the model", event

    with pytest.raises(CalibrationError, match=words) as caught:
        build(tiny_request(eval_text=text, dry_run=dry_run), EventBus(listeners=[no_work]))
    assert "eval.txt" in caught.value.message
    assert not (tmp_path / "out").exists()


def test_a_short_calibration_file_is_named_and_left_out(tiny_request: Make, tmp_path: Path) -> None:
    short, long = tmp_path / "short.txt", tmp_path / "long.txt"
    short.write_text(SHORT)
    long.write_text(LONG)
    events = EventBus()
    given = cut(tiny_request(calibration=(short, long)), events)
    assert given.calibration is not None and given.calibration.source == "long.txt"
    [warning] = events.warnings
    assert "short.txt is not used: it has " in warning and "one window needs 512" in warning
    alone = cut(tiny_request(calibration=(long,)))
    assert alone.calibration is not None
    np.testing.assert_array_equal(given.calibration.calibration, alone.calibration.calibration)


def test_where_every_file_is_short_all_are_named(tiny_request: Make, tmp_path: Path) -> None:
    paths = (tmp_path / "a.txt", tmp_path / "b.txt")
    for path in paths:
        path.write_text(SHORT)
    with pytest.raises(CalibrationError, match=r"a\.txt, b\.txt: \d+ tokens in all"):
        cut(tiny_request(calibration=paths))


def test_an_eval_text_is_cut_from_its_beginning_and_nothing_is_held_out(tiny_request: Make, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text(LONG)
    request = tiny_request(calibration=(text,), eval_text=text)
    given = cut(request)
    assert given.evaluation is not None and given.calibration is not None
    n_windows = EFFORTS[Effort.FAST].evaluation_windows
    assert given.evaluation.shape == (n_windows, 512)
    tokens = tokenize_text(Path(str(request.model)), LONG)
    np.testing.assert_array_equal(given.evaluation.reshape(-1), tokens[: n_windows * 512])
    assert len(given.calibration.held_out) == 0


def test_without_texts_there_are_no_windows(tiny_request: Make) -> None:
    given = cut(tiny_request())
    assert given.calibration is None and given.evaluation is None
