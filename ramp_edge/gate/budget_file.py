"""`budgets.yaml`: rules for every device and for single ones, checked as a whole before anything is judged.

A section of a device adds to the defaults; where both have a rule of the same kind for a metric, the device's counts.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ramp_edge.errors import BudgetFileError
from ramp_edge.gate.rules import Limit, Rule, Skip, parse_limit, parse_regression
from ramp_edge.yaml_source import LocatedYaml, Location, Place, read_yaml

EXAMPLE = """\
defaults:
  - size_bytes <= 95 MB
  - kl_mean <= 0.05
devices:
  raspberry-pi-5-8gb:
    - decode_tok_s.median >= 12
    - decode_tok_s.median: -5%
"""
_KEYS = ("defaults", "devices")
_QUOTED = re.compile(r"^\s*(?P<name>[^\s:<>=]+)\s*:\s*(?P<value>[^<>=]*?)\s*$")
"""A regression in quotes is text to YAML, and means the same."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """A budget file."""

    path: Path
    defaults: tuple[Rule, ...]
    devices: dict[str, tuple[Rule | Skip, ...]]
    """Name of a profile or of a target -> its own rules."""
    places: dict[str, Place]
    """Where each device's section begins."""

    def rules_for(self, names: Sequence[str]) -> tuple[tuple[Rule, ...], tuple[Skip, ...]]:
        """The rules of a device that has these names, the most particular name last; and what it skips."""
        found: dict[tuple[str, bool], Rule] = {_key(rule): rule for rule in self.defaults}
        skips: dict[str, Skip] = {}
        for name in names:
            section = self.devices.get(name, ())
            for skip in section:
                if isinstance(skip, Skip):
                    skips[skip.metric.name] = skip
                    found = {key: rule for key, rule in found.items() if key[0] != skip.metric.name}
            for rule in section:
                if not isinstance(rule, Skip):
                    found[_key(rule)] = rule
        named = {key[0] for key in found}
        return tuple(found.values()), tuple(skip for name, skip in skips.items() if name not in named)


def _key(rule: Rule) -> tuple[str, bool]:
    return rule.metric.name, isinstance(rule, Limit)


def read_budget(path: Path) -> Budget:
    """Parse and check a budget file. Raises BudgetFileError naming every mistake with its line."""
    document = read_yaml(path, "a budget", BudgetFileError, "defaults: [size_bytes <= 95 MB]")
    problems = list(document.problems)
    for key in document.values:
        if key not in _KEYS:
            near = difflib.get_close_matches(key, _KEYS, n=1)
            also = f": did you mean {near[0]!r}?" if near else f": a budget has {' and '.join(_KEYS)}"
            problems.append(f"{document.place_of((key,))}: {key}: unknown key{also}")
    defaults = _section(document, ("defaults",), document.values.get("defaults"), problems)
    for skip in defaults:
        if isinstance(skip, Skip):
            problems.append(f"{skip.place}: {skip.metric.name}: skip: only a device's section can skip a default")
    sections = document.values.get("devices")
    if sections is not None and not isinstance(sections, dict):
        problems.append(f"{document.place_of(('devices',))}: devices: must map names of devices to lists of rules")
        sections = None
    devices = {name: _section(document, ("devices", name), rules, problems) for name, rules in (sections or {}).items()}
    if not problems and not defaults and not any(devices.values()):
        problems.append(f"{path}:1: the budget has no rule, so it could judge nothing")
    if problems:
        raise BudgetFileError("\n".join(problems), hint=f"a budget looks like this:\n{EXAMPLE.rstrip()}")
    return Budget(
        path=path,
        defaults=tuple(rule for rule in defaults if not isinstance(rule, Skip)),
        devices=devices,
        places={name: document.place_of(("devices", name)) for name in devices},
    )


def _section(
    document: LocatedYaml, location: Location, entries: object, problems: list[str]
) -> tuple[Rule | Skip, ...]:
    where = ".".join(map(str, location))
    if entries is None:
        if location[-1] in document.values or len(location) > 1:
            problems.append(f"{document.place_of(location)}: {where}: is empty: list rules, or delete it")
        return ()
    if not isinstance(entries, list):
        problems.append(
            f"{document.place_of(location)}: {where}: must be a list of rules, as in `- size_bytes <= 95 MB`"
        )
        return ()
    found: dict[tuple[str, str], Rule | Skip] = {}
    for place, read in _entries(document, location, entries):
        try:
            rule = read()
            key = (rule.metric.name, type(rule).__name__)
            if key in found:
                first = found[key].place.line
                raise ValueError(f"{rule.metric.name} has such a rule already, on line {first}: delete one")
            found[key] = rule
        except ValueError as error:
            problems.append(f"{place}: {where}: {error}")
    return tuple(found.values())


def _entries(
    document: LocatedYaml, location: Location, entries: list[object]
) -> Iterator[tuple[Place, Callable[[], Rule | Skip]]]:
    """Each rule's place, and what reads it."""
    for index, entry in enumerate(entries):
        place = document.place_of((*location, index))
        if isinstance(entry, dict) and entry:
            for name, value in entry.items():
                at = document.place_of((*location, index, name))
                yield at, partial(parse_regression, name, value, at)
        elif isinstance(entry, str) and (quoted := _QUOTED.match(entry)):
            yield place, partial(parse_regression, quoted["name"], quoted["value"], place)
        else:
            yield place, partial(parse_limit, entry, place)
