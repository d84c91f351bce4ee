"""The board behind the measurements: its memory under the model, and what it told of itself."""

from __future__ import annotations

from ramp_edge.report.commands import bench_command_line
from ramp_edge.report.documents import BenchDocument, BenchModelPart, FactsPart
from ramp_edge.report.evidence import Bench
from ramp_edge.report.numbers import significant, with_error
from ramp_edge.report.view import Block, Column, Commands, Fact, Facts, Notes, Row, Section, Table, Tone
from ramp_edge.units import human_bytes, human_seconds


def board_title(bench: BenchDocument) -> str:
    """The board in words: its own name for itself, else its processor."""
    facts = bench.facts_before
    return facts.board_model or facts.gpu_model or facts.cpu_model or bench.target


def target_name(bench: BenchDocument) -> str:
    """What the user calls it; `local` says nothing to who reads the report elsewhere."""
    title = board_title(bench)
    return f"{title} (local)" if bench.target == "local" and title != "local" else bench.target


def memory_section(bench: Bench, name: str, anchor: str = "board-memory") -> Section | None:
    """Peaks beside the build's budget, where the context is the build's."""
    rows = []
    for model in bench.document.models:
        for use in model.memory:
            rows.append(
                Row(
                    cells=(
                        model.label,
                        "mapped (mmap)" if use.load_mode == "mmap" else "read",
                        str(use.n_ctx),
                        _bytes(use.peak_resident_bytes),
                        _bytes(use.peak_anonymous_bytes),
                        _bytes(use.predicted_bytes),
                        "" if use.load_s is None else human_seconds(use.load_s),
                    )
                )
            )
    if not rows:
        return None
    return Section(
        anchor=anchor,
        title=f"Memory on {name}",
        lead="The whole process while it prefills a context; the program itself, its tables and threads are part of it.",
        blocks=(
            Table(
                caption="Peak memory and load time",
                columns=(
                    Column(text="Model"),
                    Column(text="Weights are"),
                    Column(text="Context (tokens)", numeric=True),
                    Column(text="Peak resident", numeric=True),
                    Column(text="Not backed by a file", numeric=True),
                    Column(text="Budget of the build", numeric=True),
                    Column(text="Load", numeric=True),
                ),
                rows=tuple(rows),
            ),
        ),
    )


def _bytes(size: int | None) -> str:
    return "" if size is None else human_bytes(size)


def board_section(bench: Bench, name: str, anchor: str = "board") -> Section:
    """What the board told of itself, how it was measured, and the command."""
    document = bench.document
    items = [
        *board_facts(document),
        *_perplexity_fact(bench.model),
        Fact(label="Measured", text=f"{document.measured_at}, {human_seconds(document.wall_s)} in all"),
    ]
    if document.energy_source:
        items.append(Fact(label="Energy from", text=document.energy_source))
    blocks: list[Block] = [Facts(items=tuple(items)), Commands(lines=(bench_command_line(document),))]
    if document.notes:
        blocks.append(Notes(tone=Tone.PLAIN, items=tuple(document.notes)))
    return Section(anchor=anchor, title=f"The board: {name}", blocks=tuple(blocks))


def board_facts(document: BenchDocument) -> list[Fact]:
    """What the board told of itself; nothing that it did not."""
    before, after = document.facts_before, document.facts_after
    runtime = f"llama.cpp {document.runtime_commit}" if document.runtime_commit else "llama.cpp, commit not known"
    known = (
        ("Board", before.board_model),
        ("Processor", _joined(before.cpu_model, before.machine)),
        ("GPU", before.gpu_model),
        ("Instruction sets", ", ".join(before.isa)),
        ("Cores", _cores(before)),
        ("Memory", _memory(before)),
        ("System", _joined(before.distribution, before.kernel)),
        ("Governor", ", ".join(before.governors)),
        ("Clock", _clock(before)),
        ("Temperature", _temperature(before, after)),
        ("Throttling", ", ".join(dict.fromkeys((*before.thermal_caps, *after.thermal_caps)))),
        ("Power mode", before.power_mode),
        ("Other work", f"{before.busy_cores:.2f} cores busy before" if before.busy_cores is not None else None),
        ("Runtime", _joined(runtime, document.backends)),
        ("Started with", " ".join(document.exec_prefix)),
    )
    return [Fact(label=label, text=text) for label, text in known if text]


def _joined(*words: str | None) -> str:
    return ", ".join(word for word in words if word)


def _cores(facts: FactsPart) -> str:
    if facts.usable_cores is None or facts.cores is None:
        return str(facts.usable_cores or facts.cores or "")
    return str(facts.cores) if facts.cores == facts.usable_cores else f"{facts.usable_cores} of {facts.cores} usable"


def _memory(facts: FactsPart) -> str:
    if facts.memory_total_bytes is None:
        return ""
    free = (
        f", {human_bytes(facts.memory_available_bytes)} available" if facts.memory_available_bytes is not None else ""
    )
    return f"{human_bytes(facts.memory_total_bytes)}{free}"


def _clock(facts: FactsPart) -> str:
    if not facts.cpu_hz:
        return ""
    most = f" of {max(facts.cpu_max_hz) / 1e9:.2f} GHz" if facts.cpu_max_hz else ""
    return f"{min(facts.cpu_hz) / 1e9:.2f} to {max(facts.cpu_hz) / 1e9:.2f}{most or ' GHz'}"


def _temperature(before: FactsPart, after: FactsPart) -> str:
    if not before.temperatures_c or not after.temperatures_c:
        return ""
    hottest = (max(before.temperatures_c.values()), max(after.temperatures_c.values()))
    return f"{hottest[0]:.0f} °C before, {hottest[1]:.0f} °C after"


def _perplexity_fact(model: BenchModelPart) -> list[Fact]:
    check = model.perplexity
    if check is None:
        return []
    if check.board_std_error:
        board = " ".join(with_error(check.board, check.board_std_error))
    else:
        board = significant(check.board, 6)
    return [
        Fact(
            label="Perplexity",
            text=f"{board} on the board, {significant(check.host, 6)} on this machine; {check.n_windows} windows of "
            f"{check.n_ctx} tokens of {check.text}",
        )
    ]
