"""What a budget can speak of: every metric by its dotted name, with its unit, its better direction and where it comes from.

A regression is a percentage of the baseline's value, so it needs a metric whose noise is known: exact ones, those that are
measured in repeats, and those whose standard error is in the record. For the others a limit is all that can be judged.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, replace
from enum import Enum


class Unit(str, Enum):
    """How values are written."""

    BYTES = "bytes"
    TOK_S = "tok/s"
    SECONDS = "s"
    NATS = "nats"
    BITS = "bits"
    SHARE = "%"
    """Stored as 0..1."""
    JOULES = "J"
    NUMBER = ""


class Better(str, Enum):
    """The direction in which a metric improves."""

    LOWER = "lower"
    HIGHER = "higher"


class Source(str, Enum):
    """The part of a record that a metric is read from."""

    BUILD = "build"
    EVALUATION = "evaluation"
    BENCH = "bench"
    TASKS = "tasks"


HOW_TO_MEASURE = {
    Source.BUILD: "give the build folder, or its build.json",
    Source.EVALUATION: "give a build that measured its result (--effort balanced)",
    Source.BENCH: "ramp-edge bench OUT --target T writes bench.json",
    Source.TASKS: "ramp-edge eval OUT --tasks hellaswag,... --json > eval.json writes it",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """One figure of a record."""

    name: str
    """Canonical: `decode_tok_s.median` where a budget may also say `decode_tok_s`."""
    unit: Unit
    better: Better
    source: Source
    meaning: str
    no_regression: str = ""
    """Why a percentage of the baseline cannot be judged; empty where it can."""


MEMORY_LINES = ("weights", "kv_cache", "compute_buffer", "output_buffer", "repack_copy", "tied_copy")
TASKS = {
    "hellaswag": ("acc_norm", "acc", "acc_token"),
    "piqa": ("acc_norm", "acc"),
    "winogrande": ("acc",),
    "arc_easy": ("acc_norm", "acc"),
    "arc_challenge": ("acc_norm", "acc"),
    "openbookqa": ("acc_norm", "acc"),
    "boolq": ("acc",),
}
"""Task -> its accuracies, the headline first."""
LOAD_MODES = ("mmap", "none")
_ONCE = "it is measured once, so its noise is not known: give a limit"
_NO_ERROR = "its standard error is not in the record: give a limit"
_LOW, _HIGH = Better.LOWER, Better.HIGHER


def _build(name: str, unit: Unit, better: Better, meaning: str) -> Metric:
    return Metric(name=name, unit=unit, better=better, source=Source.BUILD, meaning=meaning)


def _evaluation(name: str, unit: Unit, better: Better, meaning: str, no_regression: str = "") -> Metric:
    return Metric(
        name=name, unit=unit, better=better, source=Source.EVALUATION, meaning=meaning, no_regression=no_regression
    )


def _bench(name: str, unit: Unit, better: Better, meaning: str, no_regression: str = "") -> Metric:
    return Metric(
        name=name, unit=unit, better=better, source=Source.BENCH, meaning=meaning, no_regression=no_regression
    )


def _tasks(name: str, meaning: str, no_regression: str = "") -> Metric:
    return Metric(
        name=name, unit=Unit.SHARE, better=_HIGH, source=Source.TASKS, meaning=meaning, no_regression=no_regression
    )


def _speeds(kind: str) -> list[Metric]:
    extreme = "it is one repeat: compare the median"
    return [
        _bench(f"{kind}_tok_s.median", Unit.TOK_S, _HIGH, f"{kind} speed on the device, median of all repeats"),
        _bench(f"{kind}_tok_s.min", Unit.TOK_S, _HIGH, f"{kind} speed of the slowest repeat", extreme),
        _bench(f"{kind}_tok_s.max", Unit.TOK_S, _HIGH, f"{kind} speed of the fastest repeat", extreme),
        _bench(f"{kind}_tok_s.spread", Unit.SHARE, _LOW, f"(fastest - slowest) / median {kind} repeat", _NO_ERROR),
    ]


def _memory_use(mode: str) -> list[Metric]:
    how = "with the weights mapped from the file" if mode == "mmap" else "with the weights read into memory"
    return [
        _bench(f"peak_resident_bytes.{mode}", Unit.BYTES, _LOW, f"most memory of the whole process, {how}"),
        _bench(f"peak_anonymous_bytes.{mode}", Unit.BYTES, _LOW, f"the same without what is mapped from files, {how}"),
        _bench(f"load_s.{mode}", Unit.SECONDS, _LOW, f"time until weights and context are ready, {how}", _ONCE),
    ]


def _accuracies() -> list[Metric]:
    found = []
    for task, kinds in TASKS.items():
        found.append(_tasks(f"accuracy.{task}", f"share of right answers in {task}, by {kinds[0]}"))
        found.extend(
            _tasks(f"accuracy.{task}.{kind}", f"share of right answers in {task}, by {kind}") for kind in kinds
        )
    found.append(_tasks("accuracy.average", "mean over the tasks"))
    relative = "it compares with the reference already: give a limit"
    for name in (*TASKS, "average"):
        found.append(_tasks(f"retention.{name}", f"accuracy over the reference's, {name}", relative))
        found.append(_tasks(f"accuracy_change.{name}", f"accuracy minus the reference's, {name}", relative))
    return found


METRICS = {
    metric.name: metric
    for metric in (
        _build("size_bytes", Unit.BYTES, _LOW, "the model file"),
        _build("bits_per_weight", Unit.BITS, _LOW, "of the quantized tensors"),
        _build("resident_bytes", Unit.BYTES, _LOW, "memory that the device keeps for it, by the memory model"),
        *(
            _build(f"resident_bytes.{line}", Unit.BYTES, _LOW, f"the {line.replace('_', ' ')} in it")
            for line in MEMORY_LINES
        ),
        _build("free_bytes", Unit.BYTES, _HIGH, "what is left of the device's usable memory"),
        _build("predicted_decode_tok_s", Unit.TOK_S, _HIGH, "decode speed by the device profile"),
        _build("predicted_kl", Unit.NATS, _LOW, "KL divergence by the error table"),
        _evaluation("kl_mean", Unit.NATS, _LOW, "mean KL divergence to the reference, nats per token"),
        _evaluation("kl_median", Unit.NATS, _LOW, "median KL divergence", _NO_ERROR),
        _evaluation("kl_p99", Unit.NATS, _LOW, "KL divergence that 1 % of the tokens exceed", _NO_ERROR),
        _evaluation("top_token_agreement", Unit.SHARE, _HIGH, "tokens that both rank first", _NO_ERROR),
        _evaluation("ppl", Unit.NUMBER, _LOW, "perplexity"),
        _evaluation(
            "ppl_ratio", Unit.NUMBER, _LOW, "perplexity over the reference's",
            "it compares with the reference already: give a limit",
        ),
        *_speeds("decode"),
        *_speeds("prefill"),
        _bench("energy_j_per_token", Unit.JOULES, _LOW, "of everything that the sensor sees, per decoded token", _NO_ERROR),
        *(metric for mode in LOAD_MODES for metric in _memory_use(mode)),
        _bench("measured_over_predicted", Unit.NUMBER, _HIGH, "decode speed over what the build predicted", _NO_ERROR),
        _bench("board_ppl_error", Unit.SHARE, _LOW, "how far perplexity on the board is from the host's", _ONCE),
        *_accuracies(),
    )
}  # fmt: skip
"""Canonical name -> metric, at depth 0 where depth matters."""
ALIASES = {
    "decode_tok_s": "decode_tok_s.median",
    "prefill_tok_s": "prefill_tok_s.median",
    "load_s": "load_s.mmap",
    "peak_resident_bytes": "peak_resident_bytes.mmap",
    "peak_anonymous_bytes": "peak_anonymous_bytes.mmap",
}
"""Short names; llama.cpp maps files unless told otherwise."""
_WITH_DEPTH = ("decode_tok_s", "prefill_tok_s", "energy_j_per_token")
_DEPTH = re.compile(r"^(?P<head>[a-z_]+)\.depth_(?P<depth>0|[1-9][0-9]{0,8})(?P<rest>\..+)?$")


def at_depth(name: str, depth_tokens: int) -> str:
    """The canonical name of a speed after that many tokens; depth 0 is not spelled out."""
    head, dot, rest = name.partition(".")
    return name if depth_tokens == 0 else f"{head}.depth_{depth_tokens}{dot}{rest}"


def find_metric(name: str) -> Metric:
    """The metric of that name or short name. Raises ValueError that names a near one."""
    depth = 0
    match = _DEPTH.match(name)
    plain = name
    if match is not None and match["head"] in _WITH_DEPTH:
        depth, plain = int(match["depth"]), match["head"] + (match["rest"] or "")
    metric = METRICS.get(ALIASES.get(plain, plain))
    if metric is None:
        near = difflib.get_close_matches(name, [*METRICS, *ALIASES], n=1)
        also = f": did you mean {near[0]!r}?" if near else ": docs/gates.md lists them"
        raise ValueError(f"unknown metric {name!r}{also}")
    if depth:
        meaning = f"{metric.meaning}, after {depth} tokens"
        return replace(metric, name=at_depth(metric.name, depth), meaning=meaning)
    return metric
