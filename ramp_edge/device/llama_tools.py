"""Command lines of llama-bench and llama-perplexity, and what their output means."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from ramp_edge.device.target import printable
from ramp_edge.device.tool_run import ToolLine, ToolRun
from ramp_edge.errors import BoardToolError

_NUMBER = r"(-?(?:[0-9]{1,300}\.[0-9]{1,20}|nan|inf))"
_FINAL = re.compile(rf"Final estimate: PPL = {_NUMBER} \+/- {_NUMBER}(?![0-9.])")
_RUNNING = re.compile(rf"\[([0-9]{{1,9}})\]{_NUMBER},")
_STARTING = re.compile(r"^llama-bench: benchmark 1/\d+: starting")
_READY = re.compile(r"^llama-bench: benchmark 1/\d+: (warmup|depth|prompt|generation) ")
_GENERATION = re.compile(r"^llama-bench: benchmark (\d+)/\d+: generation run \d+/\d+")
_PROGRESS = re.compile(r"^llama-bench: benchmark \d+/\d+: (prompt|generation) run ")
UNKNOWN_COMMIT = "unknown"


@dataclass(frozen=True, kw_only=True, slots=True)
class BoardTools:
    """Absolute paths on the board."""

    bench: str
    perplexity: str | None = None
    """None: perplexity is not measured there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SpeedTest:
    """One call of llama-bench: every combination of these is measured."""

    model_path: str
    threads: tuple[int, ...]
    n_prompt: int
    """0: no prefill test."""
    n_gen: int
    """0: no decode test."""
    depths: tuple[int, ...] = (0,)
    repeats: int = 1
    kv_type: str = "f16"
    load_mode: str | None = None
    warmup: bool = True

    def argv(self, tools: BoardTools) -> tuple[str, ...]:
        """The command line."""
        words = [
            tools.bench, "-m", self.model_path, "-t", _list(self.threads), "-p", str(self.n_prompt),
            "-n", str(self.n_gen), "-d", _list(self.depths), "-r", str(self.repeats),
            "-ctk", self.kv_type, "-ctv", self.kv_type, "-o", "jsonl", "--progress",
        ]  # fmt: skip
        if self.load_mode is not None:
            words += ["-lm", self.load_mode]
        if not self.warmup:
            words.append("--no-warmup")
        return tuple(words)

    @property
    def n_results(self) -> int:
        return len(self.threads) * len(self.depths) * ((self.n_prompt > 0) + (self.n_gen > 0))

    @property
    def n_runs(self) -> int:
        """Progress lines of measured repeats."""
        return self.n_results * self.repeats


@dataclass(frozen=True, kw_only=True, slots=True)
class SpeedResult:
    """One line of llama-bench."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(strict=True, allow_inf_nan=False)

    n_prompt: Annotated[int, Field(ge=0)]
    n_gen: Annotated[int, Field(ge=0)]
    n_depth: Annotated[int, Field(ge=0)]
    n_threads: Annotated[int, Field(ge=1)]
    samples_ts: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)]
    """Tokens per second of each repeat."""
    build_commit: str
    backends: str


_ADAPTER = TypeAdapter(SpeedResult)


def parse_speeds(run: ToolRun, test: SpeedTest, where: str) -> tuple[SpeedResult, ...]:
    """Every result that the test asked for. Raises BoardToolError where one is missing or makes no sense."""
    found: dict[tuple[int, int, int, int], SpeedResult] = {}
    for line in run.lines:
        if line.stream != "stdout" or not line.text.startswith("{"):
            continue
        try:
            result = _ADAPTER.validate_json(line.text)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(map(str, first["loc"])) or "line"
            raise BoardToolError(
                f"llama-bench on {where} says what cannot be understood: {place}: {first['msg']}: {_shown(line.text)}"
            ) from None
        found[(result.n_prompt, result.n_gen, result.n_depth, result.n_threads)] = result
    wanted = [
        (p, n, depth, threads)
        for threads in test.threads
        for depth in test.depths
        for p, n in ((test.n_prompt, 0), (0, test.n_gen))
        if p or n
    ]
    missing = [key for key in wanted if key not in found or len(found[key].samples_ts) != test.repeats]
    if missing:
        prompt, gen, depth, threads = missing[0]
        what = f"prefill of {prompt}" if prompt else f"decode of {gen}"
        raise BoardToolError(
            f"llama-bench on {where} gave {len(wanted) - len(missing)} of {len(wanted)} results; without the "
            f"{test.repeats} repeats of: {what} tokens at depth {depth} on {threads} threads; its last words: "
            f"{_shown(run.last_words)}"
        )
    return tuple(found[key] for key in wanted)


def is_progress(line: ToolLine) -> bool:
    """True for the line that llama-bench writes before each measured repeat."""
    return line.stream == "stderr" and _PROGRESS.match(line.text) is not None


def load_seconds(lines: Sequence[ToolLine]) -> float | None:
    """From the start of the first test until it could run: weights and context are ready."""
    start_s = next((line.at_s for line in lines if _STARTING.match(line.text)), None)
    ready_s = next((line.at_s for line in lines if _READY.match(line.text)), None)
    return None if start_s is None or ready_s is None else max(0.0, ready_s - start_s)


def decode_energy_j(lines: Sequence[ToolLine]) -> dict[int, list[float]]:
    """Test number (from 1) -> joules of each decode repeat: from its progress line to the next line of any kind."""
    found: dict[int, list[float]] = {}
    for line, following in itertools.pairwise(lines):
        match = _GENERATION.match(line.text)
        if match and line.energy_j is not None and following.energy_j is not None:
            found.setdefault(int(match[1]), []).append(following.energy_j - line.energy_j)
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class PerplexityTest:
    """One call of llama-perplexity."""

    model_path: str
    text_path: str
    n_ctx: int
    n_windows: int
    threads: int

    def argv(self, tool: str) -> tuple[str, ...]:
        """The command line."""
        size = str(self.n_ctx)
        return (
            tool, "-m", self.model_path, "-f", self.text_path, "-c", size, "-b", size,
            "--chunks", str(self.n_windows), "-t", str(self.threads),
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class PerplexityEstimate:
    """What llama-perplexity found; possibly not finite."""

    value: float
    std_error: float | None
    """None where the tool's last line was lost."""


def parse_perplexity(run: ToolRun, n_windows: int) -> PerplexityEstimate | None:
    """The estimate; None where the output has none.

    llama-perplexity ends without waiting for the thread that writes its output, so now and then the last lines are lost. The
    running value after the last window is the same number.
    """
    for line in run.lines:
        if match := _FINAL.search(line.text):
            return PerplexityEstimate(value=float(match[1]), std_error=float(match[2]))
    for line in run.lines:
        for number, value in _RUNNING.findall(line.text):
            if int(number) == n_windows:
                return PerplexityEstimate(value=float(value), std_error=None)
    return None


def _shown(text: str) -> str:
    return repr(printable(text.encode("utf-8", "replace"), 160))


def _list(values: Sequence[int]) -> str:
    return ",".join(map(str, values))
