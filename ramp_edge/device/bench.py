"""Measures models on a board with llama.cpp's own tools: perplexity first, then threads, speeds in turns, memory.

A figure of speed is llama-bench's, after its warm-up. Several models take turns within each round, so that what slows the board
for a while hits them alike. Every run of a tool has a deadline; a broken connection or a dead agent ends the bench with its cause.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Literal

from ramp_edge import __version__
from ramp_edge.device.agent_client import board_agent
from ramp_edge.device.bench_model import KINDS, BenchModel, Measured, paired_ratios
from ramp_edge.device.bench_plan import (
    FIRST_GEN,
    FIRST_PROMPT,
    BenchOptions,
    Lengths,
    choose_depths,
    measured_lengths,
    memory_context,
    pick_threads,
    sweep_lengths,
    thread_candidates,
    turn_order,
)
from ramp_edge.device.bench_records import BenchRecord, MemoryUse, PerplexityCheck, SweepPoint
from ramp_edge.device.llama_tools import (
    UNKNOWN_COMMIT,
    BoardTools,
    PerplexityEstimate,
    PerplexityTest,
    SpeedResult,
    SpeedTest,
    is_progress,
    load_seconds,
    parse_perplexity,
    parse_speeds,
)
from ramp_edge.device.stability import board_reasons
from ramp_edge.device.target import Target, printable
from ramp_edge.device.tool_failure import check_success
from ramp_edge.device.tool_run import BoardAgent, OnLine, ToolCall, ToolLine, ToolRun
from ramp_edge.device.work_files import put_file
from ramp_edge.errors import BoardMismatchError, BoardToolError
from ramp_edge.events import EventBus

PERPLEXITY_TOLERANCE = 0.01
PERPLEXITY_ATTEMPTS = 3
SWEEP_REPEATS = 2
_LOAD_MODES: tuple[Literal["mmap", "none"], ...] = ("mmap", "none")


def bench(
    target: Target,
    models: Sequence[BenchModel],
    tools: BoardTools,
    options: BenchOptions,
    events: EventBus,
    *,
    runtime_commit: str | None = None,
) -> BenchRecord:
    """Measure every model. `runtime_commit` is recorded where the tools themselves do not know theirs.

    Raises BoardMismatchError where a perplexity differs from the host's, BoardToolError, DeadlineError,
    ConnectionFailedError, UsageError for thread counts and depths that cannot be.
    """
    with board_agent(target, events) as agent:
        return _Bench(target, agent, models, tools, options, events).run(runtime_commit)


class _Bench:
    def __init__(
        self,
        target: Target,
        agent: BoardAgent,
        models: Sequence[BenchModel],
        tools: BoardTools,
        options: BenchOptions,
        events: EventBus,
    ) -> None:
        self._target, self._agent, self._tools, self._options, self._events = target, agent, tools, options, events
        self._measured = [Measured(model=model) for model in models]
        self._notes: list[str] = []
        self._commit: str | None = None
        self._backends: str | None = None
        self._energy_source: str | None = None

    @property
    def _where(self) -> str:
        return self._target.spec.name

    def run(self, runtime_commit: str | None) -> BenchRecord:
        start_s = time.monotonic()
        measured_at = datetime.now(timezone.utc).isoformat(timespec="seconds")
        before = self._agent.facts()
        cores = before.usable_cores or before.cores or 1
        candidates = thread_candidates(cores, self._options.threads)
        self._perplexities(candidates[-1])
        self._choose_threads(candidates)
        lengths = self._lengths()
        depths = self._depths(lengths)
        self._speeds(lengths, depths)
        self._memory()
        after = self._agent.facts()
        n_models = len(self._measured)
        rounds = self._options.rounds_for(n_models)
        return BenchRecord(
            target=self._where,
            address=self._target.spec.address,
            exec_prefix=self._target.spec.exec_prefix,
            agent="python" if self._agent.kind == "python" else "shell",
            measured_at=measured_at,
            wall_s=time.monotonic() - start_s,
            ramp_edge_version=__version__,
            runtime_commit=self._commit or runtime_commit,
            backends=self._backends,
            repeats=rounds * self._options.repeats_per_round(n_models),
            rounds=rounds,
            models=tuple(m.summary(lengths, depths) for m in self._measured),
            ratios=tuple(paired_ratios(self._measured, depths)),
            energy_source=self._energy_source,
            facts_before=before,
            facts_after=after,
            unstable=board_reasons(before, after),
            notes=tuple(self._notes),
        )

    def _run(
        self, argv: tuple[str, ...], *, memory: bool = False, energy: bool = False, on_line: OnLine | None = None
    ) -> ToolRun:
        call = ToolCall(
            argv=argv, timeout_s=self._options.timeout_s, watch_memory=memory, measure_energy=energy
        )  # fmt: skip
        run = self._agent.run(call, on_line)
        check_success(self._target, argv, run)
        return run

    def _test(
        self, test: SpeedTest, measured: Measured, *, advance: OnLine | None, memory: bool = False, final: bool = False
    ) -> tuple[ToolRun, tuple[SpeedResult, ...]]:
        before = self._agent.load()
        run = self._run(test.argv(self._tools), memory=memory, energy=final, on_line=advance)
        if final:
            measured.other_load.add(before, self._agent.load(), run.cpu_s)
        results = parse_speeds(run, test, self._where)
        commit = results[0].build_commit
        self._commit = None if commit == UNKNOWN_COMMIT else commit
        self._backends = results[0].backends or None
        return run, results

    @contextmanager
    def _stage(self, name: str, n_runs: int) -> Iterator[OnLine]:
        with self._events.stage(f"{name} on {self._where}", total=n_runs, unit="runs") as stage:

            def advance(line: ToolLine) -> None:
                if is_progress(line):
                    stage.advance()

            yield advance

    def _perplexities(self, threads: int) -> None:
        """First of all: with a wrong kernel nothing else is worth knowing."""
        if self._tools.perplexity is None:
            return
        for measured in self._measured:
            model, text = measured.model, measured.model.text
            if text is None:
                continue
            with self._events.stage(f"perplexity of {model.label} on {self._where}"):
                test = PerplexityTest(
                    model_path=model.board_path,
                    text_path=put_file(self._target, text.data, "text", ".txt"),
                    n_ctx=text.n_ctx,
                    n_windows=text.n_windows,
                    threads=threads,
                )
                estimate = self._estimate(test, self._tools.perplexity)
            _check_perplexity(model.label, self._where, estimate.value, text.host)
            measured.perplexity = PerplexityCheck(
                text=text.name,
                text_sha256=hashlib.sha256(text.data).hexdigest(),
                n_ctx=text.n_ctx,
                n_windows=text.n_windows,
                board=estimate.value,
                board_std_error=estimate.std_error,
                host=text.host,
            )

    def _estimate(self, test: PerplexityTest, tool: str) -> PerplexityEstimate:
        """Asked again where the tool lost its own last lines."""
        for _ in range(PERPLEXITY_ATTEMPTS):
            run = self._run(test.argv(tool))
            if (estimate := parse_perplexity(run, test.n_windows)) is not None:
                return estimate
        raise BoardToolError(
            f"llama-perplexity on {self._where} gave no estimate in {PERPLEXITY_ATTEMPTS} attempts; its last words: "
            f"{printable(run.last_words.encode('utf-8', 'replace'), 160)!r}"
        )

    def _choose_threads(self, candidates: tuple[int, ...]) -> None:
        """A first look at all cores, then a coarse sweep."""
        n_runs = len(self._measured) * (2 + (2 * SWEEP_REPEATS * len(candidates) if len(candidates) > 1 else 0))
        with self._stage("thread sweep", n_runs) as advance:
            for measured in self._measured:
                model = measured.model
                first = SpeedTest(
                    model_path=model.board_path,
                    threads=candidates[-1:],
                    n_prompt=min(FIRST_PROMPT, model.context // 2),
                    n_gen=min(FIRST_GEN, model.context // 2),
                    kv_type=model.kv_type,
                )
                _, results = self._test(first, measured, advance=advance)
                prefill, decode = results[0].samples_ts[0], results[1].samples_ts[0]
                if len(candidates) == 1:
                    measured.threads = dict.fromkeys(KINDS, candidates[0])
                    measured.rough_tok_s = {"decode": decode, "prefill": prefill}
                    continue
                lengths = sweep_lengths(decode, prefill, model.context)
                test = SpeedTest(
                    model_path=model.board_path,
                    threads=candidates,
                    n_prompt=lengths.n_prompt,
                    n_gen=lengths.n_gen,
                    repeats=SWEEP_REPEATS,
                    kv_type=model.kv_type,
                )
                _, results = self._test(test, measured, advance=advance)
                measured.sweep = tuple(
                    SweepPoint(
                        threads=n,
                        decode_tok_s=max(_one(results, n_gen=True, threads=n).samples_ts),
                        prefill_tok_s=max(_one(results, n_gen=False, threads=n).samples_ts),
                    )
                    for n in candidates
                )
                for_decode, for_prefill = pick_threads(measured.sweep)
                measured.threads = {"decode": for_decode, "prefill": for_prefill}
                measured.rough_tok_s = {
                    "decode": max(p.decode_tok_s for p in measured.sweep),
                    "prefill": max(p.prefill_tok_s for p in measured.sweep),
                }

    def _lengths(self) -> Lengths:
        """The same for all models, after the slowest."""
        return measured_lengths(
            min(m.rough_tok_s["decode"] for m in self._measured),
            min(m.rough_tok_s["prefill"] for m in self._measured),
            min(m.model.context for m in self._measured),
        )

    def _depths(self, lengths: Lengths) -> tuple[int, ...]:
        """The same for all models: the first one's prediction decides."""
        depths, notes = choose_depths(
            self._options.depths,
            self._measured[0].model.predicted_depth,
            min(m.model.context for m in self._measured),
            lengths,
            min(m.rough_tok_s["prefill"] for m in self._measured),
        )
        self._notes.extend(notes)
        for note in notes:
            self._events.note(note)
        return depths

    def _speeds(self, lengths: Lengths, depths: tuple[int, ...]) -> None:
        n_models = len(self._measured)
        rounds, repeats = self._options.rounds_for(n_models), self._options.repeats_per_round(n_models)
        with self._stage("speed", 2 * n_models * len(depths) * rounds * repeats) as advance:
            for number in range(rounds):
                for index in turn_order(n_models, number):
                    measured = self._measured[index]
                    for test in measured.tests(lengths, depths, repeats):
                        run, results = self._test(test, measured, advance=advance, final=True)
                        self._energy_source = run.energy_source
                        measured.keep(run, results)

    def _memory(self) -> None:
        """With the weights mapped from the file, and read into memory of their own."""
        with self._stage("memory", len(_LOAD_MODES) * len(self._measured)) as advance:
            for measured in self._measured:
                model = measured.model
                wanted = model.planned_context or min(model.context, 2048)
                n_ctx = memory_context(wanted, measured.rough_tok_s["prefill"])
                for mode in _LOAD_MODES:
                    test = SpeedTest(
                        model_path=model.board_path,
                        threads=(measured.threads["prefill"],),
                        n_prompt=n_ctx,
                        n_gen=0,
                        kv_type=model.kv_type,
                        load_mode=mode,
                        warmup=False,
                    )
                    run, _ = self._test(test, measured, advance=advance, memory=True)
                    measured.memory.append(
                        MemoryUse(
                            load_mode=mode,
                            n_ctx=n_ctx,
                            peak_resident_bytes=run.peak_resident_bytes,
                            peak_anonymous_bytes=run.peak_anonymous_bytes,
                            load_s=load_seconds(run.lines),
                            predicted_bytes=model.predicted_memory_bytes if n_ctx == model.planned_context else None,
                        )
                    )


def _check_perplexity(label: str, where: str, board: float, host: float) -> None:
    """Raise BoardMismatchError where the board does not give the host's value."""
    if math.isfinite(board) and abs(board / host - 1) <= PERPLEXITY_TOLERANCE:
        return
    raise BoardMismatchError(
        f"{label}: perplexity {board:.4f} on {where}, {host:.4f} on this machine for the same file and text: "
        f"more than {PERPLEXITY_TOLERANCE:.0%} apart",
        hint="a kernel of that runtime is wrong for the board, or the file was altered there: deploy again, and if it stays, "
        "try another runtime",
    )


def _one(results: Sequence[SpeedResult], *, n_gen: bool, threads: int) -> SpeedResult:
    return next(r for r in results if bool(r.n_gen) == n_gen and r.n_threads == threads)
