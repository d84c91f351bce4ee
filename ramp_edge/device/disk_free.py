"""Free space by `df`, which every POSIX board has; SFTP has no standard question for it."""

from __future__ import annotations

import re

from ramp_edge.device.target import Target

_TIMEOUT_S = 30.0
_NUMBERS = re.compile(rb"\s\d+\s+-?\d+\s+(-?\d{1,18})\s+(?:\d+%|-)\s+/")
"""Blocks of 1024 bytes: all, used, available; then the share and where it is mounted. Names around them may hold spaces."""


def free_bytes(target: Target, folder: str) -> int | None:
    """Space for this user on the disk of an existing folder; None where the board does not tell."""
    result = target.run(["df", "-Pk", folder], timeout_s=_TIMEOUT_S)
    if result.exit_code:
        return None
    found = _NUMBERS.findall(result.stdout)
    return max(0, int(found[-1])) * 1024 if found else None
