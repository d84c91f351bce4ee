"""Step 7 of a build: a plan becomes a file, tensor by tensor, rows in parallel."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ramp_edge.codec.types import QuantType
from ramp_edge.emit.layout import Layout, MetadataItem, TensorSlot, plan_layout
from ramp_edge.emit.write import write_gguf
from ramp_edge.events import EventBus
from ramp_edge.model.header import Header
from ramp_edge.quantize.feedback import quantize_rows
from ramp_edge.quantize.search import THOROUGH, Search
from ramp_edge.quantize.table import FactorCache, Moments
from ramp_edge.records import ModelInventory

STRIP_ROWS = 2048
"""Rows per task. Fixed, so that the bytes do not depend on the number of threads."""


class ModelTensors(Protocol):
    """What is written of a model: the source file, or a folded view of it."""

    @property
    def header(self) -> Header: ...
    def metadata_bytes(self, key: str) -> bytes: ...
    def load_tensor(self, name: str, first_row: int = 0, last_row: int | None = None) -> npt.NDArray[np.float32]: ...
    def raw(self, name: str) -> npt.NDArray[np.uint8]: ...


class Emitter:
    """Writes plans of one model."""

    def __init__(
        self,
        inventory: ModelInventory,
        tensors: ModelTensors,
        moments: Moments,
        pool: ThreadPoolExecutor,
        events: EventBus,
        search: Search = THOROUGH,
    ) -> None:
        self._inventory, self._tensors, self._pool, self._events = inventory, tensors, pool, events
        self._moments, self._search = moments, search
        self._pairs = {key: tensors.metadata_bytes(key) for key in tensors.header.metadata}

    @property
    def inventory(self) -> ModelInventory:
        """The model whose plans are written."""
        return self._inventory

    def for_model(self, tensors: ModelTensors, moments: Moments) -> Emitter:
        """The same for other values under the same names."""
        return Emitter(self._inventory, tensors, moments, self._pool, self._events, self._search)

    def silent(self) -> Emitter:
        """The same without a word of progress."""
        return Emitter(self._inventory, self._tensors, self._moments, self._pool, EventBus(), self._search)

    def layout(self, types: Mapping[str, QuantType], own_metadata: Mapping[str, MetadataItem]) -> Layout:
        """Exact layout of a plan's file."""
        return plan_layout(self._inventory, types, self._pairs, own_metadata, self._tensors.header.alignment)

    def write(
        self,
        path: Path,
        types: Mapping[str, QuantType],
        own_metadata: Mapping[str, MetadataItem],
        ready: Mapping[str, npt.NDArray[np.uint8]] | None = None,
    ) -> Layout:
        """Quantize with error feedback and write; the file appears whole or not at all. `ready` holds tensors that are quantized already."""
        layout = self.layout(types, own_metadata)
        factors = FactorCache(self._moments)

        def payload(slot: TensorSlot) -> npt.NDArray[np.uint8]:
            if ready is not None and slot.name in ready:
                return ready[slot.name]
            if slot.name not in types:
                return self._tensors.raw(slot.name)
            tensor = self._inventory.tensor(slot.name)
            if slot.quant_type is tensor.source_type:
                return self._tensors.raw(slot.name)
            factor = factors.get(tensor)
            # A strip for each thread at least, but never so small that the codec's calls dominate.
            strip = min(STRIP_ROWS, max(64, -(-tensor.n_rows // 4)))

            def one(start: int) -> npt.NDArray[np.uint8]:
                rows = self._tensors.load_tensor(slot.name, start, start + strip)
                return quantize_rows(slot.quant_type, rows, factor, self._search)[0]

            return np.concatenate(list(self._pool.map(one, range(0, tensor.n_rows, strip))))

        write_gguf(path, layout, payload, self._events)
        return layout
