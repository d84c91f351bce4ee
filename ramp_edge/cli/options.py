"""Options that several commands share, each worded once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ProgressOption = Annotated[str, typer.Option(help="auto, plain or off (on stderr).", envvar="RAMP_EDGE_PROGRESS")]
BoardsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--target",
        "-t",
        help="A board of targets.yaml, a tag, all, local, or user@host[:port]; may be repeated.",
        envvar="RAMP_EDGE_TARGET",
    ),
]
TargetsFileOption = Annotated[
    Path | None, typer.Option("--targets-file", help="Instead of targets.yaml in the configuration folder.")
]
AcceptOption = Annotated[
    bool, typer.Option("--accept-new-host-key", help="Put a board's unknown host key on record; a changed one never.")
]
ConnectTimeoutOption = Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds to connect.")]
ThreadCountsOption = Annotated[
    str | None, typer.Option(help="Thread counts to try, e.g. 2,4.", show_default="all up to the board's cores")
]
BenchFolderOption = Annotated[
    str | None,
    typer.Option(help="Folder of llama-bench on the board.", show_default="the deployed one; local: this machine's"),
]
MeasuringPlanOption = Annotated[
    bool, typer.Option("--dry-run", help="Show what would be measured; connect to nothing.")
]
