"""What a bench tells at its end: the board, speeds by depth, memory, perplexity, prediction, and every reason for doubt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ramp_edge.units import human_bytes, human_seconds, human_tok_s

if TYPE_CHECKING:
    from rich.table import Table

    from ramp_edge.device.bench_records import BenchRecord, MemoryUse, ModelBench, Speed
    from ramp_edge.device.fleet import BoardOutcome
    from ramp_edge.pipeline.bench import BenchRequest

SHORT_TEXT = "the package's short text"


def print_bench(record: BenchRecord) -> None:
    """Print the report to stdout."""
    from ramp_edge.cli.tables import console

    place = console(highlight=False)
    for line in head_lines(record):
        place.print(line, markup=False, soft_wrap=True)
    place.print()
    place.print(speed_table(record))
    place.print()
    for line in detail_lines(record):
        place.print(line, markup=False, soft_wrap=True)


def print_boards(outcomes: Sequence[BoardOutcome[BenchRecord]]) -> None:
    """A row for each board and model at the first depth; what failed says so, its reason follows as the command's error."""
    from ramp_edge.cli.tables import make_table, show

    table = make_table(
        "Board", "Model", "Decode tok/s", "spread", "Prefill tok/s", "Threads", "Peak memory", "Perplexity", "Unstable"
    )
    for outcome in outcomes:
        if outcome.value is None:
            table.add_row(outcome.spec.name, "failed", "", "", "", "", "", "", "")
            continue
        for model in outcome.value.models:
            decode, prefill = model.decode[0], model.prefill[0]
            peaks = [use.peak_resident_bytes for use in model.memory if use.peak_resident_bytes is not None]
            doubts = dict.fromkeys(reason.kind for reason in (*outcome.value.unstable, *model.unstable))
            table.add_row(
                outcome.spec.name,
                model.label,
                human_tok_s(decode.median_tok_s),
                f"{decode.spread:.1%}",
                human_tok_s(prefill.median_tok_s),
                f"{decode.threads}, {prefill.threads}",
                human_bytes(max(peaks)) if peaks else "",
                "" if model.perplexity is None else f"{model.perplexity.relative_difference:+.2%}",
                ", ".join(doubts),
            )
    show(table)


def head_lines(record: BenchRecord) -> list[str]:
    """Which board, and what ran on it."""
    facts = record.facts_before
    board = [facts.board_model, facts.cpu_model, facts.gpu_model, facts.distribution]
    cores = f"{facts.usable_cores or facts.cores} cores" if facts.usable_cores or facts.cores else None
    state = [
        cores,
        f"{human_bytes(facts.memory_available_bytes)} of {human_bytes(facts.memory_total_bytes)} free"
        if facts.memory_available_bytes is not None and facts.memory_total_bytes is not None
        else None,
        f"governor {', '.join(facts.governors)}" if facts.governors else None,
        f"power mode {facts.power_mode}" if facts.power_mode else None,
        f"{max(facts.temperatures_c.values()):.0f} to {max(record.facts_after.temperatures_c.values()):.0f} C"
        if facts.temperatures_c and record.facts_after.temperatures_c
        else None,
    ]
    runtime = f"llama.cpp {record.runtime_commit or 'of unknown commit'}"
    times = f"{record.repeats} repeats" + (f" in {record.rounds} rounds" if record.rounds > 1 else "")
    ran = [runtime, record.backends, " ".join(record.exec_prefix) or None, times, f"{record.agent} agent"]
    where = record.target if record.address == record.target else f"{record.target} ({record.address})"
    lines = [f"{where}: {', '.join(word for word in board if word) or 'a board that does not name itself'}"]
    lines.extend("  " + ", ".join(word for word in words if word) for words in (state, ran))
    return lines


def speed_table(record: BenchRecord) -> Table:
    """A row for each model and depth."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    with_energy = any(s.energy_j_per_token is not None for m in record.models for s in m.decode)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column("Model", no_wrap=True)
    for name in ("Size", "Depth", "Decode tok/s", "spread", "threads", "Prefill tok/s", "spread", "threads"):
        table.add_column(name, justify="right", no_wrap=True)
    if with_energy:
        table.add_column("mJ/token", justify="right", no_wrap=True)
    for model in record.models:
        for i, (decode, prefill) in enumerate(zip(model.decode, model.prefill, strict=True)):
            row = [escape(model.label) if i == 0 else "", human_bytes(model.file_bytes) if i == 0 else ""]
            row += [str(decode.depth_tokens), *_speed(decode), *_speed(prefill)]
            if with_energy:
                energy = decode.energy_j_per_token
                row.append("" if energy is None else f"{1000 * energy:.3g}")
            table.add_row(*row)
    return table


def _speed(speed: Speed) -> tuple[str, str, str]:
    return human_tok_s(speed.median_tok_s), f"{speed.spread:.1%}", str(speed.threads)


def detail_lines(record: BenchRecord) -> list[str]:
    """Everything beside the speeds."""
    lines: list[str] = []
    for model in record.models:
        lines += _model_lines(model, name=f"{model.label}: " if len(record.models) > 1 else "")
    lines += [
        f"  ratio       {r.first} / {r.second}: {r.kind} {r.median:.3f} at depth {r.depth_tokens} "
        f"(rounds {min(r.samples):.3f} to {max(r.samples):.3f})"
        for r in record.ratios
    ]
    if record.energy_source is not None:
        lines.append(f"  energy      {record.energy_source}, idle consumption included")
    lines += [f"  note        {note}" for note in record.notes]
    doubts = [reason.detail for reason in record.unstable]
    doubts += [f"{model.label}: {reason.detail}" for model in record.models for reason in model.unstable]
    lines += [f"  unstable    {doubt}" for doubt in doubts]
    return lines


def _model_lines(model: ModelBench, name: str) -> list[str]:
    lines = [f"  memory      {name}{_memory(use)}" for use in model.memory]
    if model.perplexity is not None:
        p = model.perplexity
        lines.append(
            f"  perplexity  {name}{p.board:.4f} on the board, {p.host:.4f} on this machine ({p.relative_difference:+.2%}; "
            f"{p.n_windows} windows of {p.n_ctx} tokens of {p.text})"
        )
    if model.prediction is not None:
        p2 = model.prediction
        measured = (
            "not measured there"
            if p2.measured_tok_s is None or p2.measured_over_predicted is None
            else f"measured {human_tok_s(p2.measured_tok_s)}, {p2.measured_over_predicted:.2f} of it"
        )
        lines.append(
            f"  predicted   {name}{human_tok_s(p2.decode_tok_s)} tok/s decode at depth {p2.depth_tokens}, {measured}"
        )
    return lines


def _memory(use: MemoryUse) -> str:
    how = "with mmap" if use.load_mode == "mmap" else "without mmap"
    peak = "unknown" if use.peak_resident_bytes is None else human_bytes(use.peak_resident_bytes)
    parts = [f"{peak} resident at its peak {how}, context {use.n_ctx}"]
    if use.peak_anonymous_bytes is not None:
        parts.append(f"{human_bytes(use.peak_anonymous_bytes)} of it not backed by a file")
    if use.predicted_bytes is not None and use.load_mode == "none":
        parts.append(f"planned {human_bytes(use.predicted_bytes)}")
    if use.load_s is not None:
        parts.append(f"loads in {human_seconds(use.load_s)}")
    return ", ".join(parts)


def plan_text(request: BenchRequest, output: Path | None) -> str:
    """What would be measured."""
    options = request.options
    n_models = len(request.models)
    threads = "all counts up to the board's cores" if options.threads is None else _joined(options.threads)
    depths = "0, 512, 2048 as they fit, and the prediction's" if options.depths is None else _joined(options.depths)
    default = "this machine's own" if request.spec.is_local else "the deployed one"
    text = "not compared" if not request.with_perplexity else f"on {request.text or SHORT_TEXT}"
    rows = [
        ("target", f"{request.spec.name} ({request.spec.address})"),
        *(("model", str(path)) for path in request.models),
        ("runtime", request.runtime or default),
        ("threads", threads),
        ("depths", depths),
        ("repeats", f"{options.repeats_per_round(n_models)} in each of {options.rounds_for(n_models)} rounds"),
        ("perplexity", text),
        ("timeout", f"{human_seconds(options.timeout_s)} for each run of a tool"),
        ("output", "stdout alone" if output is None else str(output)),
    ]
    return "\n".join(f"  {name:<12}{value}" for name, value in rows)


def _joined(values: tuple[int, ...]) -> str:
    return ", ".join(map(str, values))
