"""Tables on stdout: as wide as the terminal, whole lines in a pipe."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

GAP = 2
"""Characters between two columns of a table."""
_PIPE_COLUMNS = 132
_WHOLE = ("Device", "Family", "Type", "Field", "Board")
"""Names must stay whole: they are what the next command takes."""


def make_table(*columns: str) -> Table:
    """An empty table with these headings."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, GAP - 1, 0, 0))
    for column in columns:
        table.add_column(column, no_wrap=column in _WHOLE, overflow="fold")
    return table


def console(*, highlight: bool = True) -> Console:
    """Where tables go."""
    from rich.console import Console

    # A pipe has no width: lines stay whole there.
    wide = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(highlight=highlight, width=None if wide else _PIPE_COLUMNS)


def show(table: Table) -> None:
    """Print a table and an empty line."""
    place = console()
    place.print(table)
    place.print()
