"""`ramp-edge bench`: this machine's perplexity and a build's promises, joined with what a board measures."""

from __future__ import annotations

import json
import posixpath
from dataclasses import dataclass, field
from pathlib import Path

from ramp_edge.beside import written_beside
from ramp_edge.device.bench import bench
from ramp_edge.device.bench_plan import BenchOptions
from ramp_edge.device.bench_records import BenchRecord, bench_json
from ramp_edge.device.connect import ConnectOptions, connected
from ramp_edge.device.llama_tools import BoardTools
from ramp_edge.device.target import Target, TargetSpec
from ramp_edge.emit.write import output_error
from ramp_edge.errors import BoardToolError, OutputError, RuntimeToolError, UsageError
from ramp_edge.events import EventBus
from ramp_edge.pipeline.bench_sources import BenchSource, bench_text, read_sources
from ramp_edge.pipeline.on_board import deployed_model, deployed_tools
from ramp_edge.runtime.build import host_tools
from ramp_edge.runtime.manifest import load_manifest

BENCH_FILE = "bench.json"
BENCH_TOOL, PERPLEXITY_TOOL = "llama-bench", "llama-perplexity"


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchRequest:
    """What to measure, where."""

    models: tuple[Path, ...]
    """GGUF files on this machine; the first one's prediction and ratios are shown."""
    spec: TargetSpec
    options: BenchOptions = field(default_factory=BenchOptions)
    connect: ConnectOptions = field(default_factory=ConnectOptions)
    text: Path | None = None
    """None: the shipped one."""
    with_perplexity: bool = True
    runtime: str | None = None
    """Folder with llama.cpp's programs on the board; None: this machine's own, or the deployed ones."""


def bench_target(request: BenchRequest, events: EventBus) -> BenchRecord:
    """Measure the models on the target. Everything that can be checked here is checked before the board is asked."""
    sources = read_sources(request.models, events)
    if request.spec.is_local:
        _local_tools(request.runtime, request.with_perplexity)
    texts = [bench_text(s, request.text, events) if request.with_perplexity else None for s in sources]
    with connected(request.spec, request.connect) as target:
        tools, commit = bench_tools(target, request.runtime, with_perplexity=request.with_perplexity)
        models = [s.on_board(_place(target, s), text) for s, text in zip(sources, texts, strict=True)]
        return bench(target, models, tools, request.options, events, runtime_commit=commit)


def _place(target: Target, source: BenchSource) -> str:
    return str(source.file.resolve()) if target.spec.is_local else deployed_model(target, source)


def bench_tools(target: Target, runtime: str | None, *, with_perplexity: bool) -> tuple[BoardTools, str | None]:
    """llama.cpp's programs on the board, and the commit that they were built from where we know it.

    `runtime` is their folder; without it this machine's own ones, or the deployed ones. Raises BoardToolError, RuntimeToolError.
    """
    if target.spec.is_local:
        return _local_tools(runtime, with_perplexity)
    return _board_tools(target, runtime, with_perplexity=with_perplexity), None


def _local_tools(runtime: str | None, with_perplexity: bool) -> tuple[BoardTools, str | None]:
    """This machine's tools, and the commit that they were built from where we built them."""
    commit = None
    if runtime is not None:
        folder = Path(runtime).resolve()
    else:
        manifest = load_manifest()
        built = host_tools(manifest)
        if built is None:
            raise RuntimeToolError(
                "llama.cpp's tools are not built for this machine",
                hint="ramp-edge runtime build --host builds them; --runtime DIR uses others",
            )
        folder, commit = built, manifest.llama_cpp.commit
    missing = [name for name in _tool_names(with_perplexity) if not (folder / name).is_file()]
    if missing:
        raise RuntimeToolError(f"no {' and no '.join(missing)} in {folder}", hint="give their folder with --runtime")
    return _tools(str(folder), with_perplexity), commit


def _board_tools(target: Target, runtime: str | None, *, with_perplexity: bool) -> BoardTools:
    folder = runtime or deployed_tools(target)
    if not posixpath.isabs(folder):
        folder = posixpath.join(target.files.home, folder)
    missing = [
        name for name in _tool_names(with_perplexity) if target.files.facts(posixpath.join(folder, name)) is None
    ]
    if missing:
        raise BoardToolError(
            f"{target.spec.name}: no {' and no '.join(missing)} in {folder}",
            hint="ramp-edge deploy sends the runtime that fits the board; --runtime names another folder there",
        )
    return _tools(folder, with_perplexity)


def _tool_names(with_perplexity: bool) -> tuple[str, ...]:
    return (BENCH_TOOL, PERPLEXITY_TOOL) if with_perplexity else (BENCH_TOOL,)


def _tools(folder: str, with_perplexity: bool) -> BoardTools:
    return BoardTools(
        bench=posixpath.join(folder, BENCH_TOOL),
        perplexity=posixpath.join(folder, PERPLEXITY_TOOL) if with_perplexity else None,
    )


def check_bench_output(path: Path) -> None:
    """Raise where `path` cannot be written, or holds what no bench wrote."""
    if path.is_dir():
        raise UsageError(f"{path} is a folder", hint="give a file with -o")
    if not path.parent.is_dir():
        raise UsageError(f"{path.parent} does not exist", hint="make the folder, or give another file with -o")
    if not path.exists():
        return
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise OutputError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError:
        data = None
    if not isinstance(data, dict) or not {"schema_version", "facts_before"} <= data.keys():
        raise UsageError(
            f"{path} was not written by ramp-edge bench, which would overwrite it", hint="give another file with -o"
        )


def write_bench(path: Path, record: BenchRecord) -> None:
    """Write beside, then rename. Raises OutputError."""
    try:
        with written_beside(path) as partial:
            partial.write_text(bench_json(record), encoding="utf-8")
    except OSError as error:
        raise output_error(path, error) from error
