"""Builds the error table while the Fisher pass runs: samples in, predicted KL per (tensor, type) out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from ramp_edge.codec.types import QuantType
from ramp_edge.quantize.hessian import FeedbackFactor, feedback_factor
from ramp_edge.quantize.search import THOROUGH, Search
from ramp_edge.quantize.sensitivity import RowErrors, embedding_kl, head_kl, linear_kl, row_errors
from ramp_edge.records import ErrorTable, ModelInventory, Role, TensorInfo

Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]
MIN_ROWS_TIMES_SHARE = 512
"""A small tensor gives at least this many rows over the share: 64 at one row in 8."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Moments:
    """Second moments by input site: `site` names a tensor's site (None: unknown), `load` gives its matrix."""

    site: Callable[[TensorInfo], str | None]
    load: Callable[[str], Float32]


def sampled_rows(tensor: TensorInfo, share: int) -> Int64:
    """One row in `share`, evenly strided, so that every head and every part of the feed-forward is represented."""
    count = min(tensor.n_rows, max(MIN_ROWS_TIMES_SHARE // share, tensor.n_rows // share))
    rows: Int64 = np.linspace(0, tensor.n_rows - 1, count).round().astype(np.int64)
    return rows


class FactorCache:
    """Feedback factors of the sites in use; tensors of one site come in a row, so a few are enough."""

    def __init__(self, moments: Moments, keep: int = 2) -> None:
        self._moments, self._keep = moments, keep
        self._held: dict[str, FeedbackFactor] = {}

    def get(self, tensor: TensorInfo) -> FeedbackFactor | None:
        """The factor of the tensor's input, or None where calibration does not know it."""
        site = self._moments.site(tensor)
        if site is None:
            return None
        if site not in self._held:
            while len(self._held) >= self._keep:
                self._held.pop(next(iter(self._held)))
            self._held[site] = feedback_factor(self._moments.load(site))
        return self._held[site]


class ErrorTableBuilder:
    """Consumes samples tensor by tensor. Entries of a tied embedding add its output and input parts."""

    def __init__(
        self,
        inventory: ModelInventory,
        load_rows: Callable[[str, Int64], Float32],
        types: Mapping[str, Sequence[QuantType]],
        moments: Moments,
        pool: ThreadPoolExecutor,
        search: Search = THOROUGH,
        activation_block: Callable[[QuantType], int] = lambda _: 0,
    ) -> None:
        self._inventory, self._load_rows, self._types, self._pool = inventory, load_rows, types, pool
        self._search, self._activation_block = search, activation_block
        self._factors = FactorCache(moments)
        self._kl: dict[str, dict[QuantType, float]] = {}

    def _errors(self, tensor: TensorInfo, weights: Float32, rows: Int64) -> RowErrors:
        return row_errors(weights, rows, self._types[tensor.name], self._factors.get(tensor), self._pool, self._search)

    def _add(self, name: str, part: Mapping[QuantType, float]) -> None:
        held = self._kl.setdefault(name, {})
        for quant_type, value in part.items():
            held[quant_type] = held.get(quant_type, 0.0) + value

    def _add_activations(self, name: str, kl: Mapping[int, float]) -> None:
        """What the device's rounding of the tensor's inputs costs, beside each type."""
        self._add(name, {t: kl.get(self._activation_block(t), 0.0) for t in self._types[name]})

    def linear(
        self,
        name: str,
        rows: Int64,
        gradients: torch.Tensor,
        row_gradient_sq: torch.Tensor,
        tokens: int,
        activation_kl: Mapping[int, float],
    ) -> None:
        """A linear layer's samples: gradients [n_seq, n_rows_chosen, n_cols]; activation_kl by activations sharing a scale."""
        tensor = self._inventory.tensor(name)
        values = self._load_rows(name, np.arange(tensor.n_rows, dtype=np.int64))
        errors = self._errors(tensor, np.ascontiguousarray(values[rows]), rows)
        energy: Float32 = np.einsum("rc,rc->r", values, values)
        self._add(name, linear_kl(errors, gradients, row_gradient_sq, energy, tokens))
        self._add_activations(name, activation_kl)

    def head(
        self,
        name: str,
        rows: Int64,
        hidden: torch.Tensor,
        variance: torch.Tensor,
        coverage: float,
        activation_kl: Mapping[int, float],
    ) -> None:
        """The output matrix's samples."""
        errors = self._errors(self._inventory.tensor(name), self._load_rows(name, rows), rows)
        self._add(name, head_kl(errors, hidden, variance, coverage))
        self._add_activations(name, activation_kl)

    def embedding(self, name: str, tokens: Int64, gradients: torch.Tensor) -> None:
        """The input embedding's samples."""
        rows = np.unique(tokens)
        errors = self._errors(self._inventory.tensor(name), self._load_rows(name, rows), rows)
        self._add(name, embedding_kl(errors, tokens, gradients))

    def finish(self) -> ErrorTable:
        """The table; every quantizable tensor must have been seen."""
        missing = [t.name for t in self._inventory.quantizable if t.name not in self._kl and t.role is not Role.OTHER]
        assert not missing, f"no samples for {missing[:3]}"
        return ErrorTable(kl={name: dict(values) for name, values in self._kl.items()})
