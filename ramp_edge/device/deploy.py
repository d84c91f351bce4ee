"""Files to a board and back out again: sent once, checked there, switched to in one step, the release before kept.

A deploy that is cut at any point leaves the current release as it was; the same deploy again goes on where it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ramp_edge.device.board_hash import board_sha256
from ramp_edge.device.board_lock import BoardLock
from ramp_edge.device.deploy_plan import DeployPlan, PlannedFile, plan_deploy
from ramp_edge.device.release import LocalFile, Release, release_of
from ramp_edge.device.store import BoardStore
from ramp_edge.device.target import Target
from ramp_edge.errors import BoardMismatchError, UsageError
from ramp_edge.events import EventBus, Stage


@dataclass(frozen=True, kw_only=True, slots=True)
class Deployed:
    """A deploy that succeeded."""

    release: Release
    folder: str
    """Of the release on the board, with the readable names."""
    sent_bytes: int
    there_bytes: int
    """Of the release, there before."""
    was_current: bool
    """Nothing had to be switched."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KeptRelease:
    """A release on the board."""

    release: Release
    folder: str
    is_current: bool


def deploy(target: Target, files: Mapping[str, LocalFile], events: EventBus) -> Deployed:
    """Bring `files` (name on the board -> file here) to the board and make them the current release.

    Raises BoardBusyError, BoardStorageError, BoardMismatchError, BoardToolError, ConnectionFailedError, DeadlineError, UsageError.
    """
    release_of(files)  # impossible names are told before anything is made
    store = BoardStore(target)
    store.files.make_folder(store.root)
    with BoardLock(target, store.lock) as lock:
        with events.stage("look at the board"):
            plan = plan_deploy(target, files)
        for path in plan.stale:
            store.files.remove(path)
        store.make_folders()
        _bring(store, plan, lock, events)
        lock.confirm()
        store.link_release(plan.release)
        lock.confirm()
        store.switch(plan.release.id)
        _clean(store, plan.release)
    return Deployed(
        release=plan.release,
        folder=store.release_path(plan.release.id),
        sent_bytes=plan.send_bytes,
        there_bytes=plan.there_bytes,
        was_current=plan.is_current,
    )


def rollback(target: Target) -> KeptRelease:
    """Make the previous release the current one again, and the other way round. Raises UsageError where there is none."""
    store = BoardStore(target)
    _check_exists(store)
    with BoardLock(target, store.lock) as lock:
        previous = store.linked(store.previous)
        if previous is None or previous == store.linked(store.current):
            raise UsageError(
                f"{target.spec.name}: there is no previous release in {store.root}",
                hint="deploy the build that you want",
            )
        release = store.read_release(previous)
        if release is None:
            raise BoardMismatchError(f"{target.spec.name}: the previous release {previous} is gone from {store.root}")
        wrong = [file.name for file in release.files if not store.is_sound(file.sha256, file.size_bytes)]
        if wrong := sorted({*wrong, *store.wrong_links(release)}):
            raise BoardMismatchError(
                f"{target.spec.name}: the previous release was altered on the board: {', '.join(wrong)}",
                hint="deploy the build that you want",
            )
        lock.confirm()
        store.switch(previous)
    return KeptRelease(release=release, folder=store.release_path(previous), is_current=True)


def releases(target: Target) -> tuple[KeptRelease, ...]:
    """What is deployed there: the current release first, then the previous one."""
    store = BoardStore(target)
    current = store.linked(store.current)
    return tuple(
        KeptRelease(release=release, folder=store.release_path(release.id), is_current=release.id == current)
        for release in store.kept_releases()
    )


def verify(target: Target, events: EventBus) -> tuple[KeptRelease, ...]:
    """Read everything that is deployed there and compare its hashes. Raises BoardMismatchError naming every file that differs."""
    store = BoardStore(target)
    _check_exists(store)
    with BoardLock(target, store.lock):
        kept = releases(target)
        contents = {file.sha256: file.size_bytes for item in kept for file in item.release.files}
        found: dict[str, str | None] = {}
        with events.stage("hash on the board", total=sum(contents.values()), unit="bytes") as stage:
            for sha256, size_bytes in contents.items():
                path = store.object_path(sha256)
                there = store.files.facts(path) is not None
                found[sha256] = board_sha256(target, path, size_bytes) if there else None
                stage.advance(size_bytes)
        problems = [problem for item in kept for problem in _differences(store, item.release, found)]
    if problems:
        raise BoardMismatchError("\n".join(f"{target.spec.name}: {problem}" for problem in problems))
    return kept


def _differences(store: BoardStore, release: Release, found: Mapping[str, str | None]) -> list[str]:
    problems = []
    links = store.wrong_links(release)
    for file in release.files:
        place = f"{store.release_path(release.id)}/{file.name}"
        digest = found[file.sha256]
        if digest is None:
            problems.append(f"{place} is gone")
        elif digest != file.sha256:
            problems.append(f"{place} was altered: sha256 {digest[:16]}..., not {file.sha256[:16]}...")
        elif file.name in links:
            problems.append(f"{place} is not the link that deploy made")
    return problems


def _check_exists(store: BoardStore) -> None:
    if store.files.facts(store.root) is None:
        raise UsageError(
            f"{store.target.spec.name}: nothing was ever deployed to {store.root}",
            hint="ramp-edge deploy OUT --target T",
        )


def _bring(store: BoardStore, plan: DeployPlan, lock: BoardLock, events: EventBus) -> None:
    for planned in plan.files:
        if planned.is_there:
            # The time may have been touched, and another release may need it executable.
            store.settle(store.object_path(planned.file.sha256), planned.file.sha256, executable=planned.executable)
        if planned.was_altered:
            events.warn(f"{', '.join(planned.names)} was altered on the board: sent again")
    missing = [planned for planned in plan.files if not planned.is_there]
    if not missing:
        return
    with events.stage("send", total=plan.send_bytes, unit="bytes") as stage:
        for planned in missing:
            lock.confirm()
            _send(store, planned, planned.resume_bytes, stage, events)


def _send(store: BoardStore, planned: PlannedFile, offset: int, stage: Stage, events: EventBus) -> None:
    file, part = planned.file, store.part_path(planned.file.sha256)
    name = planned.names[0]
    if offset < file.size_bytes or not file.size_bytes:
        try:
            source = file.path.open("rb")
        except OSError as error:
            raise UsageError(f"{file.path} cannot be read: {error.strerror}", hint="check that it is there") from error
        with source:
            source.seek(offset)
            store.files.append(part, source, file.size_bytes, offset, stage.advance)
    found = board_sha256(store.target, part, file.size_bytes, sync=True)
    if found == file.sha256:
        store.settle(part, file.sha256, executable=planned.executable)
        return
    store.files.remove(part)
    if offset:
        events.warn(f"{name}: what was there of it did not fit what was sent now: sent again from the start")
        _send(store, planned, 0, stage, events)
        return
    raise BoardMismatchError(
        f"{store.target.spec.name}: {name} arrived with sha256 {found[:16]}..., and was read with {file.sha256[:16]}...",
        hint=f"was {file.path} changed meanwhile? If not, the board's disk or memory is failing. Deploy again",
    )


def _clean(store: BoardStore, release: Release) -> None:
    store.remove_old_releases()
    for path in store.stale_files(file.sha256 for file in release.files):
        store.files.remove(path)
