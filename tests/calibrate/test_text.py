"""Windows of text: none is both calibration and held out, each is a true piece of one stream."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ramp_edge.calibrate.text import MIN_WINDOWS, TextWindows, windows_of, with_bos
from ramp_edge.errors import CalibrationError


def numbered(lengths: list[int]) -> list[npt.NDArray[np.int32]]:
    """Streams in which every token is unique, so that a window's place shows in its values."""
    ends = np.cumsum([0, *lengths])
    return [np.arange(ends[i], ends[i + 1], dtype=np.int32) for i in range(len(lengths))]


def cut(lengths: list[int], count: int, held_out: int, size: int) -> TextWindows:
    names = [f"text{i}" for i in range(len(lengths))]
    return windows_of(numbered(lengths), names, count=count, held_out=held_out, size=size)


@settings(deadline=None, max_examples=300)
@given(
    lengths=st.lists(st.integers(0, 400), min_size=1, max_size=4),
    count=st.integers(1, 30),
    held_out=st.integers(0, 20),
    size=st.integers(2, 40),
)
def test_windows_never_overlap(lengths: list[int], count: int, held_out: int, size: int) -> None:
    if sum(length // size for length in lengths) < MIN_WINDOWS:
        with pytest.raises(CalibrationError):
            cut(lengths, count, held_out, size)
        return
    text = cut(lengths, count, held_out, size)
    assert 1 <= len(text.calibration) <= count
    assert len(text.held_out) <= held_out
    assert text.calibration.dtype == text.held_out.dtype == np.int32
    everything = np.concatenate([text.calibration, text.held_out])
    assert everything.shape[1] == size
    assert len(np.unique(everything)) == everything.size, "a token is in two windows"
    ends = np.cumsum(lengths)
    for window in everything:
        assert (np.diff(window) == 1).all(), "not a piece of the text"
        assert np.searchsorted(ends, window[0], "right") == np.searchsorted(ends, window[-1], "right"), "two texts"


def test_long_text_gives_what_was_asked_for() -> None:
    text = cut([100_000, 50_000], count=40, held_out=16, size=128)
    assert text.calibration.shape == (40, 128)
    assert text.held_out.shape == (16, 128)
    assert text.source == "text0, text1"


def test_both_sets_span_the_whole_text() -> None:
    text = cut([100_000], count=40, held_out=10, size=100)
    for windows in (text.calibration, text.held_out):
        assert windows.min() < 10_000
        assert windows.max() > 85_000


def test_every_text_takes_part() -> None:
    text = cut([100_000, 1_000, 100_000], count=30, held_out=0, size=100)
    ends = np.array([100_000, 101_000, 201_000])
    places = np.searchsorted(ends, text.calibration[:, 0], "right")
    assert set(places) == {0, 1, 2}


def test_little_text_is_not_spent_on_evaluation() -> None:
    text = cut([35], count=10, held_out=10, size=10)
    assert len(text.calibration) == 3
    assert len(text.held_out) == 0


@pytest.mark.parametrize("lengths", [[0], [10], [255], [60, 70, 90]])
def test_too_little_text_is_said_with_numbers(lengths: list[int]) -> None:
    with pytest.raises(CalibrationError) as caught:
        cut(lengths, count=4, held_out=4, size=128)
    assert "text0" in caught.value.message
    assert str(sum(lengths)) in caught.value.message
    assert "256" in caught.value.message
    assert caught.value.hint


def test_scattered_text_is_said_with_numbers() -> None:
    with pytest.raises(CalibrationError, match=r"text0, text1, text2.* 300 tokens"):
        cut([100, 100, 100], count=4, held_out=0, size=128)


def test_begin_of_sequence_replaces_the_first_token() -> None:
    windows = np.arange(12, dtype=np.int32).reshape(3, 4)
    marked = with_bos(windows, 99)
    assert marked[:, 0].tolist() == [99, 99, 99]
    assert (marked[:, 1:] == windows[:, 1:]).all()
    assert windows[0, 0] == 0, "the caller's windows were changed"
    assert (with_bos(windows, None) == windows).all()
