"""The result as one JSON document.

History of the format:
1: first version.
"""

from __future__ import annotations

import json
import math
from typing import Any

from ramp_edge.gate.rules import Limit, Regression
from ramp_edge.gate.verdict import GateResult, Judgement, SubjectResult

SCHEMA_VERSION = 1


def gate_json(result: GateResult) -> str:
    """The document; docs/gates.md describes its fields."""
    error = result.error()
    data = {
        "schema_version": SCHEMA_VERSION,
        "verdict": result.word,
        "exit_code": result.exit_code,
        "summary": result.summary(),
        "error": None if error is None else error.message,
        "budget": str(result.budget),
        "devices": [_subject(one) for one in result.subjects],
        "notes": list(result.notes),
    }
    return json.dumps(data, indent=1, allow_nan=False) + "\n"


def _subject(result: SubjectResult) -> dict[str, Any]:
    subject, baseline = result.subject, result.baseline
    return {
        "profile": subject.profile,
        "target": subject.target,
        "model": subject.model,
        "file_sha256": subject.file_sha256,
        "file_bytes": subject.file_bytes,
        "records": [str(path) for path in subject.paths],
        "baseline": None if baseline is None else [str(path) for path in baseline.paths],
        "rules": [_judgement(judgement) for judgement in result.judgements],
    }


def _judgement(judgement: Judgement) -> dict[str, Any]:
    rule, measured, baseline = judgement.rule, judgement.measured, judgement.baseline
    return {
        "rule": None if rule is None else rule.text,
        "kind": "skip" if rule is None else "limit" if isinstance(rule, Limit) else "regression",
        "metric": judgement.metric.name,
        "unit": judgement.metric.unit.value,
        "better": judgement.metric.better.value,
        "verdict": judgement.verdict.value,
        "reason": judgement.reason,
        "value": None if measured is None else measured.value,
        "value_noise": None if measured is None else measured.noise,
        "limit": rule.bound if isinstance(rule, Limit) else None,
        "allowed": rule.allowed if isinstance(rule, Regression) else None,
        "baseline": None if baseline is None else baseline.value,
        "change": _finite(judgement.change),
        "noise": _finite(judgement.noise),
        "headroom": _finite(judgement.headroom),
        "file": str(judgement.place.path),
        "line": judgement.place.line,
    }


def _finite(value: float | None) -> float | None:
    """JSON has no infinity: a change from 0."""
    return value if value is not None and math.isfinite(value) else None
