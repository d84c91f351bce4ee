"""ramp-edge at given bytes, by the stages of `ramp-edge build` themselves, whole and with one part after the other taken out."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from subprocess import DEVNULL, Popen

import numpy as np
import numpy.typing as npt

from comparison.imatrix import weighted_error
from comparison.llama_tools import ToolError
from comparison.records import ABLATION, OURS, WholeBuild
from comparison.workshop import Made, Workshop
from ramp_edge.allocate.presets import stock_preset
from ramp_edge.calibrate.decoder import DecoderModel
from ramp_edge.codec.activations import activation_block
from ramp_edge.codec.types import QuantType
from ramp_edge.emit.layout import Layout, MetadataItem, plan_layout
from ramp_edge.emit.write import Payload, write_gguf
from ramp_edge.events import EventBus
from ramp_edge.pipeline.budget import legal_choices, resolve_limits
from ramp_edge.pipeline.calibration import (
    Calibrated,
    calibrate,
    load_rows,
    measure_table,
    prepare_text,
    settings_for,
)
from ramp_edge.pipeline.candidates import Problem, knapsack
from ramp_edge.pipeline.emission import Emitter
from ramp_edge.pipeline.fold_costs import FoldCosts
from ramp_edge.pipeline.folded_model import folded_emitter
from ramp_edge.pipeline.folding import Folded, Folding
from ramp_edge.pipeline.model_source import open_model
from ramp_edge.pipeline.request import EFFORTS, BuildRequest, Effort
from ramp_edge.pipeline.texts import cut_texts, read_texts
from ramp_edge.profile.load import load_target
from ramp_edge.quantize.search import Search
from ramp_edge.quantize.table import ErrorTableBuilder, Moments
from ramp_edge.records import ErrorTable, TensorInfo

Float32 = npt.NDArray[np.float32]
NO_SEARCH = Search(
    trials=17, d_moves=0, d_span=0.0, end_moves=0, end_span=0.0, sub_d_reach=0, sub_d_reach_with_m=0, sub_m_reach=0, codebook_reach=0, sweeps=0,
)  # fmt: skip
"""Scales as they are fitted, codes as they are rounded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One part of ramp-edge taken out."""

    name: str
    meaning: str
    diagonal: str = "none"
    """Whose moments lose what is off their diagonal: none, embedding or all. Without it nothing is handed on."""
    search: bool = True
    sensitivity: bool = True
    """False: the knapsack sees imatrix-weighted error instead of Fisher sensitivity."""
    allocation: bool = True
    """False: the preset's own types."""
    scales: bool = True
    """False: no channel is scaled."""
    order: bool = True
    """False: the residual stream keeps its order."""


PARTS = (
    Part(name="no feedback", meaning="errors are not handed on (importance and search stay)", diagonal="all"),
    Part(name="no feedback in the embedding", meaning="the embedding is quantized by importance alone", diagonal="embedding"),
    Part(name="no search", meaning="scales as fitted, no descent", search=False),
    Part(name="no Fisher", meaning="the knapsack sees imatrix-weighted error", sensitivity=False),
    Part(name="no allocation", meaning="the preset's own types", allocation=False),
    Part(name="no scales", meaning="channels are reordered but not scaled", scales=False),
    Part(name="no folding", meaning="channels are neither scaled nor reordered", scales=False, order=False),
)  # fmt: skip


class Compiler:
    """The build's stages up to the error table, on one model and device."""

    def __init__(
        self, reference: Path, device: str, text: Path, held_out: Path, workshop: Workshop, threads: int
    ) -> None:
        self.workshop, self.threads, self._events = workshop, threads, EventBus()
        # With a text for evaluation all of the other is for calibration.
        self._request = BuildRequest(
            model=str(reference), device=device, output=workshop.folder / "unused", calibration=(text,), eval_text=held_out,
            threads=threads,
        )  # fmt: skip
        self._effort = EFFORTS[Effort.BALANCED]
        self._target = load_target(device)
        self._source = open_model(reference, self._events)
        self.inventory, self.tensors = self._source.inventory, self._source.tensors
        self._pairs = {key: self.tensors.metadata_bytes(key) for key in self.tensors.header.metadata}
        self.legal = legal_choices(self._request, self.inventory, self._target, calibrated=True)
        given = cut_texts(self._request, read_texts(self._request), self.inventory, self._events)
        self._text = prepare_text(self._request, self.inventory, given, threads, self._events)
        self._calibrated = self._calibrate()
        self.moments = self._calibrated.moments

    def _calibrate(self) -> Calibrated:
        with ThreadPoolExecutor(self.threads) as pool, _cache_in(self.workshop.folder / "cache"):
            return calibrate(
                self._request, self._source, self.legal, self._text, self._target.backend, pool, self._events
            )  # fmt: skip

    def load_rows(self, name: str, rows: npt.NDArray[np.int64]) -> Float32:
        """Some rows of a tensor."""
        return load_rows(self.tensors, name, rows)

    def allocate(self, table: ErrorTable, size: int) -> dict[str, QuantType]:
        """The knapsack's types for a file of at most `size` bytes."""
        request = replace(self._request, target_size_bytes=size)
        problem = Problem(
            inventory=self.inventory,
            target=self._target,
            limits=resolve_limits(request, self.inventory, self._target, self._events),
            legal=self.legal,
            table=table,
            file_bytes=lambda types: self._layout(types).file_bytes,
        )
        plans = knapsack(problem)
        if not plans:
            raise ToolError(f"no allocation of at most {size} bytes on {self._target.name}")
        return plans[0].types

    def _layout(self, types: Mapping[str, QuantType]) -> Layout:
        return plan_layout(self.inventory, types, self._pairs, self._metadata(), self.tensors.header.alignment)

    def _metadata(self) -> dict[str, MetadataItem]:
        return {"ramp_edge.device": self._target.name}

    def write_with(self, output: Path, types: Mapping[str, QuantType], payload: Payload) -> None:
        """A GGUF of `types` whose bytes come from `payload`."""
        write_gguf(output, self._layout(types), payload, self._events)

    def emit(self, output: Path, types: Mapping[str, QuantType], moments: Moments, search: Search) -> None:
        """A GGUF of `types` by error feedback."""
        with ThreadPoolExecutor(self.threads) as pool:
            Emitter(self.inventory, self.tensors, moments, pool, self._events, search).write(
                output, types, self._metadata()
            )

    def fold(
        self,
        table: ErrorTable,
        allocate: Callable[[ErrorTable], dict[str, QuantType]],
        moments: Moments,
        search: Search,
        *,
        scales: bool = True,
    ) -> Folded | None:
        """The build's folding for these types; None where the text is too short to judge it, as in a build."""
        if not self._calibrated.held_out_windows:
            return None
        calibrated = replace(self._calibrated, table=table, moments=moments)
        costs = FoldCosts(self.inventory, self.tensors, calibrated, self._target.backend, search)
        return Folding(costs, allocate, self._events, scales=scales).run()

    def emit_folded(
        self, output: Path, types: Mapping[str, QuantType], folded: Folded | None, moments: Moments, search: Search
    ) -> None:
        """A GGUF of `types` of the folded model; of the model as it is where there are no folds."""
        if folded is None:
            self.emit(output, types, moments, search)
            return
        with ThreadPoolExecutor(self.threads) as pool:
            plain = Emitter(self.inventory, self.tensors, moments, pool, self._events, search)
            folded_emitter(plain, self.tensors, moments, folded).write(output, types, self._metadata())

    def kept_table(self, name: str, measure: Callable[[], dict[str, dict[QuantType, float]]]) -> ErrorTable:
        """An error table, measured once."""
        data = self.workshop.figure(
            f"table {name}", lambda: {n: {t.name: v for t, v in row.items()} for n, row in measure().items()}
        )
        return ErrorTable(kl={n: {QuantType[t]: v for t, v in row.items()} for n, row in data.items()})

    @property
    def table(self) -> ErrorTable:
        """The build's own error table."""
        return self._calibrated.table

    @property
    def search(self) -> Search:
        """The build's own search."""
        return self._effort.search

    def table_with(self, moments: Moments, search: Search) -> dict[str, dict[QuantType, float]]:
        """Predicted KL with other moments or another search, from the same Fisher samples."""
        types = {name: entry.types for name, entry in self.legal.items()}
        settings = settings_for(self._request, self._text)
        model = DecoderModel(self.inventory, self._source.facts, self.tensors.load_tensor)
        block = partial(activation_block, backend=self._target.backend)
        with ThreadPoolExecutor(self.threads) as pool:
            builder = ErrorTableBuilder(self.inventory, self.load_rows, types, moments, pool, search, block)
            store = self._calibrated.store
            table = measure_table(builder, model, self._text, settings, store, self._effort, self._events)
        return dict(table.kl)


@contextmanager
def _cache_in(folder: Path) -> Iterator[None]:
    """ramp-edge's cache in a folder of our own: figures must not depend on what the user has built before."""
    before = os.environ.get("RAMP_EDGE_CACHE")
    os.environ["RAMP_EDGE_CACHE"] = str(folder)
    try:
        yield
    finally:
        os.environ.pop("RAMP_EDGE_CACHE")
        if before is not None:
            os.environ["RAMP_EDGE_CACHE"] = before


def imatrix_table(compiler: Compiler) -> ErrorTable:
    """Imatrix-weighted error in the place of predicted KL."""
    measure = partial(
        weighted_error, compiler.inventory, compiler.moments, compiler.legal, compiler.load_rows, compiler.threads
    )
    return compiler.kept_table("imatrix-weighted error", measure)


def whole(compiler: Compiler, at: Mapping[str, int]) -> list[Made]:
    """ramp-edge with all its parts, at each of these sizes."""
    made = []
    for label, size in at.items():

        def write(output: Path, size: int = size) -> None:
            allocate = partial(compiler.allocate, size=size)
            folded = compiler.fold(compiler.table, allocate, compiler.moments, compiler.search)
            compiler.emit_folded(
                output, allocate(folded.table if folded else compiler.table), folded, compiler.moments, compiler.search
            )

        made.append(compiler.workshop.make(f"ramp-edge @ {label}", OURS, write, at=label))
    return made


def ablations(compiler: Compiler, at: Mapping[str, int], parts: tuple[Part, ...] = PARTS) -> list[Made]:
    """One part after the other taken out, at each of these sizes; the error table is made anew without the part."""
    made = []
    for part in parts:
        for label, size in at.items():
            write = partial(_write_without, compiler, part, label, size)
            made.append(compiler.workshop.make(f"{part.name} @ {label}", ABLATION, write, at=label))
    return made


def _write_without(compiler: Compiler, part: Part, preset: str, size: int, output: Path) -> None:
    moments = _diagonal_moments(compiler, part.diagonal)
    search = compiler.search if part.search else NO_SEARCH
    table = compiler.table
    allocate = partial(compiler.allocate, size=size)
    if not part.allocation:
        types = stock_preset(compiler.inventory, preset).allocation.types
        allocate = partial(_always, types)
    elif not part.sensitivity:
        allocate = partial(_always, compiler.allocate(imatrix_table(compiler), size))
    elif part.diagonal != "none" or not part.search:
        table = compiler.kept_table(part.name, partial(compiler.table_with, moments, search))
    if not part.order:
        compiler.emit(output, allocate(table), moments, search)
        return
    folded = compiler.fold(table, allocate, moments, search, scales=part.scales)
    compiler.emit_folded(output, allocate(folded.table if folded else table), folded, moments, search)


def _always(types: dict[str, QuantType], _table: ErrorTable) -> dict[str, QuantType]:
    return types


def _diagonal_moments(compiler: Compiler, whose: str) -> Moments:
    """Moments without what is off the diagonal: importance stays, nothing can be handed on."""
    if whose == "none":
        return compiler.moments
    embedding = {compiler.moments.site(t) for t in compiler.inventory.quantizable if t.layer is None}

    def load(site: str) -> Float32:
        full = compiler.moments.load(site)
        return np.diag(np.diagonal(full)).astype(np.float32) if whose == "all" or site in embedding else full

    def site(tensor: TensorInfo) -> str | None:
        return compiler.moments.site(tensor)

    return Moments(site=site, load=load)


def whole_build(
    reference: Path, device: str, text: Path, held_out: Path, at: str, size: int, workshop: Workshop
) -> WholeBuild:
    """`ramp-edge build` in a process of its own, from an empty cache, timed, with its peak memory. Its calibration stays cached.

    It measures its candidates on the evaluation's text; nothing but its times is used.
    """

    def run() -> dict[str, float]:
        out = workshop.path("whole-build")
        command = [
            sys.executable, "-m", "ramp_edge.cli.main", "build", str(reference), "--device", device, "--target-size",
            f"{size} B", "--calibration", str(text), "--eval-text", str(held_out), "--progress", "off", "-o", str(out),
        ]  # fmt: skip
        environment = {**os.environ, "RAMP_EDGE_CACHE": str(workshop.folder / "cache")}
        started = time.perf_counter()
        process = Popen(command, stdout=DEVNULL, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise ToolError(f"{json.dumps(command)} failed with status {status}")
        stages = json.loads((out / "build.json").read_text())["stage_seconds"]
        if "moments" not in stages:
            cache = workshop.folder / "cache"
            raise ToolError(f"the whole build found its calibration in {cache}: remove that folder, then run again")
        return {
            "seconds": time.perf_counter() - started,
            "calibration_s": sum(stages[stage] for stage in ("moments", "fisher head", "fisher")),
            "peak_bytes": usage.ru_maxrss * 1024,
        }

    return WholeBuild(at=at, **workshop.figure(f"whole build at {at}", run))
