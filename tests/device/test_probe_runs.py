"""How long a probe's runs are, and which rounds count on a board that is now and then slower."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ramp_edge.device import probe_runs
from ramp_edge.device.probe_runs import MOST_WAITS, REPEAT_S, Pace, lengths_for


@given(st.floats(0.1, 1e6), st.floats(0.1, 1e5))
def test_a_run_decodes_for_about_two_repeats_however_quick_the_model(prefill_tok_s: float, decode_tok_s: float) -> None:
    lengths = lengths_for(prefill_tok_s, decode_tok_s)
    assert 8 <= lengths.n_gen <= 128 and 32 <= lengths.n_prompt <= 512 and 2 <= lengths.repeats <= 64
    seconds = lengths.repeats * lengths.n_gen / decode_tok_s
    if 8 / REPEAT_S <= decode_tok_s <= 64 * 128 / (2 * REPEAT_S):
        assert 1.5 * REPEAT_S <= seconds <= 2.5 * REPEAT_S
    else:
        assert seconds > 2 * REPEAT_S or lengths.repeats == 64


class Board:
    """Its pace, reading by reading; the last one stays."""

    def __init__(self, *tok_s: float) -> None:
        self._tok_s = list(tok_s)

    def decode_tok_s(self, path: str, *, share: float) -> float:
        assert path == "model.gguf" and share < 1.0, "the pace is a short look"
        return self._tok_s.pop(0) if len(self._tok_s) > 1 else self._tok_s[0]


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    waited: list[float] = []
    monkeypatch.setattr(probe_runs.time, "sleep", waited.append)
    return waited


def pace_of(*tok_s: float) -> Pace:
    return Pace(Board(*tok_s), "model.gguf")  # type: ignore[arg-type]


def test_a_board_that_keeps_its_pace_is_measured_as_often_as_asked(waits: list[float]) -> None:
    pace = pace_of(100.0, 95.0, 101.0, 90.0)
    assert pace.rounds(lambda number: number, 3) == [0, 1, 2]
    assert pace.disturbed_rounds == 0 and not waits


def test_rounds_that_end_at_another_pace_are_made_again(waits: list[float]) -> None:
    # Before, after the first, after the second (lost), twice while waiting, after the third.
    pace = pace_of(100.0, 100.0, 70.0, 70.0, 100.0, 99.0)
    assert pace.rounds(lambda number: number, 2) == [0, 2]
    assert pace.disturbed_rounds == 1
    assert len(waits) == 2


def test_a_faster_pace_makes_the_earlier_one_the_slower(waits: list[float]) -> None:
    pace = pace_of(70.0, 70.0, 100.0, 100.0)
    assert pace.rounds(lambda number: number, 3) == [2, 3, 4], "the first two were thought to be good"
    assert pace.last_tok_s == 100.0 and pace.disturbed_rounds == 2 and not waits
    slow = pace_of(100.0, 70.0)
    slow.rounds(lambda number: number, 1)
    assert len(waits) == MOST_WAITS


def test_a_board_that_has_slowed_down_for_good_is_measured_as_it_is(waits: list[float]) -> None:
    pace = pace_of(100.0, 70.0)
    assert pace.rounds(lambda number: number, 2) == list(range(5)), "all that there are, and no endless wait"
    assert len(waits) == MOST_WAITS
    assert pace.disturbed_rounds == 0
    assert pace.rounds(lambda number: number, 2) == [0, 1], "the new pace is its own"
    assert len(waits) == MOST_WAITS
    assert pace.last_tok_s == 70.0 and pace.was_slower(70.0) and not pace.was_slower(90.0)
    assert not pace.comes_back()


def test_what_was_measured_before_the_best_pace_was_known_can_be_measured_again(waits: list[float]) -> None:
    pace = pace_of(70.0, 70.0, 70.0, 100.0, 70.0, 98.0)
    assert pace.rounds(lambda number: number, 2) == [0, 1]
    first_tok_s = pace.last_tok_s
    assert pace.rounds(lambda number: number, 1) == [1]
    assert pace.was_slower(first_tok_s) and pace.comes_back()
