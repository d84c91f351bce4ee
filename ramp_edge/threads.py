"""How many threads libllama gets: never more than it can hold, and by timing where the user did not say."""

from __future__ import annotations

import os
import statistics

MAX_THREADS = 512
"""ggml keeps its threads in an array of this length and writes past its end (GGML_MAX_N_THREADS of ggml.h)."""


def default_threads() -> int:
    """Cores this process may run on, as far as ggml can use them."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, min(MAX_THREADS, len(os.sched_getaffinity(0))))
    return max(1, min(MAX_THREADS, os.cpu_count() or 1))


class ThreadChoice:
    """Picks a thread count by timing the first steps of a work, `trials` with all cores, then as many with half.

    ggml's threads wait for each other many times a layer: where another process holds a core, all cores can be
    five times slower than one.
    """

    def __init__(self, n_cores: int, trials: int = 1) -> None:
        self._candidates = [n_cores, max(1, n_cores // 2)]
        self._trials = trials
        self._seconds: list[float] = []

    @property
    def threads(self) -> int:
        """Threads for the next step."""
        current = len(self._seconds) // self._trials
        if current < len(self._candidates):
            return self._candidates[current]
        # The median: one step that met another process by chance decides nothing.
        starts = range(0, len(self._seconds), self._trials)
        medians = [statistics.median(self._seconds[at : at + self._trials]) for at in starts]
        return min(zip(medians, self._candidates, strict=True))[1]

    def report(self, seconds: float) -> None:
        """Time that a step took."""
        if len(self._seconds) < len(self._candidates) * self._trials:
            self._seconds.append(seconds)
