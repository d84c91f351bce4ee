"""What a bench measures, decided from options and first speeds."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ramp_edge.device.bench_plan import (
    BenchOptions,
    Lengths,
    choose_depths,
    measured_lengths,
    memory_context,
    pick_threads,
    sweep_lengths,
    thread_candidates,
    turn_order,
)
from ramp_edge.device.bench_records import SweepPoint
from ramp_edge.errors import UsageError


@pytest.mark.parametrize(
    ("cores", "expected"),
    [
        (1, (1,)),
        (2, (1, 2)),
        (4, (1, 2, 3, 4)),
        (8, tuple(range(1, 9))),
        (12, (1, 2, 4, 6, 8, 12)),
        (64, (1, 2, 4, 8, 16, 32, 64)),
    ],
)
def test_thread_counts(cores: int, expected: tuple[int, ...]) -> None:
    assert thread_candidates(cores, None) == expected


def test_given_thread_counts() -> None:
    assert thread_candidates(4, (4, 2)) == (2, 4)
    with pytest.raises(UsageError, match="the board has 4 cores"):
        thread_candidates(4, (2, 5))


def point(threads: int, decode: float, prefill: float) -> SweepPoint:
    return SweepPoint(threads=threads, decode_tok_s=decode, prefill_tok_s=prefill)


def test_fewer_threads_win_a_tie() -> None:
    points = [point(1, 10, 20), point(2, 19.7, 40), point(3, 20, 60), point(4, 18, 80)]
    assert pick_threads(points) == (2, 4)
    assert pick_threads([point(1, 10, 20), point(2, 10.3, 20.3)]) == (2, 1)


@pytest.mark.parametrize(
    "options",
    [{"repeats": 4}, {"rounds": 0}, {"timeout_s": 0.0}, {"timeout_s": float("inf")}, {"timeout_s": float("nan")}, {"threads": ()}, {"threads": (0,)},
     {"threads": (2, 2)}, {"depths": (-1,)}, {"depths": ()}],
)  # fmt: skip
def test_options_that_make_no_sense(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        BenchOptions(**options)


@given(st.integers(5, 40), st.none() | st.integers(1, 60), st.integers(1, 6))
def test_there_are_never_fewer_repeats_than_asked(repeats: int, rounds: int | None, n_models: int) -> None:
    options = BenchOptions(repeats=repeats, rounds=rounds)
    assert options.rounds_for(n_models) * options.repeats_per_round(n_models) >= repeats


@given(st.floats(0.01, 1e6), st.floats(0.01, 1e6), st.integers(4, 10**6))
def test_lengths_stay_within_half_of_the_context(decode: float, prefill: float, context: int) -> None:
    for lengths in (sweep_lengths(decode, prefill, context), measured_lengths(decode, prefill, context)):
        assert 1 <= lengths.n_gen <= min(128, context // 2)
        assert 1 <= lengths.n_prompt <= min(512, context // 2)


def test_a_repeat_takes_about_a_second() -> None:
    assert measured_lengths(3.0, 10.0, 4096) == Lengths(n_prompt=64, n_gen=16)
    assert measured_lengths(40.0, 300.0, 4096) == Lengths(n_prompt=256, n_gen=32)
    assert measured_lengths(5000.0, 50000.0, 4096) == Lengths(n_prompt=512, n_gen=128)


def test_depths() -> None:
    lengths = Lengths(n_prompt=128, n_gen=32)
    assert choose_depths(None, None, 8192, lengths, 1000.0) == ((0, 512, 2048), ())
    assert choose_depths(None, 1024, 2048, lengths, 1000.0) == ((0, 512, 1024), ())
    depths, notes = choose_depths(None, 1024, 8192, lengths, 10.0)
    assert depths == (0, 512)
    assert [note.split(":")[0] for note in notes] == ["depth 1024 is left out", "depth 2048 is left out"]
    assert choose_depths((2048, 0), None, 8192, lengths, 10.0) == ((0, 2048), ())
    with pytest.raises(UsageError, match=r"--depths 2048: with 128 tokens more the model's context of 2048"):
        choose_depths((0, 2048), None, 2048, lengths, 1000.0)


@given(st.none() | st.integers(0, 5000), st.integers(4, 10**5), st.floats(0.1, 1e5))
def test_depth_0_is_always_measured(predicted: int | None, context: int, prefill: float) -> None:
    lengths = measured_lengths(10.0, prefill, context)
    depths, _ = choose_depths(None, predicted, context, lengths, prefill)
    assert depths[0] == 0
    assert all(depth + max(lengths.n_prompt, lengths.n_gen) <= context for depth in depths)


def test_memory_context() -> None:
    assert memory_context(2048, 100.0) == 2048
    assert memory_context(2048, 10.0) == 512
    assert memory_context(2048, 0.01) == 32
    assert memory_context(16, 0.01) == 16


def test_every_second_round_runs_backwards() -> None:
    assert [turn_order(3, n) for n in range(3)] == [(0, 1, 2), (2, 1, 0), (0, 1, 2)]
