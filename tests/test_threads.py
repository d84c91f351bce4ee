"""Thread counts: bounded by what ggml holds, chosen by timing."""

from __future__ import annotations

import os

import pytest

from ramp_edge.threads import MAX_THREADS, ThreadChoice, default_threads


def test_a_large_machine_does_not_overrun_ggml(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(2000)), raising=False)
    assert default_threads() == MAX_THREADS == 512
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert default_threads() == 1


def test_the_choice_keeps_the_faster_half() -> None:
    choice = ThreadChoice(8)
    seen = []
    for seconds in (5.0, 1.0, 9.0):
        seen.append(choice.threads)
        choice.report(seconds)
    assert [*seen, choice.threads] == [8, 4, 4, 4]


def test_one_slow_step_decides_nothing() -> None:
    choice = ThreadChoice(4, trials=3)
    seen = []
    for seconds in (1.0, 50.0, 1.0, 2.0, 2.0, 0.1, 99.0):
        seen.append(choice.threads)
        choice.report(seconds)
    assert seen == [4, 4, 4, 2, 2, 2, 4]
    assert choice.threads == 4
