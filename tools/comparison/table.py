"""The comparison as Markdown: one line a preset's bytes, then every file."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

from comparison.records import ABLATION, AUTOROUND, EMBEDDING, KNAPSACK, OURS, PRESET, REFERENCE, Comparison, Row


@dataclass(frozen=True, kw_only=True, slots=True)
class Match:
    """ramp-edge at one preset's bytes, and the rivals of no more bytes than the preset."""

    ours: Row
    preset: Row
    best_preset: Row | None
    """None where every plain preset is larger."""
    best_informed: Row
    """Of presets with any embedding type."""

    @property
    def ratio(self) -> float | None:
        """Mean KL over that of the best preset."""
        return None if self.best_preset is None else self.ours.kl / self.best_preset.kl

    @property
    def informed_ratio(self) -> float:
        """Mean KL over that of the best preset with any embedding type."""
        return self.ours.kl / self.best_informed.kl


def matches(rows: tuple[Row, ...]) -> list[Match]:
    """Every ramp-edge file with its rivals, smallest first. A preset's own file is always among them."""
    by_label = {row.label: row for row in rows}
    found = []
    for row in sorted((r for r in rows if r.kind == OURS), key=lambda r: r.file_bytes):
        assert row.at is not None
        preset = by_label[row.at]
        within = [r for r in rows if r.kind in (PRESET, EMBEDDING) and r.file_bytes <= preset.file_bytes]
        found.append(
            Match(
                ours=row,
                preset=preset,
                best_preset=min((r for r in within if r.kind == PRESET), key=lambda r: r.kl, default=None),
                best_informed=min(within, key=lambda r: r.kl),
            )
        )
    return found


def medians(rows: tuple[Row, ...]) -> tuple[float, float]:
    """Median ratios to the best preset and to the best preset with any embedding type."""
    found = matches(rows)
    ratios = [m.ratio for m in found if m.ratio is not None]
    return statistics.median(ratios), statistics.median(m.informed_ratio for m in found)


def best_embeddings(rows: tuple[Row, ...]) -> list[Row]:
    """Of each preset's files with another embedding type, the best for its bytes.

    A bit per weight is worth a factor of four in KL (the error of a scalar quantizer), so ln KL + 2 ln 2 bits is what counts.
    """
    best: dict[str, Row] = {}
    for row in (r for r in rows if r.kind == EMBEDDING):
        name = row.label.split(":")[0]
        if name not in best or _worth(row) < _worth(best[name]):
            best[name] = row
    return list(best.values())


def _worth(row: Row) -> float:
    return math.log(row.kl) + 2 * math.log(2) * row.bits_per_weight


def markdown(comparison: Comparison) -> str:
    """Everything that is said about one model."""
    rows = comparison.rows
    return "\n".join(
        [
            _made_by(comparison),
            "",
            *_by_size(rows),
            "",
            *_ablations(rows),
            *_all_files(rows),
            *_checks(rows),
            *(f"\n{note}" for note in comparison.notes),
            "",
        ]
    )


def _made_by(comparison: Comparison) -> str:
    windows = comparison.rows[0].result.perplexity.n_windows
    whole = comparison.whole_build
    parts = [
        f"Made by `{comparison.command}` on {comparison.machine}; "
        + ", ".join(f"{name} {version}" for name, version in comparison.versions.items())
        + ".",
        f"Calibration: {comparison.calibration}; scored: {comparison.evaluation}, {windows} windows of 512 tokens, second halves.",
        f"`llama-imatrix` took {comparison.imatrix_s:.0f} s. `ramp-edge build` as a user runs it, from nothing, at {whole.at}'s bytes: "
        f"{whole.seconds:.0f} s, of which {whole.calibration_s:.0f} s are calibration (moments, Fisher samples, error table: once "
        f"for all sizes); peak memory {whole.peak_bytes / 1e6:,.0f} MB.",
    ]
    return " ".join(parts)


def _by_size(rows: tuple[Row, ...]) -> list[str]:
    lines = [
        "| bytes of | bytes | preset's KL | best preset of no more bytes | KL of ramp-edge | ratio | ratio with any embedding type | |",
        "|---|---:|---:|---|---:|---:|---:|---|",
    ]
    for m in matches(rows):
        divergence = m.ours.result.divergence
        assert divergence is not None
        verdict = "**loses**" if m.ours.kl > min(m.preset.kl, m.best_informed.kl) else ""
        best = "all are larger" if m.best_preset is None else f"{m.best_preset.label} {m.best_preset.kl:.5f}"
        ratio = "" if m.ratio is None else f"**{m.ratio:.3f}**"
        lines.append(
            f"| {m.preset.label} | {m.preset.file_bytes:,} | {m.preset.kl:.5f} | {best} "
            f"| {m.ours.kl:.5f} ± {divergence.std_error:.5f} | {ratio} "
            f"| {m.informed_ratio:.3f} ({m.best_informed.label}) | {verdict} |"
        )
    median, informed = medians(rows)
    return [*lines, f"| median | | | | | **{median:.3f}** | {informed:.3f} | |"]


def _ablations(rows: tuple[Row, ...]) -> list[str]:
    ablated = [r for r in rows if r.kind == ABLATION]
    if not ablated:
        return []
    sizes = sorted({r.at or "" for r in ablated}, key=lambda at: next(r.file_bytes for r in rows if r.label == at))
    whole = {r.at: r.kl for r in rows if r.kind == OURS}
    lines = [
        "One part taken out, everything else as it is, the error table made anew: KL, and how many times that of the whole.",
        "",
        "| | " + " | ".join(f"at {size}'s bytes" for size in sizes) + " |",
        "|---|" + "---:|" * len(sizes),
        "| ramp-edge | " + " | ".join(f"{whole[size]:.5f}" for size in sizes) + " |",
    ]
    for name in dict.fromkeys(r.label.split(" @ ")[0] for r in ablated):
        found = {r.at: r.kl for r in ablated if r.label.startswith(f"{name} @ ")}
        cells = [f"{found[s]:.5f} ({found[s] / whole[s]:.2f}x)" if s in found else "" for s in sizes]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def _all_files(rows: tuple[Row, ...]) -> list[str]:
    shown = {id(r) for r in best_embeddings(rows)}
    kept = [r for r in rows if r.kind in (REFERENCE, PRESET, KNAPSACK, AUTOROUND, OURS) or id(r) in shown]
    lines = [
        "| file | bytes | bits/weight | mean KL | same top | perplexity | decode tok/s | prefill tok/s | seconds to make |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in sorted(kept, key=lambda r: (r.kind != REFERENCE, r.file_bytes, r.kind)):
        d, p = row.result.divergence, row.result.perplexity
        kl, top = ("", "") if d is None else (
            f"{d.mean_kl:.5f} ± {d.std_error:.5f}", f"{100 * d.top_token_agreement:.1f} %"
        )  # fmt: skip
        decode, prefill = ("", "") if row.speed is None else (
            f"{row.speed.decode_tok_s:.1f} (±{50 * row.speed.decode_spread:.0f} %)", f"{row.speed.prefill_tok_s:.0f}"
        )  # fmt: skip
        seconds = "" if row.seconds is None else f"{row.seconds:.1f}"
        lines.append(
            f"| {row.label} | {row.file_bytes:,} | {row.bits_per_weight:.3f} | {kl} | {top} "
            f"| {p.value:.4f} ± {p.std_error:.4f} | {decode} | {prefill} | {seconds} |"
        )
    return lines


def _checks(rows: tuple[Row, ...]) -> list[str]:
    checked = [r for r in rows if r.check is not None]
    if not checked:
        return []
    lines = ["", "| file | KL here | KL of llama-perplexity | PPL here | PPL of llama-perplexity |"]
    lines.append("|---|---:|---:|---:|---:|")
    for row in checked:
        assert row.check is not None
        own = "" if row.result.divergence is None else f"{row.kl:.6f}"
        other = "" if row.check.mean_kl is None else f"{row.check.mean_kl:.6f} ± {row.check.kl_std_error:.6f}"
        lines.append(f"| {row.label} | {own} | {other} | {row.result.perplexity.value:.4f} | {row.check.ppl:.4f} |")
    return lines
