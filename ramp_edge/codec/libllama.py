"""The one door to libllama's process-wide state: its backend start and its log.

libllama reports the cause of every failure only through its log callback; here the lines are collected
instead of printed, so that an error can quote them. The callback may be called from any thread.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from ramp_edge.errors import RuntimeToolError

_KEPT_LINES = 200
_LEVEL_DEBUG = 4

_lock = threading.Lock()
_recent: deque[str] = deque(maxlen=_KEPT_LINES)
_captures: list[list[str]] = []
_partial = ""
_callback: Any = None
"""Kept alive for the life of the process: libllama holds the bare pointer."""


def _on_log(level: int, text: bytes, _user_data: Any) -> None:
    global _partial
    if level == _LEVEL_DEBUG:
        return
    with _lock:
        _partial += text.decode("utf-8", errors="replace")
        *lines, _partial = _partial.split("\n")
        for line in filter(None, lines):
            _recent.append(line)
            for capture in _captures:
                capture.append(line)


def libllama() -> ModuleType:
    """The llama_cpp module, started once, silent. Raises RuntimeToolError where it is not installed or not loadable."""
    global _callback
    try:
        import llama_cpp
    except (ImportError, OSError, RuntimeError) as error:
        raise RuntimeToolError(
            f"llama-cpp-python cannot be loaded: {error}",
            hint="pip install --force-reinstall llama-cpp-python==0.3.36",
        ) from error
    if _callback is None:
        _callback = llama_cpp.llama_log_callback(_on_log)
        llama_cpp.llama_log_set(_callback, None)
        llama_cpp.llama_backend_init()
    return llama_cpp  # type: ignore[no-any-return]


def last_log_lines(count: int = 3) -> str:
    """The newest lines that name an error or a warning (else the newest at all), joined for a message."""
    with _lock:
        lines = list(_recent)
    telling = [line for line in lines[-40:] if any(w in line.lower() for w in ("error", "fail", "invalid", "missing"))]
    return "; ".join(line.strip() for line in (telling or lines)[-count:])


@contextmanager
def captured_log() -> Iterator[list[str]]:
    """Collect every complete line that libllama logs while the block runs."""
    libllama()
    capture: list[str] = []
    with _lock:
        _captures.append(capture)
    try:
        yield capture
    finally:
        with _lock:
            # By identity: two captures of the same lines are equal lists.
            _captures[:] = [c for c in _captures if c is not capture]
