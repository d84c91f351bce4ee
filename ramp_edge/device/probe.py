"""Finds out how fast a board reads each type, with synthetic models that it assembles itself.

Every type is timed in turns with Q8_0, round after round, so that a board that warms up or is busy for a while changes both;
the median of the paired ratios counts. Seconds are such ratios times one time of the model that was the measure, the median over the whole probe. Beyond the
last cache that is a wide model of Q8_0; where the cache holds the smaller models, one of them is their measure, since memory that slows down does not
slow them down. At most two large models lie on the board's disk at a time.
"""

from __future__ import annotations

import math
import posixpath
import re
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from ramp_edge.device import copy_speed
from ramp_edge.device.agent_client import board_agent
from ramp_edge.device.bench_plan import pick_threads, thread_candidates
from ramp_edge.device.bench_records import SweepPoint
from ramp_edge.device.facts import BoardFacts
from ramp_edge.device.llama_tools import BoardTools
from ramp_edge.device.probe_models import Filling, ProbeModels, TimedModel, Turns, TypeSpeed
from ramp_edge.device.probe_plan import Group, Job, jobs, most_turns
from ramp_edge.device.probe_runs import BenchRuns, Pace
from ramp_edge.device.target import Target
from ramp_edge.device.tool_run import BoardAgent
from ramp_edge.device.work_files import FOLDER, put_file, target_folder
from ramp_edge.errors import BoardStorageError
from ramp_edge.events import EventBus

TOOL_TIMEOUT_S = 600.0
ASSEMBLE_TIMEOUT_S = 600.0
PREFILL_ROUNDS = 3
"""Prefill is long and computes all the time: it spreads less than decode."""
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
    """The wide model beside itself, whose spread is the board's noise, then the other shapes, empty and filled."""
    types: tuple[TypeSpeed, ...]
    """Every other type."""
    types_tall: tuple[TypeSpeed, ...]
    """The same in a model of many words."""
    types_in_cache: tuple[TypeSpeed, ...]
    """Those of them whose cached model the last cache holds; none where it does not hold that of Q8_0."""
    kv_types: tuple[TypeSpeed, ...]
    """The deep model of Q8_0 with a filled KV cache of every type but F16."""
    rounds: int
    disturbed_rounds: int
    """Made again because the board had lost its pace."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Done:
    job: Job
    turns: tuple[Turns, ...]
    """One for each filling."""
    pace_tok_s: float
    """The slowest pace at which they were made."""


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
        self._target, self._agent, self._options, self._events = target, agent, options, events
        self._runs = BenchRuns(target, agent, tools, options.timeout_s)

    def run(self, models: ProbeModels, copy_bytes_s: float | None) -> ProbeMeasurements:
        before = self._agent.facts()
        where, options = self._target.spec.name, self._options
        cache_bytes = _cache_bytes(self._target)
        with self._placed(models.wide) as wide_path, self._placed(models.cached) as cached_path:
            bases = {models.wide.name: wide_path, models.cached.name: cached_path}
            with self._events.stage(f"threads of {where}"):
                candidates = thread_candidates(before.usable_cores or before.cores or 1, options.threads)
                sweep = self._runs.sweep(wide_path, candidates)
            self._runs.threads = pick_threads(sweep)[0]
            pace = Pace(self._runs, cached_path)
            done: list[_Done] = []
            total = most_turns(models, cache_bytes or 0)
            with self._events.stage(f"types on {where}", total=total, unit="types") as stage:
                for job in jobs(models, cache_bytes or 0, options.rounds):
                    done.append(self._do(job, bases, pace, stage.advance))
            slow = [place for place, found in enumerate(done) if pace.was_slower(found.pace_tok_s)]
            if slow and pace.comes_back():
                total = sum(len(done[place].job.fillings) for place in slow)
                with self._events.stage(f"types on {where} at its pace", total=total, unit="types") as stage:
                    for place in slow:
                        done[place] = self._do(done[place].job, bases, pace, stage.advance)
        seconds = {base.name: _base_seconds(done, base) for base in (models.wide, models.cached)}
        return ProbeMeasurements(
            facts_before=before,
            facts_after=self._agent.facts(),
            runtime_commit=self._runs.commit,
            backends=self._runs.backends,
            cache_bytes=cache_bytes,
            copy_bytes_s=copy_bytes_s,
            decode_threads=self._runs.threads,
            sweep=sweep,
            q8_0=(*_speeds(done, "beyond", seconds), *_speeds(done, "within", seconds)),
            types=_speeds(done, "types", seconds),
            types_tall=_speeds(done, "tall", seconds),
            types_in_cache=_speeds(done, "in_cache", seconds),
            kv_types=_speeds(done, "kv", seconds),
            rounds=options.rounds,
            disturbed_rounds=pace.disturbed_rounds,
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

    def _do(self, job: Job, bases: Mapping[str, str], pace: Pace, advance: Callable[[], None]) -> _Done:
        """The model in turns with its base; it is brought there first unless it is a base itself."""
        own = bases.get(job.model.name)
        with nullcontext(own) if own is not None else self._placed(job.model) as path:
            found, paces = [], []
            for filling in job.fillings:
                found.append(self._turns(job, bases[job.base.name], path, filling, pace))
                paces.append(pace.last_tok_s)
                advance()
        return _Done(job=job, turns=tuple(found), pace_tok_s=min(paces))

    def _turns(self, job: Job, base_path: str, path: str, filling: Filling, pace: Pace) -> Turns:
        runs = self._runs
        lengths, repacks = runs.look(path)

        def decode(number: int) -> tuple[float, float]:
            return _in_turns(number, lambda: runs.decode_tok_s(path, filling), lambda: runs.decode_tok_s(base_path))

        def prefill(number: int) -> tuple[float, float]:
            return _in_turns(number, lambda: runs.prefill_tok_s(path), lambda: runs.prefill_tok_s(base_path))

        pairs = pace.rounds(decode, job.rounds)
        prefills = [prefill(number) for number in range(PREFILL_ROUNDS)] if job.prefill else []
        return Turns(
            model=job.model,
            filling=filling,
            n_gen=lengths.n_gen,
            base_seconds=tuple(1 / base for _, base in pairs),
            decode_ratios=tuple(base / own for own, base in pairs),
            prefill_ratio=statistics.median(own / base for own, base in prefills) if prefills else None,
            repacks=repacks,
        )


def _in_turns(number: int, own: Callable[[], float], base: Callable[[], float]) -> tuple[float, float]:
    """(own, base); every second round begins with the other."""
    if number % 2:
        own_found = own()
        return own_found, base()
    base_found = base()
    return own(), base_found


def _base_seconds(done: Sequence[_Done], base: TimedModel) -> float:
    """Of a token of that model, over all that was timed beside it; infinite where nothing was."""
    seconds = [s for d in done if d.job.base is base for turns in d.turns for s in turns.base_seconds]
    return statistics.median(seconds) if seconds else math.inf


def _speeds(done: Sequence[_Done], group: Group, seconds: Mapping[str, float]) -> tuple[TypeSpeed, ...]:
    return tuple(turns.speed(seconds[d.job.base.name]) for d in done if d.job.group == group for turns in d.turns)
