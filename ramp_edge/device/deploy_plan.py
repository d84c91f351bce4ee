"""What a deploy would do, worked out without changing anything on the board."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from ramp_edge.device.board_hash import board_sha256
from ramp_edge.device.release import LocalFile, Release, release_of, sha256_of
from ramp_edge.device.store import BoardStore
from ramp_edge.device.target import Target
from ramp_edge.errors import BoardStorageError
from ramp_edge.units import limit_and_need

_ROOM_BYTES = 1 << 20
"""For folders, links and lists."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedFile:
    """One content, under however many names."""

    file: LocalFile
    names: tuple[str, ...]
    executable: bool
    is_there: bool
    """On the board, and right."""
    was_altered: bool
    """On the board under its hash, and wrong."""
    resume_bytes: int
    """There from an upload that broke off, and right."""

    @property
    def send_bytes(self) -> int:
        """Still to be sent."""
        return 0 if self.is_there else self.file.size_bytes - self.resume_bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class DeployPlan:
    """A deploy to one board."""

    root: str
    """The folder on the board."""
    release: Release
    files: tuple[PlannedFile, ...]
    is_current: bool
    """The release is the current one already."""
    stale: tuple[str, ...]
    """Files on the board that nothing needs any more; their space is free to be used."""
    free_bytes: int | None
    """On the board's disk, with that of the stale files; None where the board does not tell."""

    @property
    def send_bytes(self) -> int:
        """To be sent in all."""
        return sum(file.send_bytes for file in self.files)

    @property
    def there_bytes(self) -> int:
        """Of the release, there already."""
        return sum(file.file.size_bytes for file in self.files) - self.send_bytes


def plan_deploy(target: Target, files: Mapping[str, LocalFile]) -> DeployPlan:
    """What is there, what must be sent. Raises BoardStorageError where it does not fit, UsageError for impossible names."""
    release = release_of(files)
    store = BoardStore(target)
    names: dict[str, list[str]] = {}
    for name, file in files.items():
        names.setdefault(file.sha256, []).append(name)
    executables = store.executables()
    planned = tuple(_planned(store, files, called, executables) for called in names.values())
    stale = store.stale_files(names)
    free_bytes = _free_bytes(store, stale)
    plan = DeployPlan(
        root=store.root,
        release=release,
        files=planned,
        is_current=store.linked(store.current) == release.id,
        stale=stale,
        free_bytes=free_bytes,
    )
    needed_bytes = plan.send_bytes + _ROOM_BYTES if plan.send_bytes else 0
    if free_bytes is not None and free_bytes < needed_bytes:
        free, needed = limit_and_need(free_bytes, needed_bytes)
        raise BoardStorageError(f"{target.spec.name}: {store.root} has {free} of free space and needs {needed}")
    return plan


def _planned(
    store: BoardStore, files: Mapping[str, LocalFile], names: list[str], executables: Collection[str]
) -> PlannedFile:
    file = files[names[0]]
    there = store.files.facts(store.object_path(file.sha256)) is not None
    sound = there and store.is_sound(file.sha256, file.size_bytes)
    return PlannedFile(
        file=file,
        names=tuple(sorted(names)),
        executable=file.sha256 in executables or any(files[name].executable for name in names),
        is_there=sound,
        was_altered=there and not sound,
        resume_bytes=0 if sound else _resumable_bytes(store, file),
    )


def _resumable_bytes(store: BoardStore, file: LocalFile) -> int:
    """How much of an unfinished upload can stay: all of it, or nothing where it is not the beginning of this file."""
    part = store.part_path(file.sha256)
    facts = store.files.facts(part)
    if facts is None or facts.is_folder or not 0 < facts.size_bytes <= file.size_bytes:
        return 0
    same = board_sha256(store.target, part, facts.size_bytes) == sha256_of(file.path, facts.size_bytes)
    return facts.size_bytes if same else 0


def _free_bytes(store: BoardStore, stale: tuple[str, ...]) -> int | None:
    folder = store.root
    while store.files.facts(folder) is None and folder != "/":
        folder = folder.rpartition("/")[0] or "/"
    free_bytes = store.files.free_bytes(folder)
    if free_bytes is None:
        return None
    found = (store.files.facts(path) for path in stale)
    return free_bytes + sum(facts.size_bytes for facts in found if facts is not None)
