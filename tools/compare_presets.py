#!/usr/bin/env python3
"""Compare ramp-edge's files with llama.cpp's presets at equal bytes, both calibrated on the same tokens.

The presets are made by the real `llama-imatrix` and `llama-quantize` (timed); every file is scored by ramp-edge's
evaluator, and with --check by `llama-perplexity` too. Prints a Markdown table and saves it beside a JSON record.

    python tools/compare_presets.py --reference f16.gguf --tools BIN \\
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
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from llama_tools import LlamaTools, ToolError, ToolScore

from ramp_edge.evaluate.evaluator import (
    ReferenceLogits,
    evaluate_model,
    read_text,
    reference_logits,
    tokenize_text,
)
from ramp_edge.evaluate.llama import LlamaVocabulary
from ramp_edge.model.gguf_file import GgufTensors, file_sha256
from ramp_edge.model.output_head import read_output_head
from ramp_edge.records import EvaluationResult

DEFAULT_PRESETS = ("IQ4_XS", "Q4_0", "IQ4_NL", "Q4_K_S", "Q4_K_M", "Q5_K_M")


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
    rival: str | None = None
    """For a candidate, the preset it is compared with."""
    kl_ratio: float | None = None
    """Its mean KL over the rival's."""


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
) -> list[tuple[str, str, Path, float | None]]:
    """`ramp-edge build` at the bytes of each preset; the first run pays for calibration, later ones find it cached."""
    files: list[tuple[str, str, Path, float | None]] = []
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
        files.append((name, "candidate", out / "model.gguf", record["seconds"]))
    return files


def rate(rows: list[Row]) -> list[Row]:
    """Give every candidate its rival and the ratio of mean KL."""
    presets = sorted((r for r in rows if r.kind == "preset"), key=lambda r: r.file_bytes)
    rated = []
    for row in rows:
        rival = next((p for p in presets if p.file_bytes >= row.file_bytes), None)
        if row.kind != "candidate" or rival is None or rival.result.divergence is None:
            rated.append(row)
            continue
        assert row.result.divergence is not None
        ratio = row.result.divergence.mean_kl / rival.result.divergence.mean_kl
        rated.append(
            Row(
                label=row.label, kind=row.kind, file_bytes=row.file_bytes, seconds=row.seconds,
                result=row.result, check=row.check, rival=rival.label, kl_ratio=ratio,
            )
        )  # fmt: skip
    return rated


def markdown(rows: list[Row], header: list[str]) -> str:
    """The table, smallest file first, the reference on top."""
    lines = [*header, "", "| file | bytes | mean KL | median KL | same top | perplexity | seconds | KL / preset |"]
    lines.append("|---|---:|---:|---:|---:|---:|---:|---:|")
    for row in sorted(rows, key=lambda r: (r.kind != "reference", r.file_bytes)):
        d, p = row.result.divergence, row.result.perplexity
        seconds = "" if row.seconds is None else f"{row.seconds:.1f}"
        ratio = "" if row.kl_ratio is None else f"{row.kl_ratio:.3f} of {row.rival}"
        kl = ("", "", "") if d is None else (
            f"{d.mean_kl:.5f} ± {d.std_error:.5f}", f"{d.median_kl:.5f}", f"{100 * d.top_token_agreement:.1f} %"
        )  # fmt: skip
        lines.append(
            f"| {row.label} | {row.file_bytes:,} | {kl[0]} | {kl[1]} | {kl[2]} "
            f"| {p.value:.4f} ± {p.std_error:.4f} | {seconds} | {ratio} |"
        )
    checks = [r for r in rows if r.check is not None]
    if checks:
        lines += ["", "| file | KL here | KL of llama-perplexity | PPL here | PPL of llama-perplexity |"]
        lines.append("|---|---:|---:|---:|---:|")
    for row in checks:
        assert row.check is not None
        own = "" if row.result.divergence is None else f"{row.result.divergence.mean_kl:.6f}"
        other = "" if row.check.mean_kl is None else f"{row.check.mean_kl:.6f} ± {row.check.kl_std_error:.6f}"
        lines.append(f"| {row.label} | {own} | {other} | {row.result.perplexity.value:.4f} | {row.check.ppl:.4f} |")
    return "\n".join(lines) + "\n"


def score(
    options: argparse.Namespace,
    tools: LlamaTools,
    work: Path,
    evaluation: Path,
    files: list[tuple[str, str, Path, float | None]],
) -> list[Row]:
    """Evaluate the reference and every (label, kind, file, seconds)."""
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
    for label, kind, path, seconds in files:
        say(f"evaluate {label} ...")
        rows.append(score_one(options, tools, work, reference, (label, kind, path, seconds)))
    if options.check:
        base.unlink(missing_ok=True)
    return rows


def score_one(
    options: argparse.Namespace,
    tools: LlamaTools,
    work: Path,
    reference: ReferenceLogits,
    file: tuple[str, str, Path, float | None],
) -> Row:
    """Evaluate one file."""
    label, kind, path, seconds = file
    result = evaluate_model(path, reference=reference, label=label, threads=options.eval_threads)
    check = None
    if options.check:
        log = work / f"{label.replace('/', '_')}.perplexity.log"
        check = tools.divergence(path, n_ctx=options.ctx, base=work / "kl.base", log=log)
    return Row(label=label, kind=kind, file_bytes=result.file_bytes, seconds=seconds, result=result, check=check)


def say(text: str) -> None:
    """Progress, to stderr."""
    print(text, file=sys.stderr, flush=True)


def parse_options(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--reference", type=Path, required=True, help="F16 GGUF")
    add("--tools", type=Path, default=os.environ.get("RAMP_EDGE_LLAMA_BIN"), help="folder of llama.cpp's tools")
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
    add("-o", "--output", type=Path, required=True, help="writes OUTPUT.json and OUTPUT.md")
    options = parser.parse_args(argv)
    if options.tools is None:
        parser.error("--tools (or RAMP_EDGE_LLAMA_BIN) must name the folder with llama-imatrix and llama-quantize")
    return options


def main(argv: list[str] | None = None) -> int:
    """Command line entry."""
    options = parse_options(argv)
    work: Path = options.work or options.output.with_suffix(".work")
    work.mkdir(parents=True, exist_ok=True)
    tools = LlamaTools(folder=Path(options.tools), threads=options.threads)
    calibration, evaluation = prepare_texts(options, work)
    presets, imatrix_s = make_presets(options, tools, calibration, work)
    files = [(label, "preset", path, seconds) for label, (path, seconds) in presets.items()]
    if options.build:
        files += build_candidates(options, calibration, presets, work)
    for entry in options.candidate:
        label, _, name = entry.rpartition("=")
        path = Path(name) / "model.gguf" if Path(name).is_dir() else Path(name)
        files.append((label or path.stem, "candidate", path, None))
    rows = rate(score(options, tools, work, evaluation, files))
    command = shlex.join(["python", "tools/compare_presets.py", *(argv if argv is not None else sys.argv[1:])])
    header = [
        f"Made by `{command}`",
        "",
        f"{platform.machine()}, {os.cpu_count()} cores, tools with {options.threads} threads; "
        f"llama-imatrix {imatrix_s:.1f} s; {rows[0].result.perplexity.n_windows} windows of {options.ctx} tokens.",
    ]
    table = markdown(rows, header)
    record = {
        "schema_version": 1,
        "command": command,
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "imatrix_s": imatrix_s,
        "calibration_sha256": file_sha256(calibration),
        "evaluation_sha256": file_sha256(evaluation),
        "rows": [asdict(row) for row in rows],
    }
    options.output.with_suffix(".json").write_text(json.dumps(record, indent=2) + "\n")
    options.output.with_suffix(".md").write_text(table)
    print(table)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ToolError as error:
        sys.exit(f"{error}")
