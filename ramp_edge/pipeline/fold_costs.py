"""What quantization costs in a given basis: sampled rows through the real codec, judged on held-out activations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch

from ramp_edge.calibrate.activations import rounding_errors
from ramp_edge.calibrate.store import EMBEDDING_SITE, HEAD_SITE, TIED_SITE
from ramp_edge.codec.activations import ACTIVATION_BLOCKS, activation_block
from ramp_edge.codec.types import QuantType
from ramp_edge.fold.apply import SourceTensors, reordered
from ramp_edge.fold.judge import moment_errors, output_errors
from ramp_edge.pipeline.calibration import Calibrated
from ramp_edge.quantize.feedback import quantize_rows
from ramp_edge.quantize.hessian import FeedbackFactor, feedback_factor
from ramp_edge.quantize.search import Search
from ramp_edge.records import ErrorTable, ModelInventory, TensorInfo

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

JUDGED_ROWS = 128
"""Rows of a matrix that are quantized to judge a change; nothing is searched on them."""
SEARCHED_ROWS = 512
"""Rows that the models of the cost look at: with 96 they fit those rows and not the matrix."""
TOKEN_ROWS = 288
"""Draws of tokens whose embeddings are looked at."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """Some rows of one tensor, by the source's columns. Weights [n_rows]: what an error in a row's output costs, relative to the others'."""

    tensor: TensorInfo
    rows: Float32
    """Those that searches look at."""
    row_weights: Float32
    judged_rows: Float32
    """Others, to be quantized."""
    judged_weights: Float32

    @property
    def name(self) -> str:
        return self.tensor.name

    def sensitivity(self) -> Float32:
        """Cost of a unit of squared error in each input [n_cols]."""
        values: Float32 = (self.row_weights @ np.square(self.rows)).astype(np.float32)
        return values


@dataclass(frozen=True, kw_only=True, slots=True)
class Basis:
    """A site's columns as quantization sees them: scaled, then placed in another order."""

    site: str
    order: Int64 | None
    scales: Float32 | None
    """[n_cols], by the source's columns."""
    factor: FeedbackFactor
    """Of the inputs in this basis."""

    def placed(self, values: Float32) -> Float32:
        """Values [..., n_cols] of the source's columns at their places."""
        return values if self.order is None else np.ascontiguousarray(values[..., self.order])

    def unplaced(self, values: Float32) -> Float32:
        """The reverse of `placed`."""
        if self.order is None:
            return values
        out = np.empty_like(values)
        out[..., self.order] = values
        return out

    def weights(self, rows: Float32) -> Float32:
        """Rows [n_rows, n_cols] of a reader in this basis."""
        return self.placed(rows if self.scales is None else rows * self.scales)

    def source_error(self, error: Float32) -> Float32:
        """An error of such rows by the source's columns and scale."""
        error = self.unplaced(error)
        return error if self.scales is None else error / self.scales


def split_rows(rows: Int64, n_searched: int) -> tuple[Int64, Int64]:
    """Evenly strided rows to judge by (a quarter at most) and of the others `n_searched` to search on; each at least one."""
    n_judged = max(1, min(JUDGED_ROWS, len(rows) // 4))
    judged = ((np.arange(n_judged) + 0.5) * len(rows) / n_judged).astype(np.int64)
    others = np.delete(np.arange(len(rows)), judged)
    if not len(others):
        return rows, rows
    searched = others[np.linspace(0, len(others) - 1, min(n_searched, len(others))).round().astype(np.int64)]
    return rows[searched], rows[judged]


class FoldCosts:
    """Costs of one model's readers; nothing is kept but small samples."""

    def __init__(
        self,
        inventory: ModelInventory,
        tensors: SourceTensors,
        calibrated: Calibrated,
        backend: str,
        search: Search,
    ) -> None:
        self.inventory, self.table = inventory, calibrated.table
        self._tensors, self._store, self._moments = tensors, calibrated.store, calibrated.moments
        self._backend, self._search = backend, search
        tokens = calibrated.text.calibration.reshape(-1)
        self._token_counts = np.bincount(tokens, minlength=inventory.hyper.vocab_size)
        # Both cores work on a site of their own.
        self._held_out = lru_cache(maxsize=4)(calibrated.store.held_out)
        self._activation_kl = lru_cache(maxsize=None)(calibrated.store.activation_kl)

    def site(self, tensor: TensorInfo) -> str | None:
        """The tensor's input site where its moments are known."""
        return self._moments.site(tensor)

    def basis(self, site: str, order: Int64 | None) -> Basis:
        """Without scales; `order` counts where the site's columns are the residual stream's channels."""
        placed = order if reordered(site) else None
        moments = self._moments.load(site)
        factor = feedback_factor(moments if placed is None else moments[np.ix_(placed, placed)])
        return Basis(site=site, order=placed, scales=None, factor=factor)

    def energy(self, basis: Basis) -> Float32:
        """Mean squared inputs of each placed column, before scaling."""
        return basis.placed(np.ascontiguousarray(np.diagonal(self._moments.load(basis.site))))

    def sample(self, name: str) -> Sample:
        """Rows of a tensor: evenly strided in the blocks, by the tokens' use outside."""
        tensor = self.inventory.tensor(name)
        if tensor.layer is None:
            counts = self._token_counts.astype(np.float64)
            drawn = np.random.default_rng(0).choice(len(counts), size=TOKEN_ROWS + JUDGED_ROWS, p=counts / counts.sum())
            searched, judged = split_rows(np.unique(drawn), TOKEN_ROWS)
            costs = np.ones(tensor.n_rows, np.float32)
            rows, judged_rows = (
                np.concatenate([self._tensors.load_tensor(name, int(i), int(i) + 1) for i in tokens])
                for tokens in (searched, judged)
            )
        else:
            searched, judged = split_rows(np.arange(tensor.n_rows), SEARCHED_ROWS)
            squares = self._store.load_float(f"{name}.gradient_sq")
            costs = (squares / max(float(squares.mean()), 1e-30)).astype(np.float32)
            values = self._tensors.load_tensor(name)
            rows, judged_rows = values[searched], values[judged]
        return Sample(
            tensor=tensor,
            rows=np.ascontiguousarray(rows),
            row_weights=costs[searched],
            judged_rows=np.ascontiguousarray(judged_rows),
            judged_weights=costs[judged],
        )

    def weight_costs(self, sample: Sample, quant_type: QuantType, basis: Basis) -> Float64:
        """Weighted output error of each judged row, on held-out inputs where there are any."""
        rows = basis.weights(sample.judged_rows)
        _, meaning = quantize_rows(quant_type, rows, basis.factor, self._search)
        error = basis.source_error(rows - meaning)
        costs: Float64 = sample.judged_weights * self._output_errors(error, basis.site)
        return costs

    def _output_errors(self, error: Float32, site: str) -> Float64:
        if site == EMBEDDING_SITE:
            return moment_errors(error, self._store.moments(EMBEDDING_SITE))
        if site == TIED_SITE:
            share = float(self._store.load_float(f"{HEAD_SITE}.variance")[0])
            as_input = moment_errors(error, self._store.moments(EMBEDDING_SITE))
            return share * output_errors(error, self._held_out(HEAD_SITE)) + as_input
        return output_errors(error, self._held_out(site))

    def rounding_errors_sq(self, basis: Basis) -> dict[int, Float32]:
        """Squared rounding errors of the held-out inputs [n_tokens, n_cols] in their places, by activations that share a scale."""
        inputs = self._held_out(basis.site)
        values = torch.from_numpy(basis.placed(inputs if basis.scales is None else inputs / basis.scales))
        blocks = [block for block in ACTIVATION_BLOCKS if values.shape[1] % block == 0]
        return {block: rounding_errors(values, block).square().numpy() for block in blocks}

    def activation_costs(self, sample: Sample, basis: Basis, errors_sq: Mapping[int, Float32]) -> dict[int, Float64]:
        """What they cost one reader at each token [n_tokens]."""
        sensitivity = sample.sensitivity()
        if basis.scales is not None:
            sensitivity = sensitivity * np.square(basis.scales)
        weights = basis.placed(sensitivity).astype(np.float64)
        return {block: errors @ weights for block, errors in errors_sq.items()}

    # What the table says, in its two parts.

    def types(self, name: str) -> tuple[QuantType, ...]:
        """Types of the table that lose anything."""
        return tuple(t for t in self.table.kl[name] if not t.is_float)

    def block(self, quant_type: QuantType) -> int:
        """Activations that share a scale beside the type; 0: they stay floats."""
        return activation_block(quant_type, self._backend)

    def activation_kl(self, name: str, quant_type: QuantType) -> float:
        """KL of the tensor's rounded inputs."""
        block = self.block(quant_type)
        if not block or not self._store.has(f"{name}.activation_kl"):
            return 0.0
        return min(self._activation_kl(name).get(block, 0.0), self.table.kl[name][quant_type])

    def weight_kl(self, name: str, quant_type: QuantType) -> float:
        """KL of the tensor's quantized weights."""
        return self.table.kl[name][quant_type] - self.activation_kl(name, quant_type)

    def with_ratios(
        self, weights: Mapping[str, Mapping[QuantType, float]], activations: Mapping[str, Mapping[int, float]]
    ) -> ErrorTable:
        """The table after changes that multiply its two parts; what is not named stays."""
        kl = {}
        for name, row in self.table.kl.items():
            by_type, by_block = weights.get(name, {}), activations.get(name, {})
            kl[name] = {
                t: self.weight_kl(name, t) * by_type.get(t, 1.0)
                + self.activation_kl(name, t) * by_block.get(self.block(t), 1.0)
                for t in row
            }
        return ErrorTable(kl=kl)
