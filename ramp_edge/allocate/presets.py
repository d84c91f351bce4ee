"""llama.cpp's stock presets as allocations: the opponents of every build, and candidates where they fit."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ramp_edge.codec.libllama_quantize import STOCK_PRESETS, PlannedTensor, plan_preset
from ramp_edge.codec.types import QuantType
from ramp_edge.errors import UnsupportedModelError
from ramp_edge.records import Allocation, ModelInventory


@dataclass(frozen=True, kw_only=True, slots=True)
class Preset:
    """A stock preset on one model."""

    name: str
    """`Q4_K_M`, ..."""
    allocation: Allocation
    tensor_bytes: int
    """Data bytes of all tensors, the unquantized ones included."""

    def file_bytes(self, inventory: ModelInventory) -> int:
        """Size of the preset's file, metadata taken to be as long as the source's."""
        source_tensor_bytes = sum(tensor.source_bytes for tensor in inventory.tensors)
        return self.tensor_bytes + inventory.file_bytes - source_tensor_bytes


@lru_cache(maxsize=256)
def _plan(
    path: Path, _modified_ns: int, name: str, with_imatrix: bool, embedding: QuantType | None
) -> tuple[PlannedTensor, ...]:
    # allow_requantize: whether the source may be a quantized file was decided when it was opened.
    return plan_preset(path, name, with_imatrix=with_imatrix, token_embedding_type=embedding, allow_requantize=True)


def stock_preset(
    inventory: ModelInventory,
    name: str,
    *,
    with_imatrix: bool = True,
    token_embedding_type: QuantType | None = None,
) -> Preset:
    """What `llama-quantize` makes of the model under that name, from a dry run of libllama's own code.

    `token_embedding_type` plays `--token-embedding-type`; it then shows in the allocation's origin.
    Raises UnsupportedModelError where libllama plans fewer tensors than the model has.
    """
    path = inventory.path
    planned = {p.name: p for p in _plan(path, path.stat().st_mtime_ns, name, with_imatrix, token_embedding_type)}
    missing = [tensor.name for tensor in inventory.tensors if tensor.name not in planned]
    if missing:
        raise UnsupportedModelError(
            f"{path.name}: libllama does not plan {len(missing)} of its tensors, {missing[0]} among them",
            hint="compare without the stock presets",
        )
    suffix = "" if token_embedding_type is None else f"+embd={token_embedding_type.name}"
    types = {tensor.name: planned[tensor.name].target_type for tensor in inventory.quantizable}
    return Preset(
        name=name,
        allocation=Allocation(origin=f"preset:{name}{suffix}", types=types),
        tensor_bytes=sum(p.target_bytes for p in planned.values()),
    )


def preset_allocation(inventory: ModelInventory, name: str, *, with_imatrix: bool = True) -> Allocation:
    """The types of a stock preset for every quantizable tensor, origin `preset:NAME`."""
    return stock_preset(inventory, name, with_imatrix=with_imatrix).allocation


def stock_presets(inventory: ModelInventory, names: Iterable[str] = STOCK_PRESETS) -> tuple[Preset, ...]:
    """All stock presets of a model, smallest first."""
    presets = [stock_preset(inventory, name) for name in names]
    return tuple(sorted(presets, key=lambda preset: (preset.tensor_bytes, preset.name)))
