#!/usr/bin/env python3
"""Compare ramp-edge with what its users would pick instead, at equal bytes, in one run on one machine.

Presets are made by llama.cpp's own `llama-imatrix` and `llama-quantize`, built from the pinned source, and again with other
embedding types; beside them a knapsack on imatrix-weighted error, AutoRound's GGUF export where it is given, ramp-edge at
every preset's bytes, and ramp-edge with one part after the other taken out. All get the same calibration text. Every file is
scored by ramp-edge's evaluator (some by `llama-perplexity` too) and timed by `llama-bench`, in turn.

    python tools/compare.py --reference f16.gguf --title "SmolLM2-135M" \\
        --calibration groups_merged.txt --calibration c4.utf8 --calibration-tokens 20480 \\
        --eval-text wiki.test.raw --eval-tail-bytes 500000 --windows 16 -o docs/results/smollm2-135m.json

Finished files and figures stay in the work folder (OUTPUT.work): a run that was stopped goes on where it was. The
record is written to OUTPUT; `tools/benchmark_page.py` makes docs/benchmarks.md and the plots of all records.
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import subprocess
import sys
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from comparison import autoround, ours, rivals
from comparison.llama_tools import LlamaTools, ToolError
from comparison.records import REFERENCE, Comparison, Row, Speed, row_from, save
from comparison.speed import measure_speed
from comparison.table import markdown
from comparison.workshop import Made, Workshop, bits_per_weight, calibration_text, evaluation_text, say

from ramp_edge.codec.types import parse_type
from ramp_edge.errors import RampEdgeError
from ramp_edge.evaluate.evaluator import evaluate_model, read_text, reference_logits, tokenize_text
from ramp_edge.events import EventBus
from ramp_edge.model.gguf_file import GgufTensors, file_sha256
from ramp_edge.model.output_head import read_output_head
from ramp_edge.runtime.build import build_host_tools

PRESETS = (
    "Q2_K", "IQ3_XXS", "IQ3_S", "Q3_K_S", "Q3_K_M", "Q3_K_L", "IQ4_XS", "IQ4_NL", "Q4_0", "Q4_K_S", "Q4_K_M", "Q5_K_S",
    "Q5_K_M", "Q6_K", "Q8_0",
)  # fmt: skip
EMBEDDING_TYPES = ("Q5_1", "IQ4_NL")
ABLATED = ("IQ4_XS", "Q4_K_M")
KNAPSACKED = ("IQ3_S", "IQ4_XS", "Q4_K_M", "Q5_K_M")


def score(options: argparse.Namespace, tools: LlamaTools, workshop: Workshop, files: list[Made]) -> list[Row]:
    """Evaluate the reference and every file; a score of the same bytes in the work folder is taken as it is."""
    evaluation = workshop.path("evaluation.txt")
    head = read_output_head(GgufTensors(options.reference))
    tokens = tokenize_text(options.reference, read_text(evaluation))
    result, reference = reference_logits(
        options.reference, tokens, n_ctx=options.ctx, n_windows=options.windows, head=head, cache_dir=workshop.folder,
        model_sha256=file_sha256(options.reference), threads=options.eval_threads,
    )  # fmt: skip
    base = workshop.path("kl.base")

    def row(file: Made) -> Row:
        checked = file.label in options.check
        kept = f"score {file_sha256(file.path)[:16]}{' checked' if checked else ''}"

        def measure() -> dict[str, object]:
            if checked and not base.exists():
                tools.perplexity(
                    options.reference, evaluation, n_ctx=options.ctx, windows=reference.plan.n_windows, base=base,
                    log=workshop.path("reference.perplexity.log"),
                )  # fmt: skip
            log = workshop.path(f"{file.label}.perplexity.log")
            return asdict(
                Row(
                    label=file.label, kind=file.kind, at=file.at, file_bytes=file.path.stat().st_size,
                    bits_per_weight=bits_per_weight(file.path), seconds=file.seconds,
                    result=evaluate_model(
                        file.path, reference=reference, label=file.label, threads=options.eval_threads
                    ),
                    check=tools.divergence(file.path, n_ctx=options.ctx, base=base, log=log) if checked else None,
                )
            )  # fmt: skip

        # Two labels may be the same bytes: the figures are the bytes', the rest is the label's.
        data = workshop.figure(kept, measure)
        return row_from({**data, "label": file.label, "kind": file.kind, "at": file.at, "seconds": file.seconds})

    first = Row(
        label=options.reference.name, kind=REFERENCE, at=None, file_bytes=result.file_bytes,
        bits_per_weight=bits_per_weight(options.reference), result=result,
    )  # fmt: skip
    rows = [first]
    for number, file in enumerate(files, 1):
        say(f"score {number} of {len(files)}: {file.label}")
        rows.append(row(file))
    base.unlink(missing_ok=True)
    return rows


def with_speed(rows: list[Row], speeds: dict[str, Speed]) -> tuple[Row, ...]:
    """The rows, each with its speed where there is one."""
    return tuple(row_from({**asdict(r), "speed": asdict(speeds[r.label]) if r.label in speeds else None}) for r in rows)


def public_command(argv: list[str]) -> str:
    """The command as another person would type it: file names instead of this machine's paths."""
    return shlex.join(["python", "tools/compare.py", *(Path(a).name if "/" in a else a for a in argv)])


def cpu_name() -> str:
    """Machine, cores and, on Linux, the processor's name."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        found = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        name = found[0] if found else name
    return f"{platform.machine()}, {name}, {os.cpu_count()} cores"


def commit() -> str:
    """Commit of this checkout, marked where files differ from it."""
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--exclude=*"]
    done = subprocess.run(git, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def parse_options(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--reference", type=Path, required=True, help="F16 GGUF")
    add("--title", help="of the table; default the reference's name")
    add("--tools", type=Path, default=None, help="folder of llama.cpp's tools; default: built once, cached")
    add("--calibration", type=Path, action="append", required=True, help="text; several are joined")
    add("--calibration-tokens", type=int, default=0, help="tokens in all, an equal share from the head of each text")
    add("--eval-text", type=Path, required=True)
    add("--eval-tail-bytes", type=int, default=0, help="score only the end of the text")
    add("--device", default="raspberry-pi-5", help="whose types and speeds ramp-edge plans for")
    add("--preset", action="append", help=f"default {', '.join(PRESETS)}")
    add("--embedding-type", action="append", help=f"also each preset with these; default {', '.join(EMBEDDING_TYPES)}")
    add("--ablate", action="append", help=f"presets at whose bytes parts are taken out; default {', '.join(ABLATED)}")
    add("--part", action="append", help="parts to take out; default all: " + ", ".join(p.name for p in ours.PARTS))
    add("--knapsack", action="append", help=f"presets for the imatrix knapsack; default {', '.join(KNAPSACKED)}")
    add("--autoround", type=Path, metavar="PYTHON", help="interpreter of an environment that has auto-round")
    add("--autoround-iterations", type=int, default=200)
    add("--check", action="append", default=[], metavar="LABEL", help="score this row with llama-perplexity as well")
    add("--ctx", type=int, default=512)
    add("--windows", type=int, default=16)
    add("--bench-rounds", type=int, default=5, help="rounds of llama-bench; 0: none")
    add("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of llama.cpp's tools and of quantization")
    add("--eval-threads", type=int, default=None, help="of the evaluator; default by timing")
    add("--work", type=Path, default=None, help="work folder; default OUTPUT.work")
    add("-o", "--output", type=Path, required=True, help="the record, .json")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Command line entry."""
    options = parse_options(argv)
    workshop = Workshop(options.work or options.output.with_suffix(".work"))
    tools = LlamaTools(folder=options.tools or build_host_tools(EventBus()), threads=options.threads)
    text, evaluation = workshop.path("calibration.txt"), workshop.path("evaluation.txt")
    if not text.exists():
        text.write_text(calibration_text(options.reference, options.calibration, options.calibration_tokens))
    if not evaluation.exists():
        evaluation.write_text(evaluation_text(options.eval_text, options.eval_tail_bytes))
    imatrix = workshop.path("imatrix.gguf")
    imatrix_s = workshop.figure("imatrix", lambda: tools.imatrix(options.reference, text, imatrix, n_ctx=options.ctx))

    names = options.preset or list(PRESETS)
    files = rivals.presets(tools, options.reference, imatrix, names, workshop)
    at = {file.label: file.path.stat().st_size for file in files}
    middle = [name for name in options.ablate or ABLATED if name in at]
    shown = next((name for name in (*middle, *ABLATED) if name in at), next(iter(at)))
    whole = ours.whole_build(options.reference, options.device, text, evaluation, shown, at[shown], workshop)
    compiler = ours.Compiler(options.reference, options.device, text, evaluation, workshop, options.threads)
    files += ours.whole(compiler, at)
    files += rivals.imatrix_knapsack(compiler, {n: at[n] for n in options.knapsack or KNAPSACKED if n in at}, workshop)
    notes: list[str] = []
    if options.autoround:
        made, note = autoround.export(
            options.autoround, options.reference, text, options.autoround_iterations, workshop
        )
        files, notes = files + made, [note]
    timed = list(files)
    types = [parse_type(name) for name in options.embedding_type or EMBEDDING_TYPES]
    files += rivals.with_embedding(tools, compiler, imatrix, list(at), types, workshop)
    parts = tuple(p for p in ours.PARTS if options.part is None or p.name in options.part)
    files += ours.ablations(compiler, {name: at[name] for name in middle}, parts)

    rows = score(options, tools, workshop, files)
    speeds = measure_speed(tools, timed, options.bench_rounds, workshop)
    comparison = Comparison(
        title=options.title or options.reference.stem,
        command=public_command(argv if argv is not None else sys.argv[1:]),
        machine=cpu_name(),
        versions={"commit": commit(), **{p: version(p) for p in ("llama-cpp-python", "torch", "numpy")}},
        calibration=_described(options.calibration, f"{options.calibration_tokens:,} tokens", options.calibration_tokens),
        evaluation=_described([options.eval_text], f"last {options.eval_tail_bytes:,} bytes", options.eval_tail_bytes),
        imatrix_s=imatrix_s,
        whole_build=whole,
        notes=tuple(notes),
        rows=with_speed(rows, speeds),
    )  # fmt: skip
    save(options.output.with_suffix(".json"), comparison)
    print(markdown(comparison))
    return 0


def _described(texts: list[Path], part: str, cut: int) -> str:
    names = " and ".join(path.name for path in texts)
    return f"{names} ({part})" if cut else names


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ToolError, RampEdgeError) as error:
        sys.exit(f"{error}")
