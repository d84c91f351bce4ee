"""Runs of llama-bench as a probe makes them: how many tokens, how many repeats, and which of them counts.

A run of a quick model is over before the processor has come to its pace: the first tenths of a second are up to twice as slow. So every run decodes for about
as long, in more repeats where a repeat is short, and its best repeat counts: whatever disturbs only ever slows down.

A whole board may be slower for a while as well: heat, or on a virtual machine a neighbour on the same core. `Pace` tells such rounds from the others.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from ramp_edge.device.bench_records import SweepPoint
from ramp_edge.device.llama_tools import UNKNOWN_COMMIT, BoardTools, SpeedResult, SpeedTest, parse_speeds
from ramp_edge.device.probe_models import EMPTY, Filling
from ramp_edge.device.target import Target
from ramp_edge.device.tool_failure import check_success
from ramp_edge.device.tool_run import BoardAgent, ToolCall

Measured = TypeVar("Measured")
REPEAT_S = 0.5
"""A repeat is made about this long, where that does not take too many tokens."""
_GEN_RANGE, _PROMPT_RANGE, _REPEATS_RANGE = (8, 128), (32, 512), (2, 64)
PACE_TOLERANCE = 0.15
"""Slower than the best by more than this is another pace."""
PACE_WAIT_S = 1.0
MOST_WAITS = 20
"""In all rounds of one model, for the pace to come back."""
_REPACKED = re.compile(r"REPACK model buffer size = *(?!0\.00 )[\d.]+ MiB")


@dataclass(frozen=True, kw_only=True, slots=True)
class Lengths:
    """Tokens of one repeat, and repeats of one run."""

    n_prompt: int
    n_gen: int
    repeats: int


def lengths_for(prefill_tok_s: float, decode_tok_s: float) -> Lengths:
    """Repeats of about REPEAT_S, or as many of them as make two such."""
    n_gen = _sized(decode_tok_s * REPEAT_S, _GEN_RANGE)
    return Lengths(
        n_prompt=_sized(prefill_tok_s * REPEAT_S, _PROMPT_RANGE),
        n_gen=n_gen,
        repeats=_sized(2 * REPEAT_S * decode_tok_s / n_gen, _REPEATS_RANGE),
    )


def _sized(count: float, limits: tuple[int, int]) -> int:
    return max(limits[0], min(limits[1], round(count)))


class BenchRuns:
    """llama-bench on one board; lengths and repacking of a file are found once."""

    def __init__(self, target: Target, agent: BoardAgent, tools: BoardTools, timeout_s: float) -> None:
        self._target, self._agent, self._tools, self._timeout_s = target, agent, tools, timeout_s
        self._looks: dict[str, tuple[Lengths, bool]] = {}
        self.threads = 1
        self.commit = UNKNOWN_COMMIT
        self.backends: str | None = None

    def sweep(self, path: str, candidates: Sequence[int]) -> tuple[SweepPoint, ...]:
        """Speeds of each thread count."""
        test = SpeedTest(model_path=path, threads=tuple(candidates), n_prompt=64, n_gen=16, repeats=2)
        results, _ = self._run(test)

        def best(threads: int, decode: bool) -> float:
            return max(max(r.samples_ts) for r in results if r.n_threads == threads and bool(r.n_gen) == decode)

        return tuple(
            SweepPoint(threads=n, decode_tok_s=best(n, True), prefill_tok_s=best(n, False)) for n in candidates
        )

    def look(self, path: str) -> tuple[Lengths, bool]:
        """(lengths, whether llama.cpp repacks the file's weights)"""
        if path not in self._looks:
            first = SpeedTest(model_path=path, threads=(self.threads,), n_prompt=32, n_gen=8)
            (prefill, decode), words = self._run(first, ("-v",))
            lengths = lengths_for(prefill.samples_ts[0], decode.samples_ts[0])
            self._looks[path] = lengths, _REPACKED.search(words) is not None
        return self._looks[path]

    def decode_tok_s(self, path: str, filling: Filling = EMPTY, *, share: float = 1.0) -> float:
        """Decode in one run, with the KV cache filled so far; `share` of the usual repeats."""
        lengths, _ = self.look(path)
        test = SpeedTest(
            model_path=path,
            threads=(self.threads,),
            n_prompt=0,
            n_gen=lengths.n_gen,
            depths=(filling.depth,),
            kv_type=filling.kv_type.name.lower(),
            repeats=max(1, round(lengths.repeats * share)),
        )
        return max(self._run(test)[0][0].samples_ts)

    def prefill_tok_s(self, path: str) -> float:
        """Prefill in one run."""
        lengths, _ = self.look(path)
        test = SpeedTest(model_path=path, threads=(self.threads,), n_prompt=lengths.n_prompt, n_gen=0, repeats=2)
        return max(self._run(test)[0][0].samples_ts)

    def _run(self, test: SpeedTest, extra: tuple[str, ...] = ()) -> tuple[tuple[SpeedResult, ...], str]:
        argv = (*test.argv(self._tools), *extra)
        run = self._agent.run(ToolCall(argv=argv, timeout_s=self._timeout_s))
        check_success(self._target, argv, run)
        results = parse_speeds(run, test, self._target.spec.name)
        self.commit = results[0].build_commit
        self.backends = results[0].backends or None
        return results, run.text("stderr")


class Pace:
    """Whether a board is as fast as it was, by a small model whose speed the processor decides and not the memory.

    On one virtual machine such a model took 99 or 140 microseconds a token and hardly anything between, for 20 seconds to minutes each.
    """

    def __init__(self, runs: BenchRuns, path: str) -> None:
        self._runs, self._path = runs, path
        self._best_tok_s = 0.0
        self._highest_tok_s = 0.0
        self.last_tok_s = 0.0
        """The slowest pace of the last rounds that count."""
        self.disturbed_rounds = 0
        """All that were measured and do not count."""

    def rounds(self, measure: Callable[[int], Measured], count: int) -> list[Measured]:
        """`count` rounds of `measure`, which takes the round's number, at the board's pace: those in which it was lost are made again.

        After twice as many rounds, or three more, those at its pace are all that there are, or where there is none the others. Where the pace did not
        come back within MOST_WAITS, the pace of that time is the board's from then on: one that has slowed down for good is measured as it is.
        """
        made: list[tuple[Measured, float]] = []
        kept: list[tuple[Measured, float]] = []
        waits = 0
        before = self._tok_s()
        while len(kept) < count and len(made) < count + max(count, 3):
            while not self._is_kept(before) and waits < MOST_WAITS:
                time.sleep(PACE_WAIT_S)
                waits += 1
                before = self._tok_s()
            found = measure(len(made))
            after = self._tok_s()
            made.append((found, min(before, after)))
            # Anew each time: what was the best pace may turn out to be the slower one.
            kept = [(found, tok_s) for found, tok_s in made if self._is_kept(tok_s)]
            before = after
        if len(kept) < count and waits == MOST_WAITS:
            self._best_tok_s = before
        chosen = kept or made
        self.disturbed_rounds += len(made) - len(chosen)
        self.last_tok_s = min(tok_s for _, tok_s in chosen)
        return [found for found, _ in chosen]

    def was_slower(self, tok_s: float) -> bool:
        """Whether a pace from earlier is not the best that was ever seen."""
        return not _keeps_up(tok_s, self._highest_tok_s)

    def comes_back(self) -> bool:
        """Waits for the best pace that was ever seen; False where it does not come."""
        self._best_tok_s = self._highest_tok_s
        for _ in range(MOST_WAITS):
            if self._is_kept(self._tok_s()):
                return True
            time.sleep(PACE_WAIT_S)
        return False

    def _tok_s(self) -> float:
        """The pace of now."""
        found = self._runs.decode_tok_s(self._path, share=0.5)
        self._best_tok_s = max(self._best_tok_s, found)
        self._highest_tok_s = max(self._highest_tok_s, found)
        return found

    def _is_kept(self, tok_s: float) -> bool:
        return _keeps_up(tok_s, self._best_tok_s)


def _keeps_up(tok_s: float, best_tok_s: float) -> bool:
    return tok_s * (1 + PACE_TOLERANCE) >= best_tok_s
