"""stdout that says so when it cannot take the result: a full disk behind `> file` is not a bug in ramp-edge."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from ramp_edge.errors import OutputError


class CheckedStdout:
    """The stream it wraps, except that a failed write is an OutputError. A closed pipe stays what it is: typer ends quietly."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """As the stream's own. Raises OutputError."""
        if text == "":
            return 0  # typer asks with it what kind of stream this is; /dev/full refuses even that
        with self._checked():
            return self._stream.write(text)

    def flush(self) -> None:
        """As the stream's own. Raises OutputError."""
        with self._checked():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @contextmanager
    def _checked(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            raise
        except OSError as error:
            self._drop_the_rest()
            raise OutputError(
                f"stdout cannot be written: {error.strerror or error}",
                hint="free space where it goes, or send it elsewhere",
            ) from error

    def _drop_the_rest(self) -> None:
        """What is still buffered goes nowhere: python's exit would fail over it a second time."""
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
