"""bench.json: what is written reads back the same, and nothing else is taken for it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ramp_edge.device.bench_records import (
    SCHEMA_VERSION,
    BenchRecord,
    MemoryUse,
    ModelBench,
    PairedRatio,
    PerplexityCheck,
    Prediction,
    Speed,
    SweepPoint,
    Unstable,
    bench_json,
    read_bench,
)
from ramp_edge.device.facts import BoardFacts
from ramp_edge.errors import UsageError

number = st.floats(1e-3, 1e6)
some = st.none() | number
words = st.text(max_size=20)


def built(record: type, /, **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.builds(record, **fields)


counts = st.none() | st.integers(0, 2**40)
facts = built(
    BoardFacts,
    **{
        field.name: {
            "str | None": st.none() | words,
            "int | None": counts,
            "float | None": some,
            "tuple[str, ...]": st.lists(words, max_size=3).map(tuple),
            "tuple[int, ...]": st.lists(st.integers(0, 2**40), max_size=3).map(tuple),
            "dict[str, float]": st.dictionaries(words, number, max_size=3),
        }[str(field.type)]
        for field in dataclasses.fields(BoardFacts)
    },
)
speeds = built(
    Speed, kind=st.sampled_from(["decode", "prefill"]), samples_tok_s=st.lists(number, min_size=1, max_size=3).map(tuple),
    median_tok_s=number, spread=number, energy_j_per_token=some,
)  # fmt: skip
unstable = st.lists(
    built(Unstable, kind=st.sampled_from(["spread", "throttled", "swapping", "other_load"]), detail=words), max_size=2
).map(tuple)
models = built(
    ModelBench,
    sweep=st.lists(built(SweepPoint, decode_tok_s=number, prefill_tok_s=number), max_size=2).map(tuple),
    decode=st.lists(speeds, max_size=2).map(tuple),
    prefill=st.lists(speeds, max_size=2).map(tuple),
    memory=st.lists(
        built(
            MemoryUse,
            load_mode=st.sampled_from(["mmap", "none"]),
            peak_resident_bytes=counts,
            peak_anonymous_bytes=counts,
            load_s=some,
            predicted_bytes=counts,
        ),
        max_size=2,
    ).map(tuple),
    perplexity=st.none() | built(PerplexityCheck, board=number, board_std_error=number, host=number),
    prediction=st.none() | built(Prediction, decode_tok_s=number, measured_tok_s=some),
    unstable=unstable,
)
records = built(
    BenchRecord,
    exec_prefix=st.lists(words, max_size=2).map(tuple),
    agent=st.sampled_from(["python", "shell"]),
    wall_s=number,
    runtime_commit=st.none() | words,
    backends=st.none() | words,
    models=st.lists(models, max_size=2).map(tuple),
    ratios=st.lists(
        built(
            PairedRatio,
            kind=st.sampled_from(["decode", "prefill"]),
            samples=st.lists(number, max_size=2).map(tuple),
            median=number,
        ),
        max_size=2,
    ).map(tuple),
    energy_source=st.none() | words,
    facts_before=facts,
    facts_after=facts,
    unstable=unstable,
    notes=st.lists(words, max_size=2).map(tuple),
    schema_version=st.just(SCHEMA_VERSION),
)


@settings(
    max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None
)
@given(records)
def test_a_record_reads_back_the_same(tmp_path: Path, record: BenchRecord) -> None:
    path = tmp_path / "bench.json"
    path.write_text(bench_json(record), encoding="utf-8")
    assert read_bench(path) == record


def sample() -> dict[str, Any]:
    nothing = BoardFacts(
        **{
            f.name: () if "tuple" in str(f.type) else {} if "dict" in str(f.type) else None
            for f in dataclasses.fields(BoardFacts)
        }
    )
    record = BenchRecord(
        target="b", address="b", exec_prefix=(), agent="python", measured_at="2026-01-01T00:00:00+00:00", wall_s=1.0,
        ramp_edge_version="0", runtime_commit=None, backends=None, repeats=5, rounds=1, models=(), ratios=(), energy_source=None,
        facts_before=nothing, facts_after=nothing, unstable=(), notes=(),
    )  # fmt: skip
    assert record.is_stable
    data: dict[str, Any] = json.loads(bench_json(record))
    return data


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"schema_version": 2}, "has schema version 2, this ramp-edge reads 1"),
        ({"schema_version": None}, "has schema version None"),
        ({"agent": "telnet"}, "agent: Input should be"),
        ({"wall_s": "1"}, "wall_s: "),
        ({"surprise": 1}, "surprise: "),
        ({"facts_before": None}, "facts_before: "),
    ],
)
def test_other_documents_are_refused(change: dict[str, Any], expected: str, tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    path.write_text(json.dumps({**sample(), **change}))
    with pytest.raises(UsageError) as caught:
        read_bench(path)
    assert expected in caught.value.message


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff\xfe", b"null"])
def test_what_is_no_json_object(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="no bench record"):
        read_bench(path)
