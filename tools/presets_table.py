"""The comparison with presets as a record and as Markdown: what `compare_presets.py` saves and `benchmark_page.py` prints."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from llama_tools import ToolScore

from ramp_edge.records import Divergence, EvaluationResult, Perplexity

SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One file of the table."""

    label: str
    kind: str
    """reference, preset or candidate"""
    file_bytes: int
    seconds: float | None
    """llama-quantize's for a preset, the whole build's for a candidate."""
    result: EvaluationResult
    check: ToolScore | None
    peak_bytes: int | None = None
    """Peak resident memory of the build."""
    rival: str | None = None
    """For a candidate, the preset it is compared with."""
    kl_ratio: float | None = None
    """Its mean KL over the rival's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """One run of `compare_presets.py`."""

    title: str
    command: str
    machine: str
    versions: dict[str, str]
    imatrix_s: float
    calibration_sha256: str
    evaluation_sha256: str
    rows: tuple[Row, ...]


def rate(rows: list[Row]) -> list[Row]:
    """Give every candidate its rival, the smallest preset of no fewer bytes, and the ratio of mean KL."""
    presets = sorted((r for r in rows if r.kind == "preset"), key=lambda r: r.file_bytes)
    rated = []
    for row in rows:
        rival = next((p for p in presets if p.file_bytes >= row.file_bytes), None)
        if row.kind == "candidate" and rival is not None and rival.result.divergence is not None:
            assert row.result.divergence is not None
            ratio = row.result.divergence.mean_kl / rival.result.divergence.mean_kl
            row = replace(row, rival=rival.label, kl_ratio=ratio)  # noqa: PLW2901
        rated.append(row)
    return rated


def save(path: Path, comparison: Comparison) -> None:
    """Write the record as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"schema_version": SCHEMA_VERSION, **asdict(comparison)}, indent=1) + "\n")


def load(path: Path) -> Comparison:
    """Read a record back. Raises ValueError for another schema version."""
    data = json.loads(path.read_text())
    if data.pop("schema_version", None) != SCHEMA_VERSION:
        raise ValueError(f"{path}: not a comparison of schema version {SCHEMA_VERSION}")
    return Comparison(**{**data, "rows": tuple(row_from(entry) for entry in data["rows"])})


def row_from(data: dict[str, Any]) -> Row:
    """A row saved by `asdict`."""
    result, check = data["result"], data["check"]
    divergence = result["divergence"]
    return Row(
        **{
            **data,
            "result": EvaluationResult(
                **{
                    **result,
                    "perplexity": Perplexity(**result["perplexity"]),
                    "divergence": None if divergence is None else Divergence(**divergence),
                }
            ),
            "check": None if check is None else ToolScore(**check),
        }
    )


def markdown(comparison: Comparison) -> str:
    """The table, smallest file first, the reference on top."""
    rows = comparison.rows
    windows = rows[0].result.perplexity.n_windows
    lines = [
        f"Made by `{comparison.command}` on {comparison.machine}; "
        + ", ".join(f"{name} {version}" for name, version in comparison.versions.items())
        + f". llama-imatrix took {comparison.imatrix_s:.1f} s. Scored: {windows} windows.",
        "",
        "| file | bytes | mean KL | median KL | same top | perplexity | seconds | KL / preset |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in sorted(rows, key=lambda r: (r.kind != "reference", r.file_bytes, r.kind)):
        d, p = row.result.divergence, row.result.perplexity
        seconds = "" if row.seconds is None else f"{row.seconds:.1f}"
        ratio = "" if row.kl_ratio is None else f"**{row.kl_ratio:.3f}** of {row.rival}"
        kl = ("", "", "") if d is None else (
            f"{d.mean_kl:.5f} ± {d.std_error:.5f}", f"{d.median_kl:.5f}", f"{100 * d.top_token_agreement:.1f} %"
        )  # fmt: skip
        lines.append(
            f"| {row.label} | {row.file_bytes:,} | {kl[0]} | {kl[1]} | {kl[2]} "
            f"| {p.value:.4f} ± {p.std_error:.4f} | {seconds} | {ratio} |"
        )
    return "\n".join([*lines, *_checks(rows)]) + "\n"


def _checks(rows: tuple[Row, ...]) -> list[str]:
    checked = [r for r in rows if r.check is not None]
    if not checked:
        return []
    lines = ["", "| file | KL here | KL of llama-perplexity | PPL here | PPL of llama-perplexity |"]
    lines.append("|---|---:|---:|---:|---:|")
    for row in checked:
        assert row.check is not None
        own = "" if row.result.divergence is None else f"{row.result.divergence.mean_kl:.6f}"
        other = "" if row.check.mean_kl is None else f"{row.check.mean_kl:.6f} ± {row.check.kl_std_error:.6f}"
        lines.append(f"| {row.label} | {own} | {other} | {row.result.perplexity.value:.4f} | {row.check.ppl:.4f} |")
    return lines
