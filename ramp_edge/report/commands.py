"""The commands that make a record again, from what it says of its own settings."""

from __future__ import annotations

import shlex
from typing import Any

from ramp_edge.plain import one_line
from ramp_edge.report.documents import BenchDocument, BuildDocument

_DEFAULTS = {"effort": "balanced", "tune": 0, "seed": 0}


def build_command_lines(build: BuildDocument) -> tuple[str, ...]:
    """The build, and what one does next; nothing where the record does not know its settings."""
    settings = build.settings
    if not isinstance(settings.get("device"), str):
        return ()
    words = ["ramp-edge", "build"]
    if isinstance(settings.get("model"), str):
        words.append(settings["model"])
    words += ["--device", settings["device"]]
    words += _option(settings, "ctx") + _option(settings, "kv_type")
    size = settings.get("target_size_bytes")
    if isinstance(size, int):
        words += ["--target-size", f"{size} B"]
    words += _option(settings, "target_bpw") + _option(settings, "min_decode_tok_s")
    if isinstance(types := settings.get("types"), list) and types:
        words += ["--types", ",".join(map(str, types))]
    calibration = settings.get("calibration")
    for text in calibration if isinstance(calibration, list) else []:
        words += ["--calibration", str(text)]
    words += _option(settings, "eval_text")
    for name, default in _DEFAULTS.items():
        if settings.get(name, default) != default:
            words += [f"--{name}", str(settings[name])]
    # What is stored is what was done; where nothing was asked for, effort and allocator decided it.
    fast = settings.get("effort") == "fast"
    allocator = settings.get("allocator", "knapsack")  # the oldest records know no other
    if allocator != ("ramp" if fast else "best"):
        words += ["--allocator", str(allocator)]
    unasked = "off" if fast or allocator in ("ramp", "preset") else "auto"
    if settings.get("fold", unasked) != unasked:
        words += ["--fold", str(settings["fold"])]
    if settings.get("policy") != "trained":
        words += _option(settings, "policy")
    if settings.get("allow_requantize") is True:
        words.append("--allow-requantize")
    if build.dry_run:
        words.append("--dry-run")
    return (one_line(shlex.join([*words, "-o", "out"])),)


def _option(settings: dict[str, Any], name: str) -> list[str]:
    value = settings.get(name)
    known = isinstance(value, (str, int, float)) and not isinstance(value, bool)
    return [f"--{name.replace('_', '-')}", str(value)] if known else []


def bench_command_line(bench: BenchDocument) -> str:
    """The bench of a build in `out`; further models by the labels that they had."""
    words = ["ramp-edge", "bench", "out", "--target", bench.target]
    for model in bench.models[1:]:
        words += ["--against", model.label]
    words += ["--depths", ",".join(str(d) for d in sorted({s.depth_tokens for s in bench.models[0].decode}))]
    words += ["--repeats", str(max(5, bench.repeats))]
    threads = {s.threads for m in bench.models for s in (*m.decode, *m.prefill)}
    if len(threads) == 1 and not any(model.sweep for model in bench.models):
        words += ["--threads", str(next(iter(threads)))]
    if len(bench.models) > 1:
        words += ["--rounds", str(bench.rounds)]
    if all(model.perplexity is None for model in bench.models):
        words.append("--no-perplexity")
    return one_line(shlex.join(words))
