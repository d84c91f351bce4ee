"""Records become subjects: what describes one model file on one device belongs together, and nothing else does.

The file's SHA-256 joins records. A bench or task evaluation of another file than the build's is not left out quietly: it is
most often what an older build left behind, and a gate must not judge a new file by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ramp_edge.errors import GateUndecidedError, UsageError
from ramp_edge.gate.documents import BenchDocument, BenchModelPart, BuildDocument, Record, TasksDocument
from ramp_edge.gate.extract import Found, bench_measurements, build_measurements, tasks_measurements
from ramp_edge.gate.metrics import Source
from ramp_edge.gate.subject import Subject


@dataclass(kw_only=True, slots=True)
class _Draft:
    """A subject in the making."""

    file_sha256: str
    model: str
    file_bytes: int
    profile: str | None = None
    target: str | None = None
    source_sha256: str | None = None
    paths: list[Path] = field(default_factory=list)
    sources: set[Source] = field(default_factory=set)
    found: Found = field(default_factory=dict)
    doubts: list[str] = field(default_factory=list)

    def add(self, found: Found, path: Path, *sources: Source) -> None:
        """Raises UsageError where another record has the same metrics: which of the two counts?"""
        if twice := self.found.keys() & found.keys():
            name = min(twice)
            raise UsageError(
                f"{path} and {self.found[name].path} both measure {name} of one model on one device",
                hint="give one of them",
            )
        self.found |= found
        self.paths.append(path)
        self.sources |= set(sources)

    def subject(self) -> Subject:
        return Subject(
            profile=self.profile,
            target=self.target,
            model=self.model,
            file_sha256=self.file_sha256,
            source_sha256=self.source_sha256,
            file_bytes=self.file_bytes,
            paths=tuple(self.paths),
            sources=frozenset(self.sources),
            measurements=self.found,
            doubts=tuple(self.doubts),
        )


def merge(records: Sequence[Record]) -> tuple[Subject, ...]:
    """One subject for each model and device, in the order of the records.

    Raises GateUndecidedError for a record that belongs to none of the builds, UsageError where two measure the same.
    """
    builds = [(r.path, r.document) for r in records if isinstance(r.document, BuildDocument)]
    benches = [(r.path, r.document) for r in records if isinstance(r.document, BenchDocument)]
    tasks = [(r.path, r.document) for r in records if isinstance(r.document, TasksDocument)]
    drafts = [_built(path, build) for path, build in builds]
    measured = [draft for path, bench in benches for draft in _benched(path, bench, builds)]
    # A build without a bench stands for itself; one with several is judged on each board.
    drafts = [d for d in drafts if d.file_sha256 not in {m.file_sha256 for m in measured}] + measured
    if not builds and not benches:
        drafts = [_tasked(document) for document in {d.model.sha256: d for _, d in tasks}.values()]
    for path, document in tasks:
        _add_tasks(drafts, path, document)
    drafts = _in_order(drafts, [record.path for record in records])
    _check_distinct(drafts)
    return tuple(draft.subject() for draft in drafts)


def _built(path: Path, build: BuildDocument) -> _Draft:
    if build.dry_run or build.file_sha256 is None:
        raise GateUndecidedError(
            f"{path} is the record of a dry run: there is no file to judge", hint="build without --dry-run"
        )
    draft = _Draft(
        file_sha256=build.file_sha256,
        model=build.model.name,
        file_bytes=build.file_bytes,
        profile=build.device.name,
        source_sha256=build.model.sha256,
    )
    sources = (Source.BUILD,) if build.evaluation is None else (Source.BUILD, Source.EVALUATION)
    draft.add(build_measurements(build, path), path, *sources)
    return draft


def _benched(path: Path, bench: BenchDocument, builds: Sequence[tuple[Path, BuildDocument]]) -> list[_Draft]:
    """The builds that this bench measured; without any build the first model, since the others are its rivals."""
    drafts = []
    for build_path, build in builds:
        model = next((m for m in bench.models if m.sha256 == build.file_sha256), None)
        if model is not None:
            draft = _built(build_path, build)
            _add_bench(draft, path, bench, model)
            drafts.append(draft)
    if builds and not drafts:
        measured = ", ".join(f"{m.label} ({m.sha256[:12]})" for m in bench.models)
        given = ", ".join(f"{build_path} ({(build.file_sha256 or '')[:12]})" for build_path, build in builds)
        raise GateUndecidedError(
            f"{path} measured another file than was built: {measured}; given: {given}",
            hint="measure the new file: ramp-edge bench OUT --target T",
        )
    if not builds:
        first = bench.models[0]
        draft = _Draft(file_sha256=first.sha256, model=first.label, file_bytes=first.file_bytes)
        _add_bench(draft, path, bench, first)
        drafts.append(draft)
    return drafts


def _add_bench(draft: _Draft, path: Path, bench: BenchDocument, model: BenchModelPart) -> None:
    draft.target = bench.target
    draft.doubts += [f"{reason.kind}: {reason.detail}" for reason in (*bench.unstable, *model.unstable)]
    draft.add(bench_measurements(bench, model, path), path, Source.BENCH)


def _tasked(document: TasksDocument) -> _Draft:
    model = document.model
    return _Draft(file_sha256=model.sha256, model=model.label, file_bytes=model.file_bytes)


def _add_tasks(drafts: Sequence[_Draft], path: Path, document: TasksDocument) -> None:
    """Accuracy is the file's, whatever device it runs on."""
    own = [draft for draft in drafts if draft.file_sha256 == document.model.sha256]
    if not own:
        others = ", ".join(f"{d.model} ({d.file_sha256[:12]})" for d in drafts)
        raise GateUndecidedError(
            f"{path} evaluated another file, {document.model.label} ({document.model.sha256[:12]}); given: {others}",
            hint="evaluate the new file: ramp-edge eval OUT --tasks ... --json",
        )
    for draft in own:
        draft.add(tasks_measurements(document, path), path, Source.TASKS)


def _in_order(drafts: Sequence[_Draft], paths: Sequence[Path]) -> list[_Draft]:
    """As the user gave the records."""
    return sorted(drafts, key=lambda draft: min(paths.index(path) for path in draft.paths))


def _check_distinct(drafts: Sequence[_Draft]) -> None:
    """Two models on one device would be judged by the same rules under the same name."""
    seen: dict[tuple[str | None, str | None], _Draft] = {}
    for draft in drafts:
        first = seen.setdefault((draft.profile, draft.target), draft)
        if first is not draft:
            raise UsageError(
                f"{first.paths[0]} and {draft.paths[0]} are two records for {draft.subject().device}",
                hint="judge one model on a device at a time; an older one goes to --baseline",
            )
