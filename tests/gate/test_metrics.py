"""Names of metrics: what the records' own code calls things, short names, depths, suggestions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ramp_edge.cli import tasks_report
from ramp_edge.device import bench_records
from ramp_edge.evaluate.tasks.definitions import TASKS as TASK_DEFINITIONS
from ramp_edge.gate.metrics import ALIASES, METRICS, TASKS, Source, at_depth, find_metric
from ramp_edge.pipeline import record
from ramp_edge.record_files import SCHEMA_VERSIONS, RecordKind


def test_the_versions_are_those_that_are_written() -> None:
    assert SCHEMA_VERSIONS[RecordKind.BUILD] == record.SCHEMA_VERSION
    assert SCHEMA_VERSIONS[RecordKind.BENCH] == bench_records.SCHEMA_VERSION
    assert SCHEMA_VERSIONS[RecordKind.TASKS] == tasks_report.SCHEMA_VERSION


def test_the_tasks_are_those_that_are_evaluated() -> None:
    assert {name: tuple(m.value for m in d.metrics) for name, d in TASK_DEFINITIONS.items()} == TASKS


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("decode_tok_s", "decode_tok_s.median"),
        ("decode_tok_s.depth_512", "decode_tok_s.depth_512.median"),
        ("decode_tok_s.depth_512.min", "decode_tok_s.depth_512.min"),
        ("decode_tok_s.depth_0.median", "decode_tok_s.median"),
        ("energy_j_per_token.depth_2048", "energy_j_per_token.depth_2048"),
        ("load_s", "load_s.mmap"),
        ("peak_resident_bytes.none", "peak_resident_bytes.none"),
        ("accuracy.hellaswag", "accuracy.hellaswag"),
    ],
)
def test_short_names(written: str, canonical: str) -> None:
    assert find_metric(written).name == canonical


@pytest.mark.parametrize(
    ("written", "near"),
    [
        ("sise_bytes", "'size_bytes'"),
        ("decode_tok_s.medain", "'decode_tok_s.median'"),
        ("accuracy.helaswag", "'accuracy.hellaswag'"),
        ("kl", "docs/gates.md"),
        ("load_s.depth_512", "docs/gates.md"),
        ("decode_tok_s.depth_-1", "decode_tok_s"),
        ("", "docs/gates.md"),
    ],
)
def test_an_unknown_name_gets_a_suggestion(written: str, near: str) -> None:
    with pytest.raises(ValueError, match="unknown metric") as caught:
        find_metric(written)
    assert near in str(caught.value)


@given(st.sampled_from(sorted(METRICS)), st.integers(0, 10**8))
def test_every_name_finds_itself(name: str, depth: int) -> None:
    assert find_metric(name) is METRICS[name]
    if name.startswith(("decode_tok_s", "prefill_tok_s", "energy")):
        assert find_metric(at_depth(name, depth)).name == at_depth(name, depth)


def test_every_metric_explains_itself() -> None:
    assert set(ALIASES.values()) <= set(METRICS)
    assert all(metric.meaning and metric.name == name for name, metric in METRICS.items())
    assert {metric.source for metric in METRICS.values()} == set(Source)
