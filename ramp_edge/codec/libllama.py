"""The one door to libllama's process-wide state: its backend start and its log.

libllama reports the cause of every failure only through its log callback; here the lines are collected
instead of printed, so that an error can quote them. The callback may be called from any thread.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import ModuleType
from typing import Any

from ramp_edge.errors import RuntimeToolError

_KEPT_LINES = 200
_LEVEL_DEBUG, _LEVEL_WARN, _LEVEL_ERROR, _LEVEL_CONTINUES = 1, 3, 4, 5
"""ggml.h's numbers; llama_cpp/_logger.py still lists those of an older ggml."""


class _Log:
    """Lines of the whole process's libllama."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.recent: deque[str] = deque(maxlen=_KEPT_LINES)
        self.captures: list[list[str]] = []
        self.faults: deque[str] = deque(maxlen=_KEPT_LINES)
        """The warnings and errors among the recent lines."""
        self._partial = ""
        self._level = 0

    def receive(self, level: int, text: bytes, _user_data: Any) -> None:
        with self.lock:
            self._level = self._level if level == _LEVEL_CONTINUES else level
            if self._level == _LEVEL_DEBUG:
                return
            # A message can come in pieces; only its last one ends the line.
            *lines, self._partial = (self._partial + text.decode("utf-8", errors="replace")).split("\n")
            for line in filter(None, lines):
                self.recent.append(line)
                if self._level in (_LEVEL_WARN, _LEVEL_ERROR):
                    self.faults.append(line)
                for capture in self.captures:
                    capture.append(line)


_log = _Log()


@cache
def _started() -> tuple[ModuleType, Any]:
    import llama_cpp

    # Returned, and so kept for the life of the process: libllama holds the bare pointer.
    callback = llama_cpp.llama_log_callback(_log.receive)
    llama_cpp.llama_log_set(callback, None)
    llama_cpp.llama_backend_init()
    return llama_cpp, callback


def libllama() -> ModuleType:
    """The llama_cpp module, started once, silent. Raises RuntimeToolError where it is not installed or not loadable."""
    try:
        return _started()[0]
    except (ImportError, OSError, RuntimeError) as error:
        raise RuntimeToolError(
            f"llama-cpp-python cannot be loaded: {error}",
            hint="pip install --force-reinstall llama-cpp-python==0.3.36",
        ) from error


def telling_lines(lines: list[str], count: int = 3) -> str:
    """The newest warnings and errors among `lines`, joined for a message; what libllama was doing is no reason."""
    with _log.lock:
        faults = set(_log.faults)
    return "; ".join([line.strip() for line in lines if line in faults][-count:]) or "it gave no reason"


def last_log_lines(count: int = 3) -> str:
    """`telling_lines` of what libllama logged last in this process."""
    with _log.lock:
        lines = list(_log.recent)
    return telling_lines(lines, count)


@contextmanager
def captured_log() -> Iterator[list[str]]:
    """Collect every complete line that libllama logs while the block runs."""
    libllama()
    capture: list[str] = []
    with _log.lock:
        _log.captures.append(capture)
    try:
        yield capture
    finally:
        with _log.lock:
            # By identity: two captures of the same lines are equal lists.
            _log.captures[:] = [c for c in _log.captures if c is not capture]
