"""YAML with line numbers: a safe loader that refuses duplicate keys and remembers where every value stands."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ramp_edge.errors import RampEdgeError

Location = tuple[str | int, ...]
_MAX_BYTES = 1 << 20
_MAX_DEPTH = 40
_PLAIN_TAGS = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """A line of a file."""

    path: Path
    line: int

    def __str__(self) -> str:
        return f"{self.path}:{self.line}"


@dataclass(kw_only=True, slots=True)
class LocatedYaml:
    """A parsed document: plain values, and the place of every key path in them."""

    values: dict[str, Any]
    places: dict[Location, Place]
    problems: list[str] = field(default_factory=list)
    """Duplicate keys and the like, each with its place."""

    def place_of(self, location: Location) -> Place:
        """Where that key path, or the nearest enclosing one, is written."""
        for length in range(len(location), -1, -1):
            if location[:length] in self.places:
                return self.places[location[:length]]
        raise KeyError(location)


def read_yaml(path: Path, what: str, raises: type[RampEdgeError], example: str) -> LocatedYaml:
    """Parse one file. Raises `raises` where it cannot be read or is not a mapping.

    `what` names the kind of file with its article ("a profile"), `example` is a line that could stand in one.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise raises(f"{path}: {path.stat().st_size} bytes are too many for {what} (at most {_MAX_BYTES})")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise raises(f"{path}: cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise raises(f"{path}: byte {error.start} is not UTF-8", hint="save the file as UTF-8 text") from None
    loader: yaml.SafeLoader | None = None
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        if not isinstance(root, yaml.MappingNode):
            raise raises(f"{path}:1: {what} is a mapping of keys, as in `{example}`")
        walker = _Walker(path, loader, what, raises)
        values = walker.convert(root, ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise raises(
            f"{path}:{line}: not valid YAML: {error.problem or error.context}",
            hint="check indentation, colons and quotes",
        ) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise raises(f"{path}: not valid YAML: {error}") from None
    finally:
        if loader is not None:
            loader.dispose()
    return LocatedYaml(values=values, places=walker.places, problems=walker.problems)


def quoted(text: str) -> str:
    """Text as a YAML scalar on one line that reads back the same, whatever is in it."""
    return yaml.safe_dump(text, default_style='"', width=float("inf"), allow_unicode=False).strip()


class _Walker:
    """Turns YAML nodes into plain values and notes their places on the way."""

    def __init__(self, path: Path, loader: yaml.SafeLoader, what: str, raises: type[RampEdgeError]) -> None:
        self._path, self._loader, self._what, self._raises = path, loader, what, raises
        self.places: dict[Location, Place] = {}
        self.problems: list[str] = []

    def convert(self, node: yaml.Node, location: Location) -> Any:
        place = Place(path=self._path, line=node.start_mark.line + 1)
        self.places.setdefault(location, place)
        if len(location) > _MAX_DEPTH:
            # An alias to its own parent would go on for ever.
            raise self._raises(f"{place}: nested deeper than {_MAX_DEPTH} levels")
        if isinstance(node, yaml.CollectionNode) and not node.tag.startswith(_PLAIN_TAGS):
            raise self._raises(f"{place}: not valid YAML for {self._what}: the tag {node.tag!r} is not allowed")
        if isinstance(node, yaml.MappingNode):
            return self._convert_mapping(node, location)
        if isinstance(node, yaml.SequenceNode):
            return [self.convert(item, (*location, index)) for index, item in enumerate(node.value)]
        return self._loader.construct_object(node, deep=True)

    def _convert_mapping(self, node: yaml.MappingNode, location: Location) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = self._loader.construct_object(key_node, deep=True)
            place = Place(path=self._path, line=key_node.start_mark.line + 1)
            dotted = ".".join(str(part) for part in (*location, key))
            if not isinstance(key, str):
                self.problems.append(f"{place}: {dotted}: the key is not text: put it in quotes")
                continue
            here = (*location, key)
            if key in mapping:
                first = self.places[here]
                self.problems.append(f"{place}: {dotted}: given twice, first on line {first.line}: delete one")
                continue
            self.places[here] = place
            mapping[key] = self.convert(value_node, here)
        return mapping
