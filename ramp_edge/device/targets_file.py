"""The user's boards: `targets.yaml` in the configuration folder, or an address given in its place.

The file belongs to the user, not to a project: addresses and key files are nobody else's business.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ramp_edge.device.target import DEFAULT_FOLDER, TargetSpec
from ramp_edge.errors import TargetsFileError
from ramp_edge.shipped import cache_dir, config_dir
from ramp_edge.yaml_source import LocatedYaml, read_yaml

FILE_VARIABLE = "RAMP_EDGE_TARGETS"
LOCAL = "local"
EXAMPLE = """\
targets:
  kitchen-pi:
    host: pi@192.0.2.7
    profile: raspberry-pi-5-8gb
    tags: [lab]
"""
_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
_HOST = re.compile(
    r"^(?:(?P<user>[^@\s]+)@)?(?:\[(?P<v6>[0-9A-Fa-f:.%\w]+)\]|(?P<host>[^\s\[\]:@/]+))(?::(?P<port>\d+))?$"
)
Word = Annotated[str, Field(min_length=1, pattern=r"^[^\x00\r\n]+$")]


class _Entry(BaseModel):
    """One target as it is written."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: Word
    profile: Word | None = None
    tags: tuple[Annotated[str, Field(pattern=_NAME.pattern)], ...] = ()
    folder: Word = DEFAULT_FOLDER
    exec_prefix: tuple[Word, ...] = ()
    identity_file: Word | None = None
    python: Word = "python3"


def targets_path() -> Path:
    """Where the user's boards are written down."""
    named = os.environ.get(FILE_VARIABLE)
    return Path(named) if named else config_dir() / "targets.yaml"


def parse_address(text: str) -> tuple[str | None, str, int | None]:
    """(user, host, port) of `[user@]host[:port]`, an IPv6 address in brackets. Raises ValueError."""
    match = _HOST.match(text)
    host = match and (match["v6"] or match["host"])
    if not match or not host or host.startswith("-") or (match["user"] or "").startswith("-"):
        raise ValueError(f"{text!r} is no address: write [user@]host[:port], an IPv6 address in brackets")
    port = int(match["port"]) if match["port"] else None
    if port is not None and not 0 < port < 65536:
        raise ValueError(f"{text!r}: there is no port {port}: use 1 to 65535")
    return match["user"], host, port


def read_targets(path: Path | None = None) -> dict[str, TargetSpec]:
    """The user's boards by name; none where there is no file. Raises TargetsFileError naming every wrong field."""
    path = path or targets_path()
    if not path.is_file():
        return {}
    document = read_yaml(path, "a targets file", TargetsFileError, "targets:")
    problems = list(document.problems)
    for key in document.values:
        if key != "targets":
            problems.append(f"{document.place_of((key,))}: {key}: unknown key: the file has one, `targets`")
    entries = document.values.get("targets") or {}
    if not isinstance(entries, dict):
        raise TargetsFileError(f"{document.place_of(('targets',))}: targets: must map names to boards", hint=EXAMPLE)
    found: dict[str, TargetSpec] = {}
    for name, values in entries.items():
        spec = _spec(name, values, document, problems)
        if spec is not None:
            found[name] = spec
    if problems:
        raise TargetsFileError("\n".join(problems), hint="correct the file, then run the same command again")
    return found


def _spec(name: str, values: object, document: LocatedYaml, problems: list[str]) -> TargetSpec | None:
    where = ("targets", name)
    place = document.place_of(where)
    if not _NAME.match(name) or name in (LOCAL, "all"):
        problems.append(
            f"{place}: {name!r} cannot be a target's name: letters, digits, dots and dashes, not local or all"
        )
        return None
    try:
        entry = _Entry.model_validate(values)
        user, host, port = (None, None, None) if entry.host == LOCAL else parse_address(entry.host)
    except ValidationError as error:
        for item in error.errors():
            location = (*where, *item["loc"])
            dotted = ".".join(map(str, location))
            problems.append(f"{document.place_of(location)}: {dotted}: {item['msg'][0].lower()}{item['msg'][1:]}")
        return None
    except ValueError as error:
        problems.append(f"{document.place_of((*where, 'host'))}: targets.{name}.host: {error}")
        return None
    return TargetSpec(
        name=name,
        host=host,
        user=user,
        port=port,
        identity_file=Path(entry.identity_file).expanduser() if entry.identity_file else None,
        profile=entry.profile,
        tags=entry.tags,
        folder=entry.folder,
        exec_prefix=entry.exec_prefix,
        python=entry.python,
    )


def find_target(text: str, path: Path | None = None) -> TargetSpec:
    """The board of that name, `local`, or the one at that address. Raises TargetsFileError."""
    known = read_targets(path)
    if text in known:
        return known[text]
    if text == LOCAL:
        # This machine has a cache for such files: nothing appears in the user's home.
        return TargetSpec(name=LOCAL, host=None, folder=str(cache_dir() / "board"))
    try:
        user, host, port = parse_address(text)
    except ValueError as error:
        raise TargetsFileError(f"no target of that name: {error}", hint=_names_hint(known)) from None
    if user is None and port is None and "." not in text and text != "localhost":
        # A bare word may be an alias of ~/.ssh/config, but more often it is a misspelt name.
        import difflib

        near = difflib.get_close_matches(text, list(known), n=1)
        if near:
            raise TargetsFileError(f"no target is named {text!r}: did you mean {near[0]!r}?", hint=_names_hint(known))
    return TargetSpec(name=text, host=host, user=user, port=port)


def select_targets(wanted: Sequence[str], path: Path | None = None) -> tuple[TargetSpec, ...]:
    """The boards of these names, tags or addresses, each once; `all` means every one of the file."""
    known = read_targets(path)
    chosen: dict[str, TargetSpec] = {}
    for text in wanted:
        if text == "all":
            matches = list(known.values())
            if not matches:
                raise TargetsFileError(
                    f"{path or targets_path()} names no target", hint=f"write one, such as\n{EXAMPLE}"
                )
        else:
            matches = [spec for spec in known.values() if text in spec.tags] if text not in known else []
            matches = matches or [find_target(text, path)]
        chosen.update({spec.name: spec for spec in matches})
    return tuple(chosen.values())


def _names_hint(known: dict[str, TargetSpec]) -> str:
    names = ", ".join(known) or "none"
    return f"targets in {targets_path()}: {names}; --target also takes local or user@host[:port]"
