"""What is judged: one model on one device, with every measurement of it and the conditions under which each was made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ramp_edge.gate.metrics import Source

Condition = str | int | float | None
MUST_BE_KNOWN = ("runtime commit",)
"""Conditions that two runs do not share just because neither tells them."""
_SAME_FLOAT = 1e-3
"""Perplexity of the same reference on the same text: other processors differ in the last digits."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """A figure of a record."""

    value: float
    noise: float | None
    """How far it may be off, in its own unit: 0 for what is exact, half the range of the repeats for speeds, the standard
    error for quality; None where the record does not tell."""
    path: Path
    conditions: Mapping[str, Condition] = field(default_factory=dict)
    """What must be the same in a baseline."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """One model on one device."""

    profile: str | None
    """The device that it was built for."""
    target: str | None
    """The board that it was measured on."""
    model: str
    """What to call it."""
    file_sha256: str
    source_sha256: str | None
    """Of the model that it was built from; None without a build.json."""
    file_bytes: int
    paths: tuple[Path, ...]
    """Its records."""
    sources: frozenset[Source]
    """What its records hold."""
    measurements: Mapping[str, Measurement]
    """Canonical metric name -> value."""
    doubts: tuple[str, ...]
    """Why the bench's figures are not to be trusted."""

    @property
    def names(self) -> tuple[str, ...]:
        """What a budget may call the device, the most particular name last."""
        return tuple(name for name in (self.profile, self.target) if name is not None)

    @property
    def device(self) -> str:
        """The device in words."""
        if self.profile is not None and self.target is not None:
            return f"{self.target} ({self.profile})"
        return self.target or self.profile or "any device"


def nothing_of(device: str) -> Subject:
    """A device that a budget speaks of and no record is for."""
    return Subject(
        profile=None,
        target=device,
        model="no record",
        file_sha256="",
        source_sha256=None,
        file_bytes=0,
        paths=(),
        sources=frozenset(),
        measurements={},
        doubts=(),
    )


def same_device(new: Subject, old: Subject) -> bool:
    """Whether both name the same device; a record that names none goes with any."""
    pairs = ((new.profile, old.profile), (new.target, old.target))
    known = [(a, b) for a, b in pairs if a is not None and b is not None]
    if not known:
        return not new.names or not old.names
    return all(a == b for a, b in known)


def unlike_models(new: Subject, old: Subject) -> str | None:
    """Why the two are not builds of one model, or None."""
    if new.source_sha256 is not None and old.source_sha256 is not None:
        if new.source_sha256 == old.source_sha256:
            return None
        return f"it was built from another model ({old.source_sha256[:12]}, not {new.source_sha256[:12]})"
    if new.file_sha256 == old.file_sha256:
        return None
    return "nothing tells that both were built from one model: give the build.json of both as well"


def unlike_conditions(new: Measurement, old: Measurement) -> list[str]:
    """What is not the same for two measurements of a metric."""
    found = []
    for name in dict.fromkeys((*new.conditions, *old.conditions)):
        a, b = new.conditions.get(name), old.conditions.get(name)
        if name in MUST_BE_KNOWN and (a is None or b is None):
            found.append(f"{name} is not known")
        elif not _same(a, b):
            found.append(f"{name} {_shown(a)}, in the baseline {_shown(b)}")
    return found


def _same(a: Condition, b: Condition) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return abs(a - b) <= _SAME_FLOAT * max(abs(a), abs(b))
    return a == b


def _shown(value: Condition) -> str:
    if value is None:
        return "unknown"
    return f"{value:.6g}" if isinstance(value, float) else str(value) or "none"
