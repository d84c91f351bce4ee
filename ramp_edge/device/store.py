"""What deploy keeps on a board, all of it below one folder of the user's:

    objects/<sha256>            every file once, read-only
    uploads/<sha256>.part       files under way
    releases/<id>/              links with readable names to objects, and release.json, the list of them
    current, previous           links to releases
    lock                        held during a deploy

An object's time of last change is set to a number made from its hash. While size and time are as they were left, nobody wrote to
the file: a look at both takes the place of reading it all. No clock is compared with another, neither ours with the board's nor
the board's with itself.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterable

from ramp_edge.device.board_hash import board_sha256
from ramp_edge.device.release import RECORD_FILE, RELEASE_ID, SHA256, Release, folders_of, parse_release, release_json
from ramp_edge.device.target import Target, printable
from ramp_edge.device.work_files import target_folder
from ramp_edge.errors import BoardMismatchError, BoardStorageError

_MAX_RECORD_BYTES = 1 << 20
_LINK = re.compile(rf"releases/({RELEASE_ID.pattern})")
_PART = re.compile(rf"{SHA256.pattern}\.part")
_READABLE, _EXECUTABLE = 0o444, 0o555
"""Writing through a link of a release would change the object, and every release that has it."""


class BoardStore:
    """The folder of one board."""

    def __init__(self, target: Target) -> None:
        self.target, self.files = target, target.files
        self.root = target_folder(target)
        self.current, self.previous = f"{self.root}/current", f"{self.root}/previous"
        self.lock = f"{self.root}/lock"

    def object_path(self, sha256: str) -> str:
        """Where the file of that hash is kept."""
        return f"{self.root}/objects/{sha256}"

    def part_path(self, sha256: str) -> str:
        """Where it is until it is whole."""
        return f"{self.root}/uploads/{sha256}.part"

    def release_path(self, release_id: str) -> str:
        """The folder of a release."""
        return f"{self.root}/releases/{release_id}"

    def make_folders(self) -> None:
        """Make the store."""
        for name in ("objects", "uploads", "releases"):
            self.files.make_folder(f"{self.root}/{name}")

    def linked(self, link: str) -> str | None:
        """The id of the release that `current` or `previous` leads to. Raises BoardStorageError where something else is there."""
        text = self.files.link_text(link)
        if text is None:
            if self.files.facts(link) is not None:
                raise BoardStorageError(f"{self._name}: {link} is in the way: it is no link of deploy's")
            return None
        if (match := _LINK.fullmatch(text)) is None:
            raise BoardStorageError(
                f"{self._name}: {link} leads to {printable(text.encode())}, where deploy did not put it"
            )
        return match[1]

    def read_release(self, release_id: str) -> Release | None:
        """The list of files of a release; None where there is none. Raises BoardMismatchError for one that was altered."""
        path = f"{self.release_path(release_id)}/{RECORD_FILE}"
        if self.files.facts(path) is None:
            return None
        try:
            release = parse_release(self.files.read(path, _MAX_RECORD_BYTES))
        except (ValueError, RecursionError) as error:
            raise BoardMismatchError(f"{self._name}: {path} was altered on the board: {error}") from None
        if release.id != release_id:
            raise BoardMismatchError(
                f"{self._name}: {path} was altered on the board: its files are those of {release.id}"
            )
        return release

    def is_untouched(self, sha256: str, size_bytes: int) -> bool | None:
        """Whether the object's size and time are as they were left; None where there is no such object."""
        facts = self.files.facts(self.object_path(sha256))
        if facts is None:
            return None
        if facts.is_folder:
            raise BoardStorageError(f"{self._name}: {self.object_path(sha256)} is in the way: it is a folder")
        return facts.size_bytes == size_bytes and facts.modified_s == _stamp(sha256)

    def is_sound(self, sha256: str, size_bytes: int) -> bool:
        """Whether the object is there and right; it is read only where it looks as if somebody wrote to it."""
        untouched = self.is_untouched(sha256, size_bytes)
        if untouched is not False:
            return bool(untouched)
        path = self.object_path(sha256)
        facts = self.files.facts(path)
        return (
            facts is not None
            and facts.size_bytes == size_bytes
            and board_sha256(self.target, path, size_bytes) == sha256
        )

    def settle(self, path: str, sha256: str, *, executable: bool) -> None:
        """Give a file whose hash was checked its mode, its time and its place among the objects."""
        self.files.set_mode(path, _EXECUTABLE if executable else _READABLE)
        self.files.set_modified(path, _stamp(sha256))
        if path != self.object_path(sha256):
            self.files.rename(path, self.object_path(sha256))

    def link_release(self, release: Release) -> None:
        """Make the release's folder, or mend it; what is right is left alone."""
        folder = self.release_path(release.id)
        if self._recorded(release) and not self.wrong_links(release):
            return
        for inner in ("", *(f"/{name}" for name in folders_of(release))):
            self.files.make_folder(folder + inner)
        for name, text in self.wrong_links(release).items():
            self.files.link(f"{folder}/{name}", text)
        content = release_json(release).encode()
        fresh = f"{folder}/{RECORD_FILE}.new"
        self.files.append(fresh, io.BytesIO(content), len(content), 0, lambda _: None)
        self.files.rename(fresh, f"{folder}/{RECORD_FILE}")

    def wrong_links(self, release: Release) -> dict[str, str]:
        """Name -> what its link should say, for each that says something else or is none."""
        folder = self.release_path(release.id)
        wanted = {file.name: _link_text(file.name, file.sha256) for file in release.files}
        return {name: text for name, text in wanted.items() if self.files.link_text(f"{folder}/{name}") != text}

    def switch(self, release_id: str) -> None:
        """Make a release the current one and the one before it the previous, each in one step."""
        before = self.linked(self.current)
        if before == release_id:
            return
        # In this order a cut between the two leaves both links on whole releases.
        self.files.link(self.current, f"releases/{release_id}")
        if before is not None:
            self.files.link(self.previous, f"releases/{before}")

    def kept_releases(self) -> tuple[Release, ...]:
        """The current and the previous release. Raises BoardMismatchError where one was altered or is gone."""
        ids = dict.fromkeys(filter(None, (self.linked(self.current), self.linked(self.previous))))
        found = {release_id: self.read_release(release_id) for release_id in ids}
        for release_id, release in found.items():
            if release is None:
                raise BoardMismatchError(f"{self._name}: the release {release_id} is gone from {self.root}")
        return tuple(release for release in found.values() if release is not None)

    def stale_files(self, wanted: Iterable[str]) -> tuple[str, ...]:
        """Objects and unfinished uploads that neither `wanted` (hashes) nor the kept releases need.

        None at all where a kept release was altered, as nobody knows then what it needs.
        """
        try:
            needed = {*wanted, *(file.sha256 for release in self.kept_releases() for file in release.files)}
        except BoardMismatchError:
            return ()
        objects = (name for name in self.files.names(f"{self.root}/objects") if SHA256.fullmatch(name))
        parts = (name for name in self.files.names(f"{self.root}/uploads") if _PART.fullmatch(name))
        return (
            *(self.object_path(name) for name in objects if name not in needed),
            *(f"{self.root}/uploads/{name}" for name in parts if name.removesuffix(".part") not in needed),
        )

    def executables(self) -> frozenset[str]:
        """Hashes of what has to be executable for the kept releases."""
        try:
            return frozenset(f.sha256 for release in self.kept_releases() for f in release.files if f.executable)
        except BoardMismatchError:
            return frozenset()

    def remove_old_releases(self) -> None:
        """Remove the folders of releases that are neither current nor previous; a stranger's files in them stay."""
        kept = {self.linked(self.current), self.linked(self.previous)}
        for release_id in self.files.names(f"{self.root}/releases"):
            if RELEASE_ID.fullmatch(release_id) and release_id not in kept:
                with contextlib.suppress(BoardMismatchError):
                    self._remove_release(release_id)

    @property
    def _name(self) -> str:
        return self.target.spec.name

    def _recorded(self, release: Release) -> bool:
        try:
            return self.read_release(release.id) == release
        except BoardMismatchError:
            return False

    def _remove_release(self, release_id: str) -> None:
        folder, release = self.release_path(release_id), self.read_release(release_id)
        if release is not None:
            for file in release.files:
                if self.files.link_text(f"{folder}/{file.name}") is not None:
                    self.files.remove(f"{folder}/{file.name}")
            self.files.remove(f"{folder}/{RECORD_FILE}")
        inner = folders_of(release) if release is not None else ()
        for name in (*(f"{folder}/{name}" for name in reversed(inner)), folder):
            with contextlib.suppress(BoardStorageError):  # not empty
                self.files.remove_folder(name)


def _stamp(sha256: str) -> int:
    """Seconds after 1970, some time before 1979: no clock that is set says that."""
    return 1 + int(sha256[:7], 16)


def _link_text(name: str, sha256: str) -> str:
    return f"{'../' * (2 + name.count('/'))}objects/{sha256}"
