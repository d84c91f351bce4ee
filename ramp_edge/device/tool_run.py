"""One run of a tool on a board: what to run, what came of it, and what both kinds of agent can do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from ramp_edge.device.facts import BoardFacts, LoadReading


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolCall:
    """A tool and how closely to watch it."""

    argv: tuple[str, ...]
    timeout_s: float
    watch_memory: bool = False
    """Look at its memory 20 times a second: not while its speed is measured."""
    measure_energy: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolLine:
    """A line that the tool said."""

    stream: Literal["stdout", "stderr"]
    text: str
    at_s: float | None
    """Since its start, by the board's steady clock; None where the board has none that a shell can read."""
    energy_j: float | None
    """Used since its start, by whatever the sensor measures; None without a sensor."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolRun:
    """A tool that ended. None stands for what the board does not tell."""

    exit_code: int
    """Negative: ended by that signal."""
    wall_s: float | None
    cpu_s: float | None
    """User and system seconds of all its threads."""
    peak_resident_bytes: int | None
    peak_anonymous_bytes: int | None
    """Largest of the readings of memory that no file stands behind; only where memory was watched."""
    energy_source: str | None
    lines: tuple[ToolLine, ...]

    def text(self, stream: Literal["stdout", "stderr"]) -> str:
        """All lines of one stream."""
        return "\n".join(line.text for line in self.lines if line.stream == stream)

    @property
    def last_words(self) -> str:
        """The last line of stderr (else of stdout) that says something; the exit status where there is none."""
        for stream in ("stderr", "stdout"):
            said = [line.text for line in self.lines if line.stream == stream and line.text.strip()]
            if said:
                return said[-1]
        return f"signal {-self.exit_code}" if self.exit_code < 0 else f"exit status {self.exit_code}"


OnLine = Callable[[ToolLine], None]


class BoardAgent(Protocol):
    """Measures on a board; by Python or by a plain shell, with the same records."""

    @property
    def kind(self) -> str:
        """`python` or `shell`."""
        ...

    def facts(self) -> BoardFacts:
        """The board as it is now; takes about a second. Raises BoardToolError, ConnectionFailedError, DeadlineError."""
        ...

    def load(self) -> LoadReading:
        """How busy the board has been so far; quick."""
        ...

    def run(self, call: ToolCall, on_line: OnLine | None = None) -> ToolRun:
        """Run a tool to its end; the board's `exec_prefix` goes before it.

        Raises BoardToolError where it cannot start, DeadlineError (it is ended), ConnectionFailedError.
        """
        ...
