"""A report as one JSON document: the view as it is, each block with its kind.

History of the format:
1: first version.
"""

from __future__ import annotations

import dataclasses
import json
from enum import Enum
from typing import Any

from ramp_edge.report.view import Report

SCHEMA_VERSION = 1


def report_json(report: Report) -> str:
    """The document; docs/report.md describes its fields."""
    data = {"schema_version": SCHEMA_VERSION, **_plain(report)}
    return json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _plain(value: object) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kind = getattr(type(value), "kind", None)
        # Of a report itself `kind` is a field.
        data = {"kind": kind} if isinstance(kind, str) else {}
        return data | {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value
