"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_beside(path: Path) -> Iterator[Path]:
    """Where to write what becomes `path` when the block ends well; after a failure the old file stands and nothing else is left.

    Raises what writing and renaming raise: whose file it is knows what to say.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        # Cleaning up must not hide why writing failed.
        with contextlib.suppress(OSError):
            partial.unlink()
