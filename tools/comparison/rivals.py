"""What users would pick instead: llama.cpp's presets, the same with another embedding type, a knapsack on imatrix-weighted error."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from comparison.llama_tools import LlamaTools
from comparison.ours import Compiler, imatrix_table
from comparison.records import EMBEDDING, KNAPSACK, PRESET
from comparison.workshop import Made, Workshop
from ramp_edge.allocate.presets import stock_preset
from ramp_edge.codec.ggml import encode
from ramp_edge.codec.types import QuantType
from ramp_edge.emit.layout import TensorSlot
from ramp_edge.pipeline.finalists import imatrix_of
from ramp_edge.records import ErrorTable


def presets(tools: LlamaTools, reference: Path, imatrix: Path, names: list[str], workshop: Workshop) -> list[Made]:
    """Each preset as `llama-quantize` makes it; presets that give the same file as an earlier one are left out."""
    made: list[Made] = []
    for name in names:
        write = partial(_quantize, tools, reference, imatrix, name, None)
        file = workshop.make(name, PRESET, write)
        size = file.path.stat().st_size
        if not any(size == other.path.stat().st_size and _same(file.path, other.path) for other in made):
            made.append(file)
    return made


def with_embedding(
    tools: LlamaTools, compiler: Compiler, imatrix: Path, names: list[str], types: list[QuantType], workshop: Workshop
) -> list[Made]:
    """Each preset with each of `types` for the embedding, where that makes the file smaller."""
    made = []
    for name in names:
        plain = stock_preset(compiler.inventory, name).tensor_bytes
        for quant_type in types:
            if stock_preset(compiler.inventory, name, token_embedding_type=quant_type).tensor_bytes >= plain:
                continue
            write = partial(_quantize, tools, compiler.inventory.path, imatrix, name, quant_type.name)
            made.append(workshop.make(f"{name}:{quant_type.name}", EMBEDDING, write))
    return made


def imatrix_knapsack(compiler: Compiler, at: dict[str, int], workshop: Workshop) -> list[Made]:
    """The allocation of llama.cpp's pull request 15550, reimplemented from its description: a Lagrangian knapsack on the
    imatrix-weighted squared error of the stock codec, which then writes the file as `llama-quantize` would."""
    table = imatrix_table(compiler)
    made = []
    for label, size in at.items():
        write = partial(_write_stock, compiler, table, size)
        made.append(workshop.make(f"imatrix knapsack @ {label}", KNAPSACK, write, at=label))
    return made


def _quantize(
    tools: LlamaTools, reference: Path, imatrix: Path, name: str, embedding: str | None, output: Path
) -> None:
    tools.quantize(reference, output, name, imatrix=imatrix, embedding_type=embedding)


def _same(one: Path, other: Path) -> bool:
    """Equal tensor data; the metadata names the preset."""
    a, b = (np.memmap(path, dtype=np.uint8, mode="r") for path in (one, other))
    return bool((a[len(a) // 2 :] == b[len(b) // 2 :]).all())


def _write_stock(compiler: Compiler, table: ErrorTable, size: int, output: Path) -> None:
    types = compiler.allocate(table, size)
    importance = imatrix_of(compiler.inventory, compiler.moments)

    def payload(slot: TensorSlot, plan: Mapping[str, QuantType] = types) -> npt.NDArray[np.uint8]:
        if slot.name not in plan or slot.quant_type is compiler.inventory.tensor(slot.name).source_type:
            return compiler.tensors.raw(slot.name)
        rows = compiler.tensors.load_tensor(slot.name)
        return encode(slot.quant_type, rows, importance.get(slot.name))

    compiler.write_with(output, types, payload)
