"""The records of a report, read and joined: a bench belongs to the build whose file it measured, by SHA-256."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from ramp_edge.errors import UsageError
from ramp_edge.plain import one_line
from ramp_edge.record_files import RecordKind, open_record, record_paths
from ramp_edge.report.documents import BenchDocument, BenchModelPart, BuildDocument

_LONGEST_LABEL = 60
_HINT = "give folders that `ramp-edge build` wrote, a build.json, or a bench.json, each of this version of ramp-edge"


@dataclass(frozen=True, kw_only=True, slots=True)
class Build:
    """A build.json."""

    path: Path
    label: str
    """Tells the builds of a report apart."""
    document: BuildDocument


@dataclass(frozen=True, kw_only=True, slots=True)
class Bench:
    """A bench.json."""

    path: Path
    label: str
    """Tells the benches of a report apart."""
    document: BenchDocument
    build: Build | None
    """Whose file was measured."""

    @property
    def model(self) -> BenchModelPart:
        """The one that counts: the build's file, without a build the first."""
        return next((m for m in self.document.models if self.build and _is_of(m, self.build)), self.document.models[0])


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """Everything that a report is drawn from."""

    builds: tuple[Build, ...]
    benches: tuple[Bench, ...]
    notes: tuple[str, ...] = ()
    """What was left out, and why."""


def gather(paths: Sequence[Path]) -> Evidence:
    """Read records, and of folders all of theirs. Raises UsageError that names every one that cannot be read or joined.

    A bench that an older build left in the folder is left out, with a note.
    """
    builds: dict[Path, BuildDocument] = {}
    benches: dict[Path, BenchDocument] = {}
    given: set[Path] = set()
    problems: list[str] = []
    for path in paths:
        try:
            files = record_paths(path)
        except ValueError as error:
            problems.append(str(error))
            continue
        given.update(file for file in files if file == path)
        for file in files:
            try:
                _read(file, builds, benches)
            except ValueError as error:
                problems.append(str(error))
    if problems:
        raise UsageError("\n".join(dict.fromkeys(problems)), hint=_HINT)
    return _joined(builds, benches, given)


def _read(file: Path, builds: dict[Path, BuildDocument], benches: dict[Path, BenchDocument]) -> None:
    record = open_record(file)
    try:
        if record.kind is RecordKind.BUILD:
            builds[file] = BuildDocument.model_validate(record.data)
        elif record.kind is RecordKind.BENCH:
            benches[file] = BenchDocument.model_validate(record.data)
        else:
            raise ValueError(f"{file} is {record.kind.value}; reports are of builds and benches")
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = one_line(".".join(map(str, first["loc"])))
        raise ValueError(f"{file} is no whole record: {place}: {first['msg'].lower()}") from None


def _joined(documents: dict[Path, BuildDocument], measured: dict[Path, BenchDocument], given: set[Path]) -> Evidence:
    labels = _apart([_folder(path) for path in documents], documents)
    builds = [Build(path=p, label=label, document=d) for (p, d), label in zip(documents.items(), labels, strict=True)]
    benches, notes = [], []
    for path, document in measured.items():
        build = next((b for b in builds if any(_is_of(model, b) for model in document.models)), None)
        if build is None and builds:
            text = f"{one_line(str(path))} measured another file than any of these builds, so it is not shown"
            if path in given:
                raise UsageError(
                    f"{path} measured none of the files that were built",
                    hint="give builds and the benches of their files, or benches alone",
                )
            notes.append(text)
            continue
        benches.append((path, document, build))
    names = _apart([document.target for _, document, _ in benches], [path for path, _, _ in benches])
    return Evidence(
        builds=tuple(builds),
        benches=tuple(
            Bench(path=path, label=name, document=document, build=build)
            for (path, document, build), name in zip(benches, names, strict=True)
        ),
        notes=tuple(notes),
    )


def _is_of(model: BenchModelPart, build: Build) -> bool:
    return build.document.file_sha256 is not None and model.sha256 == build.document.file_sha256


def _folder(path: Path) -> str:
    return _cut(path.absolute().parent.name or str(path))


def _cut(text: str) -> str:
    return one_line(text)[-_LONGEST_LABEL:]


def _apart(names: Sequence[str], paths: Iterable[Path]) -> list[str]:
    """A label for each: its name where these differ, else its folder, else its path."""
    places = list(paths)
    for labels in (list(names), [_folder(path) for path in places]):
        if len(set(labels)) == len(labels):
            return labels
    return [_cut(str(path)) for path in places]
