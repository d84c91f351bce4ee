"""`gate init`: a budget that its own records pass, whatever they hold, and that notices what gets worse."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ramp_edge.errors import GateUndecidedError
from ramp_edge.gate.budget_file import read_budget
from ramp_edge.gate.documents import read_records
from ramp_edge.gate.judge import judge
from ramp_edge.gate.merge import merge
from ramp_edge.gate.metrics import METRICS, Better, Source, Unit
from ramp_edge.gate.run import gate_files, starter_file
from ramp_edge.gate.starter import starter_budget
from ramp_edge.gate.subject import Measurement, Subject
from ramp_edge.gate.verdict import Verdict

ASSETS = Path(__file__).parent / "assets"
NEW = [ASSETS / "new", ASSETS / "new" / "eval.json"]


def _uncommented(text: str) -> str:
    return text.replace("# - ", "- ")


def test_a_record_passes_its_own_budget(tmp_path: Path) -> None:
    path = tmp_path / "budgets.yaml"
    path.write_text(starter_file(NEW))
    result = gate_files(NEW, path)
    assert result.word == "pass"
    judged = {j.metric.name for j in result.subjects[0].judgements}
    assert judged == {
        "size_bytes", "resident_bytes", "kl_mean", "ppl_ratio", "decode_tok_s.median", "prefill_tok_s.median", "load_s.mmap",
        "peak_resident_bytes.mmap", "accuracy.piqa", "accuracy.openbookqa",
    }  # fmt: skip
    assert all(j.headroom is not None and 0 < j.headroom < 0.6 for j in result.subjects[0].judgements)


def test_the_regressions_that_it_suggests_hold_against_itself(tmp_path: Path) -> None:
    path = tmp_path / "budgets.yaml"
    path.write_text(_uncommented(starter_file(NEW)))
    result = gate_files(NEW, path, NEW)
    assert result.word == "pass", result.summary()
    assert sum(j.baseline is not None for j in result.subjects[0].judgements) >= 6


def test_every_rule_says_what_it_means(tmp_path: Path) -> None:
    text = starter_file(NEW)
    rules = [line for line in text.splitlines() if line.strip().startswith("- ")]
    assert len(rules) == 10
    for line in rules:
        name = line.split()[1]
        assert f"# {METRICS[name].meaning}; now " in line
    assert text.splitlines()[2].startswith("devices:")
    assert "  local:" in text.splitlines()


def test_a_build_alone_is_known_by_its_profile() -> None:
    assert "  x86-avx512-32gb:" in starter_file([ASSETS / "new" / "build.json"]).splitlines()


def test_a_task_evaluation_alone_has_no_device(tmp_path: Path) -> None:
    path = tmp_path / "budgets.yaml"
    path.write_text(starter_file([ASSETS / "new" / "eval.json"]))
    assert read_budget(path).defaults and not read_budget(path).devices
    assert gate_files([ASSETS / "new" / "eval.json"], path).word == "pass"


def test_nobody_is_held_to_an_unstable_bench() -> None:
    with pytest.raises(GateUndecidedError, match="is unstable: other_load"):
        starter_file([ASSETS / "old" / "build.json", ASSETS / "unstable.json"])


VALUE = st.floats(1e-6, 1e12)


@settings(max_examples=150, deadline=None)
@given(
    device=st.text(min_size=1, max_size=20),
    values=st.dictionaries(st.sampled_from(sorted(METRICS)), st.tuples(VALUE, st.floats(0, 0.6)), min_size=1),
)
def test_any_record_passes_its_own_budget(
    device: str, values: dict[str, tuple[float, float]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    measurements = {
        name: Measurement(
            value=max(1, round(v)) if METRICS[name].unit is Unit.BYTES else v, noise=v * n, path=Path("r")
        )
        for name, (v, n) in values.items()
    }
    subject = Subject(
        profile=None, target=device, model="m", file_sha256="a", source_sha256=None, file_bytes=1, paths=(Path("r"),),
        sources=frozenset(Source), measurements=measurements, doubts=(),
    )  # fmt: skip
    text = starter_budget([subject])
    if not any(line.strip().startswith("- ") for line in text.splitlines()):
        return  # nothing that a first budget speaks of
    path = tmp_path_factory.mktemp("starter") / "budgets.yaml"
    path.write_text(_uncommented(text), encoding="utf-8")
    result = judge(read_budget(path), [subject], [subject])
    assert {j.verdict for j in result.subjects[0].judgements} == {Verdict.PASS}, result.summary()


@pytest.mark.parametrize("name", ["size_bytes", "kl_mean", "decode_tok_s.median", "accuracy.piqa"])
def test_it_notices_what_gets_clearly_worse(name: str, tmp_path: Path) -> None:
    (subject,) = merge(read_records(NEW))
    path = tmp_path / "budgets.yaml"
    path.write_text(starter_budget([subject]))
    factor = 1.5 if METRICS[name].better is Better.LOWER else 0.6
    old = subject.measurements[name]
    worse = replace(subject, measurements={**subject.measurements, name: replace(old, value=old.value * factor)})
    result = judge(read_budget(path), [worse], None)
    assert [j.metric.name for _, j in result.violated] == [name]
