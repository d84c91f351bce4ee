"""The benchmark page says what its records say; records survive the disk; rivals are found by bytes."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from ramp_edge.records import Divergence, EvaluationResult, Perplexity

TOOLS = Path(__file__).parents[2] / "tools"


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(TOOLS))
    import presets_table

    return presets_table


def result(label: str, file_bytes: int, kl: float | None) -> EvaluationResult:
    divergence = None if kl is None else Divergence(
        mean_kl=kl, std_error=0.001, median_kl=kl / 2, p99_kl=9 * kl, top_token_agreement=0.9, n_tokens=255
    )  # fmt: skip
    return EvaluationResult(
        label=label,
        file_bytes=file_bytes,
        perplexity=Perplexity(value=50.0, std_error=3.0, n_tokens=255, n_windows=1),
        divergence=divergence,
        seconds=1.0,
    )


def rows(table: ModuleType) -> list[object]:
    def row(label: str, kind: str, size: int, kl: float | None) -> object:
        return table.Row(
            label=label, kind=kind, file_bytes=size, seconds=None, result=result(label, size, kl), check=None
        )

    return [
        row("f16", "reference", 900, None),
        row("SMALL", "preset", 100, 0.4),
        row("LARGE", "preset", 200, 0.2),
        row("ours @ SMALL", "candidate", 99, 0.1),
        row("ours @ LARGE", "candidate", 200, 0.1),
        row("ours, larger than any preset", "candidate", 201, 0.1),
    ]


def test_the_page_is_what_its_records_say() -> None:
    run = subprocess.run(
        [sys.executable, TOOLS / "benchmark_page.py", "--check"], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr


def test_a_candidate_s_rival_has_no_fewer_bytes(table: ModuleType) -> None:
    rated = {row.label: (row.rival, row.kl_ratio) for row in table.rate(rows(table))}
    assert rated["ours @ SMALL"] == ("SMALL", pytest.approx(0.25))
    assert rated["ours @ LARGE"] == ("LARGE", pytest.approx(0.5))
    assert rated["ours, larger than any preset"] == (None, None)
    assert rated["SMALL"] == (None, None)


def test_records_survive_the_disk(table: ModuleType, tmp_path: Path) -> None:
    comparison = table.Comparison(
        title="Tiny", command="python tools/compare_presets.py", machine="test", versions={"commit": "0"}, imatrix_s=1.0,
        calibration_sha256="c", evaluation_sha256="e", rows=tuple(table.rate(rows(table))),
    )  # fmt: skip
    path = tmp_path / "presets-tiny.json"
    table.save(path, comparison)
    assert table.load(path) == comparison
    text = table.markdown(comparison)
    assert "**0.250** of SMALL" in text and text.index("| f16 |") < text.index("| ours @ SMALL |")
    assert table.markdown(replace(comparison, title="Other")) == text
    path.write_text(path.read_text().replace('"schema_version": 1', '"schema_version": 99'))
    with pytest.raises(ValueError, match="schema version"):
        table.load(path)
