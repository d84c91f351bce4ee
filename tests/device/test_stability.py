"""Reasons for doubt, from records made up for each."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ramp_edge.device.bench_records import Speed, spread
from ramp_edge.device.facts import BoardFacts, LoadReading
from ramp_edge.device.facts_parse import parse_facts
from ramp_edge.device.raw_facts import RawFacts
from ramp_edge.device.stability import OtherLoad, board_reasons, spread_reasons

CALM: BoardFacts = replace(
    parse_facts(RawFacts(files={}, commands={})),
    cores=4, busy_cores=0.02, swapped_pages=1000, throttle_flags=0x10000, throttle_events=5,
)  # fmt: skip


def speed(*samples: float) -> Speed:
    return Speed(
        kind="decode", depth_tokens=512, n_tokens=32, threads=2, samples_tok_s=samples, median_tok_s=sorted(samples)[len(samples) // 2],
        spread=spread(samples), energy_j_per_token=None,
    )  # fmt: skip


def test_spread_is_the_range_over_the_median() -> None:
    assert spread([10.0, 11.0, 9.0]) == pytest.approx(0.2)
    assert spread([10.0]) == 0.0


def test_scattered_repeats() -> None:
    assert spread_reasons([speed(20.0, 20.5, 20.9)]) == ()
    (reason,) = spread_reasons([speed(20.0, 20.0, 20.0), speed(20.0, 20.5, 22.0)])
    assert reason.kind == "spread"
    assert reason.detail == "decode at depth 512: repeats lie 9.8% apart (20 to 22 tok/s), more than 5%"


def test_a_calm_board() -> None:
    # What happened before the bench (bit 16, 5 events) is no reason.
    assert board_reasons(CALM, CALM) == ()
    unknown = parse_facts(RawFacts(files={}, commands={}))
    assert board_reasons(unknown, unknown) == ()


@pytest.mark.parametrize(
    ("before", "after", "kind", "detail"),
    [
        ({"throttle_flags": 0x1}, {"throttle_flags": 0x1}, "throttled", "before the bench: under-voltage"),
        ({}, {"throttle_flags": 0x10004}, "throttled", "after the bench: throttled"),
        ({}, {"throttle_flags": 0x50000}, "throttled", "during the bench: throttled"),
        ({}, {"throttle_events": 8}, "throttled", "during the bench: cores were slowed 3 times for their heat"),
        ({}, {"thermal_caps": ("cpufreq-cpu0 at step 2",)}, "throttled", "after the bench: cpufreq-cpu0 at step 2"),
        ({}, {"swapped_pages": 1500}, "swapping", "500 pages were swapped in or out during the bench"),
        ({"busy_cores": 1.31}, {}, "other_load", "before the bench other work kept 1.3 of 4 cores busy"),
    ],
)
def test_reasons(before: dict[str, object], after: dict[str, object], kind: str, detail: str) -> None:
    reasons = board_reasons(replace(CALM, **before), replace(CALM, **after))  # type: ignore[arg-type]
    assert (kind, detail) in [(reason.kind, reason.detail) for reason in reasons]


def test_other_work_while_measuring() -> None:
    def reading(busy_s: float | None, uptime_s: float | None) -> LoadReading:
        return LoadReading(busy_s=busy_s, uptime_s=uptime_s)

    load = OtherLoad()
    load.add(reading(100.0, 50.0), reading(120.2, 60.0), 20.0)
    assert load.reasons() == ()
    load.add(reading(200.0, 70.0), reading(214.0, 72.0), 4.0)
    (reason,) = load.reasons()
    assert reason.kind == "other_load" and reason.detail.startswith("while it was measured, other work kept 0.85 cores")
    silent = OtherLoad()
    silent.add(reading(1.0, 1.0), reading(9.0, 2.0), None)
    silent.add(reading(None, 1.0), reading(9.0, 2.0), 1.0)
    silent.add(reading(1.0, 1.0), reading(9.0, None), 1.0)
    assert silent.reasons() == ()
