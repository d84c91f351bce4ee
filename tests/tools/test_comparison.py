"""The comparison: rivals by bytes, records that survive the disk, a page that says what its records say, and one real run."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ramp_edge.records import Divergence, EvaluationResult, Perplexity

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / "tools"


@pytest.fixture
def records(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(TOOLS))
    import comparison.records

    return comparison.records


@pytest.fixture
def table(records: ModuleType) -> ModuleType:
    import comparison.table

    return comparison.table


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


def rows(records: ModuleType) -> tuple[Any, ...]:
    def row(label: str, kind: str, size: int, kl: float | None, at: str | None = None) -> Any:
        return records.Row(
            label=label, kind=kind, at=at, file_bytes=size, bits_per_weight=size / 25, result=result(label, size, kl)
        )

    speed = records.Speed(decode_tok_s=100.0, prefill_tok_s=900.0, decode_spread=0.04, rounds=3)
    return (
        row("f16", "reference", 400, None),
        replace(row("SMALL", "preset", 100, 0.4), speed=speed),
        row("WORSE", "preset", 150, 0.5),
        row("LARGE", "preset", 200, 0.2),
        row("LARGE:Q5_1", "preset+embedding", 180, 0.16),
        row("LARGE:IQ4_NL", "preset+embedding", 160, 0.35),
        row("ramp-edge @ SMALL", "ramp-edge", 99, 0.1, "SMALL"),
        row("ramp-edge @ WORSE", "ramp-edge", 150, 0.1, "WORSE"),
        row("ramp-edge @ LARGE", "ramp-edge", 200, 0.18, "LARGE"),
        row("no search @ SMALL", "ablation", 99, 0.15, "SMALL"),
    )


def comparison(records: ModuleType) -> Any:
    return records.Comparison(
        title="Tiny", command="python tools/compare.py", machine="test", versions={"commit": "0"}, calibration="c",
        evaluation="e", imatrix_s=1.0, notes=("AutoRound did not run.",), rows=rows(records),
        whole_build=records.WholeBuild(at="SMALL", seconds=3.0, calibration_s=2.0, peak_bytes=4_000_000),
    )  # fmt: skip


def test_the_page_is_what_its_records_say() -> None:
    run = subprocess.run(
        [sys.executable, TOOLS / "benchmark_page.py", "--check"], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr


def test_the_rival_is_the_best_preset_of_no_more_bytes(records: ModuleType, table: ModuleType) -> None:
    found = {m.preset.label: (m.best_preset.label, m.best_informed.label) for m in table.matches(rows(records))}
    assert found == {"SMALL": ("SMALL", "SMALL"), "WORSE": ("SMALL", "SMALL"), "LARGE": ("LARGE", "LARGE:Q5_1")}
    ratio, informed = table.medians(rows(records))
    assert ratio == pytest.approx(0.25) and informed == pytest.approx(0.25)


def test_where_every_plain_preset_is_larger_only_embedding_types_are_rivals(
    records: ModuleType, table: ModuleType
) -> None:
    made = [r for r in rows(records) if r.label not in ("SMALL", "WORSE", "ramp-edge @ SMALL", "ramp-edge @ WORSE")]
    made.append(replace(made[-2], label="ramp-edge @ LARGE:Q5_1", at="LARGE:Q5_1", file_bytes=180))
    found = {m.preset.label: m.ratio for m in table.matches(tuple(made))}
    assert found["LARGE:Q5_1"] is None and found["LARGE"] is not None
    text = table.markdown(replace(comparison(records), rows=tuple(r for r in made if r.kind != "ablation")))
    assert "| all are larger |" in text


def test_the_best_embedding_type_weighs_kl_against_bits(records: ModuleType, table: ModuleType) -> None:
    # 20 bytes are 0.8 bits here, worth a factor of 3.0 in KL; 0.35 is only 2.2 times 0.16.
    assert [r.label for r in table.best_embeddings(rows(records))] == ["LARGE:IQ4_NL"]


def test_a_loss_is_said_in_its_row(records: ModuleType, table: ModuleType) -> None:
    text = table.markdown(comparison(records))
    losses = [line for line in text.splitlines() if "**loses**" in line]
    assert len(losses) == 1 and losses[0].startswith("| LARGE ")
    assert "0.15000 (1.50x)" in text and "AutoRound did not run." in text and "100.0 (±2 %)" in text


def test_records_survive_the_disk(records: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "compare-tiny.json"
    made = comparison(records)
    records.save(path, made)
    assert records.load(path) == made
    path.write_text(path.read_text().replace('"schema_version": 2', '"schema_version": 99'))
    with pytest.raises(ValueError, match="schema version"):
        records.load(path)


def test_the_plot_is_the_same_each_time_and_names_the_presets(records: ModuleType, tmp_path: Path) -> None:
    from comparison.plot import draw

    for name in ("one.svg", "two.svg"):
        draw(comparison(records), tmp_path / name)
    text = (tmp_path / "one.svg").read_text()
    assert text == (tmp_path / "two.svg").read_text()
    assert "SMALL" in text and "ramp-edge" in text


@pytest.mark.slow
def test_a_run_compares_and_goes_on_where_it_was(records: ModuleType, llama_bin: Path, tmp_path: Path) -> None:
    """The embedded model against two presets, with every kind of rival and every ablation; then once more from the work folder."""
    text = tmp_path / "text.txt"
    text.write_text("".join((ROOT / "docs" / f"{name}.md").read_text() for name in ("method", "memory-model")))
    command = [
        sys.executable, TOOLS / "compare.py", "--reference", ROOT / "ramp_edge" / "data" / "ramp-edge-default-f16.gguf",
        "--tools", llama_bin, "--calibration", text, "--calibration-tokens", "2048", "--eval-text", text, "--windows", "2",
        "--preset", "Q4_0", "--preset", "Q8_0", "--embedding-type", "Q5_1", "--ablate", "Q4_0", "--knapsack", "Q4_0",
        "--check", "ramp-edge @ Q4_0", "--bench-rounds", "1", "-o", tmp_path / "out.json", "--work", tmp_path / "work",
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    first = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert first.returncode == 0, first.stderr
    made = records.load(tmp_path / "out.json")
    kinds = {row.kind for row in made.rows}
    assert kinds == {"reference", "preset", "preset+embedding", "imatrix knapsack", "ramp-edge", "ablation"}
    by_label = {row.label: row for row in made.rows}
    ours = by_label["ramp-edge @ Q4_0"]
    assert ours.file_bytes <= by_label["Q4_0"].file_bytes
    assert ours.kl < 0.7 * by_label["Q4_0"].kl  # measured: 0.30
    assert ours.check.mean_kl == pytest.approx(ours.kl, abs=max(2e-5, 3 * ours.check.kl_std_error))
    assert all(by_label[label].speed.decode_tok_s > 0 for label in ("Q4_0", "Q8_0", "ramp-edge @ Q4_0"))
    for part in ("no feedback", "no Fisher", "no allocation"):
        assert by_label[f"{part} @ Q4_0"].kl > ours.kl
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "work").glob("*.gguf")}
    again = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert again.returncode == 0, again.stderr
    # The first row is the reference, whose seconds are those of reading it from the cache.
    assert records.load(tmp_path / "out.json").rows[1:] == made.rows[1:]
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "work").glob("*.gguf")} == stamps
