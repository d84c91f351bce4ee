"""How many threads libllama gets: never more than it can hold, and by timing where the user did not say."""

from __future__ import annotations

import os

MAX_THREADS = 512
"""ggml keeps its threads in an array of this length and writes past its end (GGML_MAX_N_THREADS of ggml.h)."""


def default_threads() -> int:
    """Cores this process may run on, as far as ggml can use them."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, min(MAX_THREADS, len(os.sched_getaffinity(0))))
    return max(1, min(MAX_THREADS, os.cpu_count() or 1))


class ThreadChoice:
    """Picks a thread count by timing the first steps of a work with all cores, then with half.

    ggml's threads wait for each other many times a layer: where another process holds a core, all cores can be
    five times slower than one.
    """

    def __init__(self, n_cores: int) -> None:
        self._candidates = [n_cores, max(1, n_cores // 2)]
        self._seconds: list[float] = []

    @property
    def threads(self) -> int:
        """Threads for the next step."""
        if len(self._seconds) < len(self._candidates):
            return self._candidates[len(self._seconds)]
        return min(zip(self._seconds, self._candidates, strict=True))[1]

    def report(self, seconds: float) -> None:
        """Time that a step took."""
        if len(self._seconds) < len(self._candidates):
            self._seconds.append(seconds)
