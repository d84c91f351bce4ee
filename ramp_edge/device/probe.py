"""Finds out how fast a board reads each type, with synthetic models that it assembles itself.

Every type is timed in turns with Q8_0, round after round, so that a board that warms up or is busy for a while changes both;
the median of the paired ratios counts. All seconds are such ratios times one time of the wide Q8_0 model, the median over the whole probe. Where the board
has a cache that holds a model, every type is timed within it as well. At most two large models lie on the board's disk at a time.
"""

from __future__ import annotations

import posixpath
import re
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ramp_edge.device import copy_speed
from ramp_edge.device.agent_client import board_agent
from ramp_edge.device.bench_plan import pick_threads, thread_candidates
from ramp_edge.device.bench_records import SweepPoint
from ramp_edge.device.facts import BoardFacts
from ramp_edge.device.llama_tools import UNKNOWN_COMMIT, BoardTools, SpeedResult, SpeedTest, parse_speeds
from ramp_edge.device.probe_models import Placed, ProbeModels, TimedModel, Turns, TypeSpeed
from ramp_edge.device.target import Target
from ramp_edge.device.tool_failure import check_success
from ramp_edge.device.tool_run import BoardAgent, ToolCall
from ramp_edge.device.work_files import FOLDER, put_file, target_folder
from ramp_edge.errors import BoardStorageError
from ramp_edge.events import EventBus

TOOL_TIMEOUT_S = 600.0
ASSEMBLE_TIMEOUT_S = 600.0
REPEAT_S = 0.5
"""A repeat is made about this long."""
SHAPE_ROUNDS = 3
"""Rounds of the models of Q8_0, in rounds of a type: an error in one of these few enters every prediction."""
_GEN_RANGE, _PROMPT_RANGE = (8, 512), (32, 512)
_REPACKED = re.compile(r"REPACK model buffer size = *(?!0\.00 )[\d.]+ MiB")
_CACHES = """\
for c in /sys/devices/system/cpu/cpu0/cache/index*; do echo "$(cat "$c/level") $(cat "$c/size")"; done 2>/dev/null
sysctl -n hw.l2cachesize 2>/dev/null | sed "s/^/2 /"
exit 0
"""
_CACHE = re.compile(r"([1-9]) (\d+)([KM]?)")
_ASSEMBLE = """\
set -e
cat "$1" > "$3.partial"
i=0
while [ "$i" -lt "$4" ]; do cat "$2"; i=$((i + 1)); done >> "$3.partial"
mv -f "$3.partial" "$3"
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeMeasurements:
    """All that a board said."""

    facts_before: BoardFacts
    facts_after: BoardFacts
    runtime_commit: str
    backends: str | None
    """As llama-bench names them."""
    cache_bytes: int | None
    """The last cache of the first core; None where the system does not tell."""
    copy_bytes_s: float | None
    """Bytes moved by memmove, read and written; None without Python on the board."""
    decode_threads: int
    sweep: tuple[SweepPoint, ...]
    q8_0: tuple[TypeSpeed, ...]
    """The wide model beside itself, whose spread is the board's noise, then the other shapes, the cached one last."""
    types: tuple[TypeSpeed, ...]
    """Every other type."""
    types_tall: tuple[TypeSpeed, ...]
    """The same in a model of many words."""
    types_in_cache: tuple[TypeSpeed, ...]
    """Those of them whose cached model the last cache holds; none where it does not hold that of Q8_0."""
    rounds: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeOptions:
    """What the user asked for."""

    rounds: int = 5
    threads: tuple[int, ...] | None = None
    timeout_s: float = TOOL_TIMEOUT_S


def probe(
    target: Target, models: ProbeModels, tools: BoardTools, options: ProbeOptions, events: EventBus
) -> ProbeMeasurements:
    """Time the models on the board.

    Raises BoardStorageError (the disk needs room for two models), BoardToolError, DeadlineError, ConnectionFailedError.
    """
    copy = _copy_bytes_s(target, events)
    with board_agent(target, events) as agent:
        return _Probe(target, agent, tools, options, events).run(models, copy)


def _copy_bytes_s(target: Target, events: EventBus) -> float | None:
    with events.stage(f"memory bandwidth of {target.spec.name}"):
        path = put_file(target, Path(copy_speed.__file__).read_bytes(), "copy_speed", ".py")
        cores = target.run(["getconf", "_NPROCESSORS_ONLN"], timeout_s=30).stdout.strip()
        threads = min(4, int(cores)) if cores.isdigit() else 1
        result = target.run([target.spec.python, path, str(max(1, threads))], timeout_s=120)
    said = result.stdout.strip()
    return float(said) if result.exit_code == 0 and said.isdigit() else None


def _cache_bytes(target: Target) -> int | None:
    result = target.run(["sh", "-c", _CACHES], timeout_s=30)
    found = []
    for line in result.stdout.decode("ascii", "replace").splitlines():
        if match := _CACHE.fullmatch(line.strip()):
            found.append((int(match[1]), int(match[2]) * {"": 1, "K": 1024, "M": 1024**2}[match[3]]))
    return max(found)[1] if found else None


class _Probe:
    def __init__(
        self, target: Target, agent: BoardAgent, tools: BoardTools, options: ProbeOptions, events: EventBus
    ) -> None:
        self._target, self._agent, self._tools, self._options, self._events = target, agent, tools, options, events
        self._threads = 1
        self._commit = UNKNOWN_COMMIT
        self._backends: str | None = None
        self._looks: dict[str, tuple[_Lengths, bool]] = {}

    def run(self, models: ProbeModels, copy_bytes_s: float | None) -> ProbeMeasurements:
        before = self._agent.facts()
        where = self._target.spec.name
        cache_bytes = _cache_bytes(self._target)
        inside = models.cached.matrix_bytes <= (cache_bytes or 0)
        with self._placed(models.wide) as wide_path, self._placed(models.cached) as cached_path:
            wide, cached = (models.wide, wide_path), (models.cached, cached_path)
            with self._events.stage(f"threads of {where}"):
                sweep = self._sweep(
                    wide_path, thread_candidates(before.usable_cores or before.cores or 1, self._options.threads)
                )
            self._threads = pick_threads(sweep)[0]
            total = models.n_types * (3 if inside else 2) + 2 + len(models.shapes)
            with self._events.stage(f"types on {where}", total=total, unit="types") as stage:

                def turns(base: Placed, model: TimedModel | Placed, rounds: int = self._options.rounds) -> Turns:
                    found = self._beside(base, model, rounds)
                    stage.advance()
                    return found

                of_q8_0: tuple[TimedModel | Placed, ...] = (wide, *models.shapes, cached)
                q8_0 = [turns(wide, model, SHAPE_ROUNDS * self._options.rounds) for model in of_q8_0]
                found = [turns(wide, model) for model in models.types]
                tall = [turns(wide, model) for model in models.types_tall]
                held = (model for model in models.types_in_cache if model.matrix_bytes <= (cache_bytes or 0))
                in_cache = [turns(cached, model) for model in held] if inside else []
        wide_s = statistics.median(s for turns in (*q8_0, *found, *tall) for s in turns.base_seconds)
        cached_s = wide_s * q8_0[-1].decode_ratio
        return ProbeMeasurements(
            facts_before=before,
            facts_after=self._agent.facts(),
            runtime_commit=self._commit,
            backends=self._backends,
            cache_bytes=cache_bytes,
            copy_bytes_s=copy_bytes_s,
            decode_threads=self._threads,
            sweep=sweep,
            q8_0=tuple(turns.speed(wide_s) for turns in q8_0),
            types=tuple(turns.speed(wide_s) for turns in found),
            types_tall=tuple(turns.speed(wide_s) for turns in tall),
            types_in_cache=tuple(turns.speed(cached_s) for turns in in_cache),
            rounds=self._options.rounds,
        )

    @contextmanager
    def _placed(self, model: TimedModel) -> Iterator[str]:
        """The model's file on the board, gone afterwards."""
        files, folder = self._target.files, posixpath.join(target_folder(self._target), FOLDER)
        files.make_folder(folder)
        free = files.free_bytes(folder)
        if free is not None and free < model.file_bytes:
            raise BoardStorageError(
                f"{self._target.spec.name}: a test model of {model.file_bytes} bytes does not fit, {free} are free"
            )
        path = posixpath.join(folder, f"{model.name}.gguf")
        head = put_file(self._target, model.head, model.name, ".head")
        strip = put_file(self._target, model.strip, model.name, ".strip")
        try:
            done = self._target.run(
                ["sh", "-c", _ASSEMBLE, "sh", head, strip, path, str(model.repeats)], timeout_s=ASSEMBLE_TIMEOUT_S
            )
            facts = files.facts(path)
            if done.exit_code or facts is None or facts.size_bytes != model.file_bytes:
                raise BoardStorageError(f"{self._target.spec.name}: {path} cannot be written: {done.error_text}")
            yield path
        finally:
            for leftover in (path, f"{path}.partial", head, strip):
                files.remove(leftover)

    def _run(self, test: SpeedTest, extra: tuple[str, ...] = ()) -> tuple[tuple[SpeedResult, ...], str]:
        argv = (*test.argv(self._tools), *extra)
        run = self._agent.run(ToolCall(argv=argv, timeout_s=self._options.timeout_s))
        check_success(self._target, argv, run)
        results = parse_speeds(run, test, self._target.spec.name)
        self._commit = results[0].build_commit
        self._backends = results[0].backends or None
        return results, run.text("stderr")

    def _sweep(self, path: str, candidates: Sequence[int]) -> tuple[SweepPoint, ...]:
        test = SpeedTest(model_path=path, threads=tuple(candidates), n_prompt=64, n_gen=16, repeats=2)
        results, _ = self._run(test)

        def best(threads: int, decode: bool) -> float:
            return max(max(r.samples_ts) for r in results if r.n_threads == threads and bool(r.n_gen) == decode)

        return tuple(
            SweepPoint(threads=n, decode_tok_s=best(n, True), prefill_tok_s=best(n, False)) for n in candidates
        )

    def _look(self, path: str) -> tuple[_Lengths, bool]:
        """(lengths for repeats of about REPEAT_S, whether llama.cpp repacks the file's weights)"""
        if path not in self._looks:
            first = SpeedTest(model_path=path, threads=(self._threads,), n_prompt=32, n_gen=8)
            (prefill, decode), words = self._run(first, ("-v",))
            lengths = _Lengths(
                n_prompt=_sized(prefill.samples_ts[0] * REPEAT_S, _PROMPT_RANGE),
                n_gen=_sized(decode.samples_ts[0] * REPEAT_S, _GEN_RANGE),
            )
            self._looks[path] = lengths, _REPACKED.search(words) is not None
        return self._looks[path]

    def _once(self, path: str, lengths: _Lengths) -> tuple[float, float]:
        """(prefill, decode) tokens per second, the better of two repeats each."""
        test = SpeedTest(
            model_path=path, threads=(self._threads,), n_prompt=lengths.n_prompt, n_gen=lengths.n_gen, repeats=2
        )
        prefill, decode = self._run(test)[0]
        return max(prefill.samples_ts), max(decode.samples_ts)

    def _beside(self, base: Placed, model: TimedModel | Placed, rounds: int) -> Turns:
        """`model` in turns with `base`; it is brought there first where it has no place yet."""
        if not isinstance(model, TimedModel):
            return self._turns(base[1], *model, rounds)
        with self._placed(model) as path:
            return self._turns(base[1], model, path, rounds)

    def _turns(self, base_path: str, model: TimedModel, path: str, rounds: int) -> Turns:
        base_lengths, _ = self._look(base_path)
        lengths, repacks = self._look(path)
        pairs: list[tuple[tuple[float, float], tuple[float, float]]] = []
        for number in range(rounds):
            base_first = number % 2 == 0
            base = self._once(base_path, base_lengths) if base_first else None
            own = self._once(path, lengths)
            pairs.append((base or self._once(base_path, base_lengths), own))
        return Turns(
            model=model,
            base_seconds=tuple(1 / base[1] for base, _ in pairs),
            decode_ratios=tuple(base[1] / own[1] for base, own in pairs),
            prefill_ratio=statistics.median(own[0] / base[0] for base, own in pairs),
            repacks=repacks,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Lengths:
    """Tokens of one repeat."""

    n_prompt: int
    n_gen: int


def _sized(tokens: float, limits: tuple[int, int]) -> int:
    return max(limits[0], min(limits[1], round(tokens)))
