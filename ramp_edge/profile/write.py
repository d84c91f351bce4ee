"""A profile as a file that people can read and edit: one figure a line, as the shipped ones are written."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

import yaml
from pydantic import BaseModel

from ramp_edge.errors import OutputError
from ramp_edge.profile.load import check_profile_file
from ramp_edge.profile.schema import Profile


def profile_text(profile: Profile, comment: str) -> str:
    """YAML of a whole profile below a comment."""
    lines = [f"# {line}".rstrip() for line in comment.splitlines()]
    lines.append(f"title: {_scalar(profile.title)}")
    if profile.extends is not None:
        lines.append(f"extends: {_scalar(profile.extends)}")
    for name in ("memory", "bandwidth"):
        lines.append(f"{name}:")
        part: BaseModel = getattr(profile, name)
        figures = {key: getattr(part, key) for key in type(part).model_fields}
        lines += [f"  {key}: {_flow(figure)}" for key, figure in figures.items() if figure is not None]
    for name in ("cache", "token_overhead", "processor", "bits", "defaults"):
        value = getattr(profile, name)
        if value is not None:
            lines.append(f"{name}: {_flow(value)}")
    if profile.attention is not None:
        lines += ["attention:", *_by_type(profile.attention)]
    lines += ["types:", *_by_type(profile.types)]
    return "\n".join(lines) + "\n"


def _by_type(figures: Mapping[str, BaseModel]) -> list[str]:
    width = max(map(len, figures), default=0) + 1
    return [f"  {name + ':':<{width}} {_flow(entry)}" for name, entry in figures.items()]


def write_profile(path: Path, profile: Profile, comment: str) -> None:
    """Write beside, check, rename. Raises OutputError, or ProfileError where the profile contradicts itself."""
    beside = path.with_name(f".{path.stem}.{os.getpid()}.partial.yaml")
    try:
        beside.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(profile_text(profile, comment), encoding="utf-8")
        check_profile_file(beside)
        beside.replace(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}", hint="name another file") from error
    finally:
        with contextlib.suppress(OSError):
            beside.unlink()


def _flow(part: BaseModel) -> str:
    # The source comes last, as it is the longest; what is absent has its meaning too.
    names = sorted(type(part).model_fields, key=lambda name: name == "source")
    values = {name: getattr(part, name) for name in names}
    return "{" + ", ".join(f"{name}: {_scalar(value)}" for name, value in values.items() if value is not None) + "}"


def _scalar(value: object) -> str:
    if isinstance(value, str):
        # Always in quotes, so that nothing is read as a number, and escaped, so that nothing breaks the line.
        return yaml.safe_dump(value, default_style='"', width=float("inf"), allow_unicode=False).rstrip("\n")
    # JSON's other scalars and lists are YAML as well.
    return json.dumps(value)
