"""`report.html` beside a build or a bench: drawn anew whenever either is written, and never in the way of what was made."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from fnmatch import fnmatch
from pathlib import Path

from ramp_edge.beside import written_beside
from ramp_edge.errors import RampEdgeError, UsageError
from ramp_edge.events import EventBus
from ramp_edge.record_files import BENCH_FILE, BOARD_BENCH_FILES, BUILD_FILE, REPORT_FILE
from ramp_edge.report.as_json import report_json
from ramp_edge.report.compose import report_of
from ramp_edge.report.html import MARK, report_html
from ramp_edge.report.markdown import report_markdown
from ramp_edge.report.view import Report

_HEAD_BYTES = 4096
_MODEL_FILE = "model.gguf"


def report_path(record: Path) -> Path:
    """Where the report of a record, or of a build's folder, belongs: `report.html` for what a folder's report is drawn from,
    else beside the file under its name."""
    if record.is_dir():
        return record / REPORT_FILE
    of_build = any((record.parent / name).is_file() for name in (BUILD_FILE, _MODEL_FILE))
    if record.name in (BUILD_FILE, BENCH_FILE) or (of_build and fnmatch(record.name, BOARD_BENCH_FILES)):
        return record.with_name(REPORT_FILE)
    return record.with_name(f"{record.stem}.html")


def draw_beside(record: Path, events: EventBus) -> Path | None:
    """Draw the report of a record that was just written, with all others of its folder; warn where that fails.

    A report of ours that was there before goes then: what it says is no longer true.
    """
    path = report_path(record)
    try:
        check_report_output(path)
    except RampEdgeError as error:
        events.warn(f"no report was drawn: {error.message}")
        return None
    try:
        sources = [record.parent] if path.name == REPORT_FILE else [record]
        write_report(path, draw(sources, "html"))
    except Exception as error:
        # A build of an hour is worth more than its picture: whatever went wrong here, the build stands.
        reason = error.message if isinstance(error, RampEdgeError) else f"{type(error).__name__}: {error}"
        events.warn(f"{path} could not be drawn: {reason}")
        with contextlib.suppress(OSError):
            path.unlink()
        return None
    return path


def retire_report(record: Path) -> None:
    """Remove the report that writing `record` makes untrue: whoever is stopped before the next one is drawn leaves none, not an old one."""
    path = report_path(record)
    with contextlib.suppress(RampEdgeError, OSError):
        check_report_output(path)
        path.unlink(missing_ok=True)


def check_report_output(path: Path) -> None:
    """Raise UsageError where `path` is a folder, or a file that is no report of ours."""
    if path.is_dir():
        raise UsageError(f"{path} is a folder", hint="give a file with -o")
    if not path.exists():
        return
    try:
        with path.open("rb") as stream:
            ours = MARK.encode() in stream.read(_HEAD_BYTES)
    except OSError as error:
        raise _output_error(path, error) from error
    if not ours:
        raise UsageError(
            f"{path} was not written by ramp-edge report, which would overwrite it", hint="give another file"
        )


def write_report(path: Path, text: str) -> None:
    """Write beside, then rename. Raises OutputError."""
    try:
        with written_beside(path) as partial:
            partial.write_text(text, encoding="utf-8")
    except OSError as error:
        raise _output_error(path, error) from error


def _output_error(path: Path, error: OSError) -> RampEdgeError:
    from ramp_edge.emit.write import output_error  # brings numpy, which no report needs

    return output_error(path, error)


FORMATS: dict[str, Callable[[Report], str]] = {
    "html": report_html,
    "markdown": report_markdown,
    "json": report_json,
}


def draw(records: Sequence[Path], form: str) -> str:
    """The report of records in one of FORMATS. Raises UsageError for what is no record."""
    return FORMATS[form](report_of(records))
