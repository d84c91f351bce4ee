"""Files in, verdict out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ramp_edge.gate.budget_file import read_budget
from ramp_edge.gate.documents import read_records
from ramp_edge.gate.judge import judge
from ramp_edge.gate.merge import merge
from ramp_edge.gate.starter import starter_budget
from ramp_edge.gate.verdict import GateResult


def gate_files(
    records: Sequence[Path],
    budget: Path,
    baseline: Sequence[Path] = (),
    *,
    limits_only: bool = False,
    devices: Sequence[str] = (),
) -> GateResult:
    """Judge records (files, or folders of builds) against a budget file, and against older records where there are any.

    Raises BudgetFileError, UsageError for what is no record, GateUndecidedError for records that do not belong together.
    """
    rules = read_budget(budget)
    subjects = merge(read_records(records))
    old = merge(read_records(baseline)) if baseline else None
    return judge(rules, subjects, old, limits_only=limits_only, devices=devices)


def starter_file(records: Sequence[Path]) -> str:
    """The text of a budget that these records pass with some headroom. Raises UsageError and GateUndecidedError."""
    return starter_budget(merge(read_records(records)))
