"""From a name or a path to a `DeviceTarget`: search, `extends`, validation with all offenders in one error.

Files whose name starts with `_family-` are abstract: they only serve `extends`, and their name without that prefix means the
member with the least memory. A user's file of the same name hides the shipped one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from ramp_edge.codec.types import QuantType
from ramp_edge.errors import ProfileError
from ramp_edge.profile.schema import (
    AttentionFigure,
    Location,
    Profile,
    TypeFigures,
    find_contradictions,
    nearest,
    suggest,
)
from ramp_edge.records import DeviceTarget, TypeSupport
from ramp_edge.shipped import config_dir, shipped_dir
from ramp_edge.units import parse_bytes, parse_rate
from ramp_edge.yaml_source import LocatedYaml, Place, read_yaml

FAMILY_PREFIX = "_family-"
_SUFFIXES = (".yaml", ".yml")


def load_target(name_or_path: str) -> DeviceTarget:
    """The device of that profile name, family name or file. Raises ProfileError naming every offender."""
    path = _as_path(name_or_path)
    if path is not None:
        return load_profile_file(path)
    files = _profile_files()
    if name_or_path in files and not name_or_path.startswith(FAMILY_PREFIX):
        return load_profile_file(files[name_or_path])
    family = files.get(FAMILY_PREFIX + name_or_path)
    if family is not None:
        return _smallest_member(name_or_path, files)
    names = device_names()
    raise ProfileError(
        f"there is no device profile named {name_or_path!r}: {suggest(name_or_path, names)}",
        hint="`ramp-edge devices list` shows all; a profile of your own is given by its path, ending in .yaml",
    )


def list_profiles() -> tuple[tuple[DeviceTarget, ...], tuple[ProfileError, ...]]:
    """Every concrete profile, shipped and the user's own, by name; and the error of each file that is not valid."""
    files = _profile_files()
    targets, errors = [], []
    for name in sorted(files):
        if not name.startswith(FAMILY_PREFIX):
            try:
                targets.append(load_profile_file(files[name]))
            except ProfileError as error:
                errors.append(error)
    return tuple(targets), tuple(errors)


def device_names() -> tuple[str, ...]:
    """Every name that `load_target` knows: profiles first, then families."""
    files = _profile_files()
    concrete = sorted(name for name in files if not name.startswith(FAMILY_PREFIX))
    families = sorted(name[len(FAMILY_PREFIX) :] for name in files if name.startswith(FAMILY_PREFIX))
    return (*concrete, *(name for name in families if name not in concrete))


def family_names() -> tuple[str, ...]:
    """The family names, each meaning its member with the least memory."""
    return tuple(sorted(n[len(FAMILY_PREFIX) :] for n in _profile_files() if n.startswith(FAMILY_PREFIX)))


def load_profile_file(path: Path) -> DeviceTarget:
    """Read, extend and check one file."""
    document, _ = _resolve_extends(path)
    return _target(path, document)


def check_profile_file(path: Path) -> None:
    """Raise ProfileError for anything wrong in the file. A `_family-` file may leave fields to its members."""
    if not path.is_file():
        raise ProfileError(f"{path}: there is no such profile file", hint="check the path")
    document, _ = _resolve_extends(path)
    _validate(document, partial=path.stem.startswith(FAMILY_PREFIX))


def _as_path(name_or_path: str) -> Path | None:
    path = Path(name_or_path).expanduser()
    looks_like_path = path.suffix in _SUFFIXES or "/" in name_or_path or "\\" in name_or_path
    if not looks_like_path:
        return None
    if not path.is_file():
        raise ProfileError(
            f"{path}: there is no such profile file",
            hint="check the path, or give a name from `ramp-edge devices list`",
        )
    return path


def _profile_files() -> dict[str, Path]:
    files: dict[str, Path] = {}
    for folder in (shipped_dir("device_profiles"), config_dir() / "device_profiles"):
        if folder.is_dir():
            files.update({p.stem: p for p in sorted(folder.iterdir()) if p.suffix in _SUFFIXES and p.is_file()})
    return files


def _hides_member(name: str, family: str) -> bool:
    """Whether the shipped profile of that name belongs to the family."""
    shipped = [shipped_dir("device_profiles") / (name + suffix) for suffix in _SUFFIXES]
    return any(
        FAMILY_PREFIX + family in {file.stem for file in _resolve_extends(path)[1]}
        for path in shipped
        if path.is_file()
    )


def _smallest_member(family: str, files: dict[str, Path]) -> DeviceTarget:
    wanted = files[FAMILY_PREFIX + family].resolve()
    members = []
    for name, path in files.items():
        if name.startswith(FAMILY_PREFIX):
            continue
        try:
            document, chain = _resolve_extends(path)
        except ProfileError:
            # A broken file of the user's own is no reason to refuse a shipped device, unless it hides a member.
            if _hides_member(name, family):
                raise
            continue
        if wanted in chain:
            members.append(_target(path, document))
    if not members:
        raise ProfileError(
            f"the family {family!r} has no member",
            hint=f"no profile extends {FAMILY_PREFIX}{family}; name a device instead",
        )
    return min(members, key=lambda target: (target.memory_total_bytes, target.name))


def _resolve_extends(path: Path, seen: tuple[Path, ...] = ()) -> tuple[LocatedYaml, tuple[Path, ...]]:
    """The document with all inherited values, and the files it came from."""
    document = read_yaml(path, "a profile", ProfileError, "title: My board")
    if document.problems:
        raise _problems_error(document.problems)
    chain = (*seen, path.resolve())
    base_name = document.values.get("extends")
    if base_name is None:
        return document, chain
    place = document.place_of(("extends",))
    if not isinstance(base_name, str):
        raise ProfileError(f"{place}: extends: {base_name!r} is not the name of a profile")
    base_path = _find_base(base_name, path)
    if base_path is None:
        raise ProfileError(
            f"{place}: extends: there is no profile {base_name!r}: {suggest(base_name, _profile_files())}",
            hint="give a profile's name, or a path relative to this file",
        )
    if base_path.resolve() in chain:
        cycle = " -> ".join(p.name for p in (*chain, base_path.resolve()))
        raise ProfileError(f"{place}: extends: {base_name!r} leads back to itself: {cycle}", hint="break the cycle")
    base, chain = _resolve_extends(base_path, chain)
    _merge(base, document.values, document, ())
    # What is missing belongs into the file that was asked for, not into those it extends.
    base.places[()] = document.places[()]
    return base, chain


def _find_base(name: str, path: Path) -> Path | None:
    for candidate in (path.parent / name, *(path.parent / (name + suffix) for suffix in _SUFFIXES)):
        if candidate.is_file():
            return candidate
    return _profile_files().get(name)


def _merge(base: LocatedYaml, values: dict[str, Any], child: LocatedYaml, location: Location) -> None:
    """Lay the child's values over the base's, with their places; null takes an inherited key away."""
    target: dict[str, Any] = base.values
    for part in location:
        target = target[str(part)]
    for key, value in values.items():
        here = (*location, key)
        if isinstance(value, dict) and isinstance(target.get(key), dict):
            base.places[here] = child.places[here]
            _merge(base, value, child, here)
            continue
        for known in [k for k in base.places if k[: len(here)] == here]:
            del base.places[known]
        if value is None and key in target:
            del target[key]
            continue
        target[key] = value
        base.places.update({k: p for k, p in child.places.items() if k[: len(here)] == here})


def _validate(document: LocatedYaml, *, partial: bool = False) -> Profile | None:
    """The checked profile; None for a partial one that lacks fields but has nothing wrong in those it has."""
    try:
        profile = Profile.model_validate(document.values)
    except ValidationError as error:
        misspelt = {_meant_by(item) for item in error.errors() if item["type"] == "extra_forbidden"}
        items = [
            item
            for item in error.errors()
            if item["type"] != "missing" or not (partial or tuple(item["loc"]) in misspelt)
        ]
        if not items:
            return None
        raise _problems_error([_describe(document, item) for item in items]) from None
    contradictions = find_contradictions(profile)
    if contradictions:
        raise _problems_error(
            [f"{document.place_of(where)}: {_dotted(where)}: {text}" for where, text in contradictions]
        )
    return profile


def _describe(document: LocatedYaml, item: Any) -> str:
    location: Location = tuple(part for part in item["loc"] if part != "[key]")
    start = f"{document.place_of(location)}: {_dotted(location)}"
    if item["type"] == "extra_forbidden":
        return f"{start}: unknown key: {suggest(str(location[-1]), _known_keys(location[:-1]))}"
    if item["type"] == "missing":
        place = _own_place(document, location)
        return f"{place}: {_dotted(location)}: missing: add it here or extend a profile that has it"
    value = item["input"]
    message = str(item["msg"]).removeprefix("Value error, ")
    if item["type"] == "value_error":
        return f"{start}: {message}"
    shown = "a mapping" if isinstance(value, dict) else repr(value)
    return f"{start}: {shown}: {message[0].lower()}{message[1:]}"


def _meant_by(item: Any) -> Location:
    """The known key that an unknown one resembles: it is not missing as well. An empty location where nothing is near."""
    location: Location = tuple(item["loc"])
    key = nearest(str(location[-1]), _known_keys(location[:-1]))
    return () if key is None else (*location[:-1], key)


def _own_place(document: LocatedYaml, location: Location) -> Place:
    """The nearest place above `location` that is in the profile's own file, not in one that it extends."""
    own = document.place_of(())
    for length in range(len(location), 0, -1):
        place = document.places.get(location[:length])
        if place is not None and place.path == own.path:
            return place
    return own


_BY_TYPE: dict[str, type[BaseModel]] = {"types": TypeFigures, "attention": AttentionFigure}
"""Parts of a profile whose keys are types."""


def _known_keys(location: Location) -> tuple[str, ...]:
    """The keys that the schema allows at that place."""
    model: type[BaseModel] = Profile
    entries: type[BaseModel] | None = None
    for part in location:
        if entries is not None:
            model, entries = entries, None
            continue
        annotation = model.model_fields[str(part)].annotation
        if model is Profile and (entries := _BY_TYPE.get(str(part))) is not None:
            continue
        options = (annotation, *getattr(annotation, "__args__", ()))
        model = next(o for o in options if isinstance(o, type) and issubclass(o, BaseModel))
    return tuple(model.model_fields)


def _dotted(location: Location) -> str:
    return ".".join(str(part) for part in location)


def _problems_error(problems: list[str]) -> ProfileError:
    if len(problems) == 1:
        return ProfileError(problems[0], hint="correct the profile; `ramp-edge devices validate FILE` checks it")
    lines = "".join(f"\n  {problem}" for problem in problems)
    return ProfileError(
        f"{len(problems)} problems in the device profile:{lines}",
        hint="correct them; `ramp-edge devices validate FILE` checks the file",
    )


def _target(path: Path, document: LocatedYaml) -> DeviceTarget:
    profile = _validate(document)
    assert profile is not None
    types = {
        QuantType[name]: TypeSupport(
            decode_efficiency=figures.decode_efficiency,
            decode_efficiency_in_cache=figures.decode_efficiency_in_cache,
            output_row_s=figures.output_row_nanoseconds * 1e-9,
            prefill_efficiency=figures.prefill_efficiency,
            repacks=figures.repacks,
            source=figures.source,
            measured=figures.measured,
        )
        for name, figures in profile.types.items()
    }
    overhead, attention = profile.token_overhead, profile.attention or {}
    speed_measured = [profile.bandwidth.effective.measured, *(s.measured for s in types.values())]
    speed_measured += [figure.measured for figure in attention.values()]
    if overhead is not None:
        speed_measured.append(overhead.measured)
    layer_overhead_s = 0.0 if overhead is None else overhead.per_layer_microseconds / 1e6
    layer_in_cache = None if overhead is None else overhead.per_layer_in_cache_microseconds
    in_cache = profile.bandwidth.in_cache
    return DeviceTarget(
        name=path.stem,
        title=profile.title,
        memory_total_bytes=parse_bytes(profile.memory.total.value),
        memory_usable_bytes=parse_bytes(profile.memory.usable.value),
        bandwidth_peak_bytes_s=parse_rate(profile.bandwidth.peak.value),
        bandwidth_effective_bytes_s=parse_rate(profile.bandwidth.effective.value),
        cores=profile.processor.cores,
        decode_threads=profile.processor.decode_threads,
        isa=tuple(profile.processor.isa),
        backend=profile.processor.backend,
        target_bpw=profile.bits.target_bpw,
        max_bpw=profile.bits.max_bpw,
        types=types,
        default_ctx=profile.defaults.ctx,
        default_kv_type=QuantType[profile.defaults.kv_type],
        profile_path=path,
        measured=all(speed_measured),
        token_overhead_s=0.0 if overhead is None else overhead.milliseconds / 1e3,
        layer_overhead_s=layer_overhead_s,
        layer_overhead_in_cache_s=layer_overhead_s if layer_in_cache is None else layer_in_cache / 1e6,
        bandwidth_in_cache_bytes_s=None if in_cache is None else parse_rate(in_cache.value),
        cache_bytes=0 if profile.cache is None else parse_bytes(profile.cache.value),
        attention_macs_s={QuantType[name]: figure.gigamacs_per_second * 1e9 for name, figure in attention.items()},
    )
