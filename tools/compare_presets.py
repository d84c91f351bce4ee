#!/usr/bin/env python3
"""Compare ramp-edge's files with llama.cpp's presets at equal bytes, both calibrated on the same tokens.

The presets are made by the real `llama-imatrix` and `llama-quantize` (timed); every file is scored by ramp-edge's
evaluator, and with --check by `llama-perplexity` too. Prints a Markdown table and saves the record as JSON, of which
`benchmark_page.py` makes the page in docs/. Finished steps are kept in the work folder, so a stopped run goes on.

    python tools/compare_presets.py --reference f16.gguf --title "SmolLM2-135M" \\
        --calibration groups_merged.txt --calibration c4.utf8 --calibration-tokens 20480 \\
        --eval-text wiki.test.raw --eval-tail-bytes 500000 --windows 16 \\
        --preset IQ4_XS --preset Q4_K_M --preset Q4_K_M:Q5_1 --build raspberry-pi-5 -o comparison

`--preset NAME:TYPE` sets `--token-embedding-type TYPE`. `--build DEVICE` runs `ramp-edge build` on the same calibration
text at each preset's bytes (timed, with its peak memory); `--candidate LABEL=FILE` adds a file made elsewhere. A candidate
is compared with the smallest preset that has no fewer bytes than it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from llama_tools import LlamaTools, ToolError
from presets_table import Comparison, Row, markdown, rate, row_from, save

from ramp_edge.evaluate.evaluator import (
    ReferenceLogits,
    evaluate_model,
    read_text,
    reference_logits,
    tokenize_text,
)
from ramp_edge.evaluate.llama import LlamaVocabulary
from ramp_edge.events import EventBus
from ramp_edge.model.gguf_file import GgufTensors, file_sha256
from ramp_edge.model.output_head import read_output_head
from ramp_edge.runtime.build import build_host_tools

DEFAULT_PRESETS = ("IQ4_XS", "Q4_0", "IQ4_NL", "Q4_K_S", "Q4_K_M", "Q5_K_M")


@dataclass(frozen=True, kw_only=True, slots=True)
class File:
    """A file to score."""

    label: str
    kind: str
    path: Path
    seconds: float | None = None
    peak_bytes: int | None = None


def head_of_tokens(vocabulary: LlamaVocabulary, text: str, n_tokens: int) -> str:
    """The longest beginning of `text` that tokenizes to at most `n_tokens` tokens."""
    low, high = 0, min(len(text), 40 * n_tokens)
    while low < high:
        middle = (low + high + 1) // 2
        fits = len(vocabulary.tokenize(text[:middle], add_special=False)) <= n_tokens
        low, high = (middle, high) if fits else (low, middle - 1)
    return text[:low]


def prepare_texts(options: argparse.Namespace, work: Path) -> tuple[Path, Path]:
    """Write the exact calibration and evaluation texts into the work folder."""
    calibration, evaluation = work / "calibration.txt", work / "evaluation.txt"
    texts = [read_text(path) for path in options.calibration]
    if options.calibration_tokens:
        share = options.calibration_tokens // len(texts)
        with LlamaVocabulary(options.reference) as vocabulary:
            texts = [head_of_tokens(vocabulary, text, share) for text in texts]
    calibration.write_bytes("".join(texts).encode())
    data = options.eval_text.read_bytes()
    if options.eval_tail_bytes:
        data = data[-options.eval_tail_bytes :]
    evaluation.write_bytes(data.decode("utf-8", errors="ignore").encode())
    return calibration, evaluation


def make_presets(
    options: argparse.Namespace, tools: LlamaTools, calibration: Path, work: Path
) -> tuple[dict[str, tuple[Path, float | None]], float]:
    """Preset label -> (file, seconds of llama-quantize), and the seconds of llama-imatrix."""
    imatrix = work / "imatrix.gguf"
    times_path = work / "times.json"
    times: dict[str, float] = json.loads(times_path.read_text()) if times_path.exists() else {}
    if not imatrix.exists():
        say("llama-imatrix ...")
        times["imatrix"] = tools.imatrix(options.reference, calibration, imatrix, n_ctx=options.ctx)
    made: dict[str, tuple[Path, float | None]] = {}
    for label in options.preset or DEFAULT_PRESETS:
        name, _, embedding = label.partition(":")
        path = work / f"{label.replace(':', '+')}.gguf"
        if not path.exists():
            say(f"llama-quantize {label} ...")
            part = path.with_suffix(".part")
            times[label] = tools.quantize(
                options.reference, part, name, imatrix=imatrix, embedding_type=embedding or None
            )
            part.replace(path)
        made[label] = (path, times.get(label))
        times_path.write_text(json.dumps(times))
    return made, times.get("imatrix", float("nan"))


def build_candidates(
    options: argparse.Namespace, calibration: Path, presets: dict[str, tuple[Path, float | None]], work: Path
) -> list[File]:
    """`ramp-edge build` at the bytes of each preset; the first run pays for calibration, later ones find it cached."""
    files = []
    for label, (path, _) in presets.items():
        name = f"ramp-edge @ {label}"
        out = work / f"build-{label.replace(':', '+')}"
        took = out / "took.json"
        if not took.exists():
            say(f"{name} ...")
            command = [
                sys.executable, "-m", "ramp_edge.cli.main", "build", str(options.reference), "--device", options.build,
                "--target-size", f"{path.stat().st_size} B", "--calibration", str(calibration), "--effort", options.effort,
                "--progress", "off", "--json", "-o", str(out),
            ]  # fmt: skip
            environment = {**os.environ, "RAMP_EDGE_CACHE": str(work / "cache")}
            started = time.perf_counter()
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)
            _, status, usage = os.wait4(process.pid, 0)
            if status:
                raise ToolError(f"{shlex.join(command)} failed with status {status}")
            record = {"seconds": time.perf_counter() - started, "peak_bytes": usage.ru_maxrss * 1024}
            took.write_text(json.dumps(record))
        record = json.loads(took.read_text())
        say(f"{name}: {record['seconds']:.1f} s, peak {record['peak_bytes'] / 1e6:.0f} MB")
        files.append(File(label=name, kind="candidate", path=out / "model.gguf", **record))
    return files


def score(options: argparse.Namespace, tools: LlamaTools, work: Path, evaluation: Path, files: list[File]) -> list[Row]:
    """Evaluate the reference and every file."""
    head = read_output_head(GgufTensors(options.reference))
    tokens = tokenize_text(options.reference, read_text(evaluation))
    result, reference = reference_logits(
        options.reference, tokens, n_ctx=options.ctx, n_windows=options.windows, head=head, cache_dir=work,
        model_sha256=file_sha256(options.reference), threads=options.eval_threads,
    )  # fmt: skip
    base = work / "kl.base"
    check = None
    if options.check:
        check = tools.perplexity(
            options.reference, evaluation, n_ctx=options.ctx, windows=reference.plan.n_windows, base=base,
            log=work / "reference.perplexity.log",
        )  # fmt: skip
    rows = [
        Row(
            label=options.reference.name, kind="reference", file_bytes=result.file_bytes, seconds=None,
            result=result, check=check,
        )
    ]  # fmt: skip
    for file in files:
        say(f"evaluate {file.label} ...")
        rows.append(score_one(options, tools, work, reference, file))
    if options.check:
        base.unlink(missing_ok=True)
    return rows


def score_one(
    options: argparse.Namespace, tools: LlamaTools, work: Path, reference: ReferenceLogits, file: File
) -> Row:
    """Evaluate one file; a score of the same bytes in the work folder is taken as it is."""
    kept = work / f"score-{file_sha256(file.path)[:16]}{'-checked' if options.check else ''}.json"
    if kept.exists():
        return replace(row_from(json.loads(kept.read_text())), label=file.label, seconds=file.seconds)
    result = evaluate_model(file.path, reference=reference, label=file.label, threads=options.eval_threads)
    check = None
    if options.check:
        log = work / f"{file.label.replace('/', '_')}.perplexity.log"
        check = tools.divergence(file.path, n_ctx=options.ctx, base=work / "kl.base", log=log)
    row = Row(
        label=file.label, kind=file.kind, file_bytes=result.file_bytes, seconds=file.seconds,
        peak_bytes=file.peak_bytes, result=result, check=check,
    )  # fmt: skip
    kept.write_text(json.dumps(asdict(row)))
    return row


def public_command(argv: list[str]) -> str:
    """The command as another person would type it: file names instead of this machine's paths."""
    return shlex.join(["python", "tools/compare_presets.py", *(Path(a).name if "/" in a else a for a in argv)])


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


def say(text: str) -> None:
    """Progress, to stderr."""
    print(text, file=sys.stderr, flush=True)


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
    add("--preset", action="append", help=f"NAME or NAME:EMBEDDING_TYPE; default {', '.join(DEFAULT_PRESETS)}")
    add("--candidate", action="append", default=[], metavar="LABEL=FILE", help="a file or folder of ramp-edge")
    add("--build", metavar="DEVICE", help="run ramp-edge build for this device at each preset's bytes")
    add("--effort", default="balanced", help="of these builds")
    add("--ctx", type=int, default=512)
    add("--windows", type=int, default=16)
    add("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of the llama.cpp tools")
    add("--eval-threads", type=int, default=None, help="of the evaluator; default by timing")
    add("--check", action="store_true", help="score everything with llama-perplexity as well")
    add("--work", type=Path, default=None, help="keeps imatrix, presets and logs; default OUTPUT.work")
    add("-o", "--output", type=Path, required=True, help="writes OUTPUT.json")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Command line entry."""
    options = parse_options(argv)
    work: Path = options.work or options.output.with_suffix(".work")
    work.mkdir(parents=True, exist_ok=True)
    tools = LlamaTools(folder=options.tools or build_host_tools(EventBus()), threads=options.threads)
    calibration, evaluation = prepare_texts(options, work)
    presets, imatrix_s = make_presets(options, tools, calibration, work)
    files = [File(label=label, kind="preset", path=path, seconds=s) for label, (path, s) in presets.items()]
    if options.build:
        files += build_candidates(options, calibration, presets, work)
    for entry in options.candidate:
        label, _, name = entry.rpartition("=")
        path = Path(name) / "model.gguf" if Path(name).is_dir() else Path(name)
        files.append(File(label=label or path.stem, kind="candidate", path=path))
    comparison = Comparison(
        title=options.title or options.reference.stem,
        command=public_command(argv if argv is not None else sys.argv[1:]),
        machine=cpu_name(),
        versions={"commit": commit(), **{p: version(p) for p in ("llama-cpp-python", "torch", "numpy")}},
        imatrix_s=imatrix_s,
        calibration_sha256=file_sha256(calibration),
        evaluation_sha256=file_sha256(evaluation),
        rows=tuple(rate(score(options, tools, work, evaluation, files))),
    )
    save(options.output.with_suffix(".json"), comparison)
    table = markdown(comparison)
    print(table)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ToolError as error:
        sys.exit(f"{error}")
