"""What a build tells at its end: size, memory line by line, speed, quality beside reference and preset, next step."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from ramp_edge.pipeline.record import BuildRecord, CandidateRecord, FoldingRecord, TuningRecord
from ramp_edge.record_files import REPORT_FILE
from ramp_edge.records import EvaluationResult, plan_label
from ramp_edge.units import human_bytes, human_seconds


def print_summary(record: BuildRecord, output: Path) -> None:
    """Print the summary to stdout."""
    print("\n".join(summary_lines(record, output)))


def summary_lines(record: BuildRecord, output: Path) -> list[str]:
    """The summary as lines of plain text."""
    device = record.device
    lines = [
        f"{record.model['name']} for {device['title']} ({device['name']})" + (" -- dry run" if record.dry_run else ""),
        "",
        f"  size        {human_bytes(record.file_bytes)}, {record.bits_per_weight:.2f} bits per weight "
        f"(source {human_bytes(record.model['file_bytes'])}); limit: {record.limit}",
        f"  allocation  {record.origin}: {_types(record)}",
    ]
    if record.folding is not None:
        lines.append(f"  folding     {_folding(record.folding)}")
    if record.tuning is not None:
        lines.append(f"  tuning      {_tuning(record.tuning)}")
    if finalists := _finalists(record):
        lines.append(f"  finalists   {finalists}")
    lines.extend(_memory(record))
    measured = "measured" if device["measured"] else "from documents, not measured"
    lines.append(
        f"  speed       {record.predicted_decode_tok_s:.1f} tok/s decode predicted at half of context "
        f"{record.model['ctx']} (profile figures: {measured})"
    )
    lines.extend(_quality(record))
    if record.continuation is not None:
        lines.append("")
        lines.append(f"  {record.continuation.prompt!r} goes on")
        lines.append(f"    reference  {_one_line(record.continuation.reference)}")
        lines.append(f"    this file  {_one_line(record.continuation.emitted)}")
    lines.append("")
    if record.dry_run:
        lines.append("  next        run the same command without --dry-run")
    else:
        lines.append(f"  written     {output / 'model.gguf'} and {output / 'build.json'}")
        if (output / REPORT_FILE).is_file():  # drawing it may have failed
            lines.append(f"  report      {output / REPORT_FILE}")
        lines.append(f'  next        ramp-edge run {shlex.quote(str(output))} -p "Once upon a time"')
    return lines


def _types(record: BuildRecord) -> str:
    weights: dict[str, int] = {}
    for tensor in record.tensors:
        if tensor.kept_reason is None:
            size = 1
            for n in tensor.shape:
                size *= n
            weights[tensor.type] = weights.get(tensor.type, 0) + size
    total = sum(weights.values()) or 1
    ordered = sorted(weights.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {share / total:.0%}" for name, share in ordered)


def _finalists(record: BuildRecord) -> str:
    """Whose plans were measured, best first; nothing where there was one alone."""
    measured = sorted(
        (kl, plan_label(c.origin, folded=c.folded) + (" (this file)" if c.chosen else ""))
        for c in record.candidates
        if c.codec != "stock" and (kl := c.measured_kl) is not None
    )
    return "KL measured: " + "; ".join(f"{kl:#.3g} {whose}" for kl, whose in measured) if len(measured) > 1 else ""


def _folding(folding: FoldingRecord) -> str:
    """What was kept, and KL with and without it."""
    changes = [f"{folding.groups_kept} of {folding.groups_tried} channel groups scaled"] if folding.groups_kept else []
    if folding.reordered:
        changes.append("channels reordered")
    if not changes:
        return "nothing gained on held-out activations: channels are as they were"
    for how, plain, folded in (
        ("measured", folding.measured_kl_unfolded, folding.measured_kl_folded),
        ("predicted", folding.predicted_kl_unfolded, folding.predicted_kl_folded),
    ):
        if plain is not None and folded is not None:
            taken = "" if how == "predicted" or folded <= plain else "; the file is made without"
            return f"{', '.join(changes)}: KL {how} {folded:.4f} with, {plain:.4f} without{taken}"
    return ", ".join(changes)


def _tuning(tuning: TuningRecord) -> str:
    """What was measured on calibration text; what it is worth on other text, the candidates' measurements say."""
    said = f"{tuning.measured_changes} changes measured on {tuning.n_tokens:,} tokens of calibration text"
    if not tuning.tensors_changed:
        return f"{said}: nothing to change"
    return (
        f"{said}, {tuning.tensors_changed} tensors changed: KL there {tuning.kl_before:.5f} -> {tuning.kl_after:.5f} "
        f"(+- {tuning.difference_std_error:.5f}, paired)"
        + ("" if tuning.kl_after < tuning.kl_before else "; not taken")
    )


def _memory(record: BuildRecord) -> list[str]:
    budget = record.memory
    lines = [
        f"  memory      {human_bytes(budget.total_bytes)} resident of {human_bytes(budget.usable_bytes)} usable, "
        f"{human_bytes(budget.free_bytes)} free"
    ]
    lines.extend(
        f"    {line.name.replace('_', ' '):<16}{human_bytes(line.size_bytes):>9}  {line.detail}"
        for line in budget.lines
        if line.size_bytes
    )
    return lines


def _quality(record: BuildRecord) -> list[str]:
    if record.evaluation is None or record.reference is None:
        return [
            f"  quality     KL predicted {_number(record.predicted_kl)} nats per token"
            + _preset_note(record.best_preset, predicted=True)
        ]
    lines = ["  quality     " + f"{'':<22}{'size':>9}  {'KL to reference':<20}{'perplexity':<18}same top token"]
    lines.append(_row("reference", record.reference))
    lines.append(_row("this file", record.evaluation))
    preset = record.best_preset
    if preset is not None and preset.chosen:
        lines.extend(_preset_won(record, preset))
    elif preset is not None and preset.evaluation is not None:
        lines.append(_row(preset.origin.replace("preset:", "stock "), preset.evaluation))
        ours, theirs = record.evaluation.divergence, preset.evaluation.divergence
        if ours is not None and theirs is not None and theirs.mean_kl > 0:
            lines.append(
                f"              KL is {ours.mean_kl / theirs.mean_kl:.2f}x that preset's, at no more bytes"
                if record.file_bytes <= preset.file_bytes
                else f"              KL is {ours.mean_kl / theirs.mean_kl:.2f}x that preset's ({human_bytes(record.file_bytes - preset.file_bytes)} smaller than ours)"
            )
    elif preset is not None:
        lines.append("              " + _preset_note(preset, predicted=True).lstrip("; "))
    n = record.evaluation.perplexity
    lines.append(
        f"              {n.n_tokens} scored tokens in {n.n_windows} windows; {record.calibration['evaluation']}"
    )
    return lines


def _preset_won(record: BuildRecord, preset: CandidateRecord) -> list[str]:
    """The best allocation of ours beside a stock preset that won, and what that means."""
    measured = [
        (c.evaluation.divergence.mean_kl, c.origin, c.evaluation)
        for c in record.candidates
        if c.codec != "stock" and c.evaluation is not None and c.evaluation.divergence is not None
    ]
    rows = [_row(f"our {origin}", result) for _, origin, result in sorted(measured, key=lambda m: m[:2])[:1]]
    name = preset.origin.removeprefix("preset:")
    return [
        *rows,
        f"              this file is llama.cpp's stock {name}: it measured better than every allocation of ours",
    ]


def _row(label: str, result: EvaluationResult) -> str:
    divergence = result.divergence
    kl = "" if divergence is None else f"{divergence.mean_kl:.4f} +- {divergence.std_error:.4f}"
    agree = "" if divergence is None else f"{divergence.top_token_agreement:.1%}"
    perplexity = f"{result.perplexity.value:.3f} +- {result.perplexity.std_error:.2f}"
    return f"    {label:<32}{human_bytes(result.file_bytes):>9}  {kl:<20}{perplexity:<18}{agree}"


def _preset_note(preset: CandidateRecord | None, *, predicted: bool) -> str:
    if preset is None:
        return ""
    name = preset.origin.removeprefix("preset:")
    return (
        f"; best stock preset of no more bytes: {name}, {human_bytes(preset.file_bytes)}, "
        f"predicted {_number(preset.predicted_kl)} with our codec (not measured: --effort balanced measures it)"
    )


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4f}"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def print_timings(record: BuildRecord) -> None:
    """Where the time went, longest first, to stderr (stdout is for results)."""
    for name, seconds in sorted(record.stage_seconds.items(), key=lambda item: -item[1]):
        print(f"  {human_seconds(seconds):>14}  {name}", file=sys.stderr)
