"""A source model seen through a fold plan: tensor values and moments as they are after scaling and reordering.

Everything is computed in float32 from the source's values; only tensors that stay floats are rounded to their stored type again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ramp_edge.codec.ggml import encode
from ramp_edge.codec.types import QuantType
from ramp_edge.fold.groups import FoldGroup
from ramp_edge.fold.plan import Float32, FoldPlan, Int64
from ramp_edge.records import ModelInventory

_RESIDUAL_COLUMNS = ("attn_q", "attn_k", "attn_v", "ffn_gate", "ffn_up", "token_embd", "output")
"""Matrices that read the residual stream, or hold its channels as columns."""
_RESIDUAL_ROWS = ("attn_output", "ffn_down")
"""Matrices that write the residual stream."""
_RESIDUAL_VECTORS = ("attn_norm", "ffn_norm", "post_attention_norm", "post_ffw_norm", "output_norm")
_RESIDUAL_SITES = ("attn_in", "ffn_in", "head", "tied", "embedding")


class SourceTensors(Protocol):
    """What is read of a model file."""

    def load_tensor(self, name: str, first_row: int = 0, last_row: int | None = None) -> Float32: ...
    def raw(self, name: str) -> npt.NDArray[np.uint8]: ...
    def quant_type(self, name: str) -> QuantType: ...


class FoldedTensors:
    """Values of a model after folding, under the names of the source."""

    def __init__(
        self, source: SourceTensors, inventory: ModelInventory, plan: FoldPlan, groups: Sequence[FoldGroup]
    ) -> None:
        self._source = source
        self._column_scale: dict[str, Float32] = {}
        self._row_scale: dict[str, Float32] = {}
        self._column_order: dict[str, Int64] = {}
        self._row_order: dict[str, Int64] = {}
        n_rows = {t.name: t.n_rows for t in inventory.tensors}
        for group in groups:
            if (scales := plan.scales.get(group.name)) is None:
                continue
            for reader in group.readers:
                self._column_scale[reader] = group.columns(scales)
            inverse = np.float32(1.0) / scales
            # A norm and a bias are one row each; of a matrix each row is a channel.
            (self._column_scale if n_rows[group.producer] == 1 else self._row_scale)[group.producer] = inverse
            if group.bias is not None:
                self._column_scale[group.bias] = inverse
        if plan.order is not None:
            for tensor in inventory.tensors:
                part, kind = tensor.name.split(".")[-2:]
                if kind == "bias" or part in _RESIDUAL_VECTORS:
                    if part in _RESIDUAL_VECTORS or part in _RESIDUAL_ROWS:
                        self._column_order[tensor.name] = plan.order
                elif part in _RESIDUAL_COLUMNS:
                    self._column_order[tensor.name] = plan.order
                elif part in _RESIDUAL_ROWS:
                    self._row_order[tensor.name] = plan.order

    def changes(self, name: str) -> bool:
        """Whether the plan touches the tensor."""
        return any(name in part for part in (self._column_scale, self._row_scale, self._column_order, self._row_order))

    def load_tensor(self, name: str, first_row: int = 0, last_row: int | None = None) -> Float32:
        """float32 [n_rows, n_cols] of rows `first_row` to `last_row` (exclusive)."""
        rows = slice(first_row, last_row)
        if (row_order := self._row_order.get(name)) is not None:
            values = self._source.load_tensor(name)[row_order[rows]]
        else:
            values = self._source.load_tensor(name, first_row, last_row)
        if (by_row := self._row_scale.get(name)) is not None:
            values = values * by_row[rows, None]
        if (by_column := self._column_scale.get(name)) is not None:
            values = values * by_column
        if (order := self._column_order.get(name)) is not None:
            values = values[:, order]
        return np.ascontiguousarray(values, dtype=np.float32)

    def raw(self, name: str) -> npt.NDArray[np.uint8]:
        """Bytes in the stored type, [n_rows, row_bytes]."""
        if not self.changes(name):
            return self._source.raw(name)
        return encode(self._source.quant_type(name), self.load_tensor(name))


def folded_moments(
    load: Callable[[str], Float32], plan: FoldPlan, groups: Sequence[FoldGroup]
) -> Callable[[str], Float32]:
    """Second moments of a site's inputs after folding, from those before."""
    columns = {g.name: g.columns(plan.scales[g.name]) for g in groups if g.name in plan.scales}

    def folded(site: str) -> Float32:
        moments = load(site)
        if (scale := columns.get(site)) is not None:
            moments = moments / np.outer(scale, scale)
        if plan.order is not None and reordered(site):
            moments = moments[np.ix_(plan.order, plan.order)]
        return np.ascontiguousarray(moments, dtype=np.float32)

    return folded


def reordered(site: str) -> bool:
    """Whether the site's columns are channels of the residual stream."""
    return site.rsplit(".", maxsplit=1)[-1] in _RESIDUAL_SITES
