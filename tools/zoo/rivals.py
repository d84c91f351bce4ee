"""What others would see of a model in the place of features: tables of their kind of error, and the stock presets' types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ramp_edge.allocate.choices import Legal
from ramp_edge.allocate.presets import stock_presets
from ramp_edge.codec.ggml import round_trip
from ramp_edge.codec.types import QuantType
from ramp_edge.model.gguf_file import GgufTensors
from ramp_edge.pipeline.calibration import load_rows
from ramp_edge.quantize.type_errors import few_rows
from ramp_edge.records import ModelInventory

Float64 = npt.NDArray[np.float64]
_SPECTRUM_ROWS = 256
_TINY = 1e-30


@dataclass(frozen=True, kw_only=True, slots=True)
class Rivals:
    """Parallel to a case's tensors and types; NaN where a type is not legal."""

    imatrix: Float64
    """[n_tensors, n_types]: squared error weighted by mean squared inputs, summed, as llama.cpp weighs it."""
    data_free: Float64
    """[n_tensors, n_types]: relative squared error of the weights, times the layer's score."""
    preset_names: tuple[str, ...]
    presets: npt.NDArray[np.int64]
    """[n_presets, n_tensors]: columns; -1 where the preset's type is not the case's."""

    def save(self, path: Path) -> None:
        """One npz."""
        np.savez_compressed(
            path, imatrix=self.imatrix, data_free=self.data_free, preset_names=np.array(self.preset_names), presets=self.presets
        )  # fmt: skip


def load_rivals(path: Path) -> Rivals:
    """Of `Rivals.save`."""
    with np.load(path, allow_pickle=False) as data:
        return Rivals(
            imatrix=data["imatrix"],
            data_free=data["data_free"],
            preset_names=tuple(str(n) for n in data["preset_names"]),
            presets=data["presets"],
        )


def measure_rivals(
    inventory: ModelInventory,
    tensors: GgufTensors,
    legal: Mapping[str, Legal],
    imatrix: Mapping[str, Mapping[QuantType, float]],
    names: Sequence[str],
    types: Sequence[QuantType],
) -> Rivals:
    """All of them; `imatrix` is comparison.imatrix's table."""
    known = stock_presets(inventory)
    column = {t: i for i, t in enumerate(types)}
    return Rivals(
        imatrix=np.array([[imatrix[n].get(t, np.nan) for t in types] for n in names]),
        data_free=data_free_table(inventory, tensors, legal, names, types),
        preset_names=tuple(p.name for p in known),
        presets=np.array([[column.get(p.allocation.types[n], -1) for n in names] for p in known], np.int64),
    )


def data_free_table(
    inventory: ModelInventory,
    tensors: GgufTensors,
    legal: Mapping[str, Legal],
    names: Sequence[str],
    types: Sequence[QuantType],
) -> Float64:
    """After the abstract of NSDS (arXiv 2603.17354): heavy tails and the spectrum of every matrix, each compared with those of the
    same role by a sigmoid over the median absolute deviation; a layer's score is the soft or of its matrices'. It multiplies relative
    squared error by the size of the tensor, so that a knapsack can use it; that step is ours.
    """
    infos = [inventory.tensor(n) for n in names]
    relative = np.full((len(names), len(types)), np.nan)
    tails, spectra = np.zeros(len(names)), np.zeros(len(names))
    for row, tensor in enumerate(infos):
        chosen = np.linspace(0, tensor.n_rows - 1, min(tensor.n_rows, _SPECTRUM_ROWS)).round().astype(np.int64)
        weights = load_rows(tensors, tensor.name, chosen)
        square = np.square(weights.astype(np.float64))
        tails[row] = np.log(np.square(square).mean() / square.mean() ** 2)
        energy = np.square(np.linalg.svd(weights, compute_uv=False).astype(np.float64))
        share = energy / max(energy.sum(), _TINY)
        spectra[row] = -float((share * np.log(share + _TINY)).sum()) / np.log(len(share))
        few = load_rows(tensors, tensor.name, few_rows(tensor))
        total = max(float(np.square(few).sum()), _TINY)
        # Without data nothing is known of the inputs: every column counts the same, where a type asks.
        ones = np.ones(tensor.n_cols, np.float32)
        for quant_type in legal[tensor.name].types:
            if quant_type in types:
                coded = round_trip(quant_type, few, ones if quant_type.needs_imatrix else None)
                relative[row, types.index(quant_type)] = float(np.square(few - coded).sum()) / total
    # Much energy in few directions is what quantization disturbs: low entropy counts as sensitive.
    roles = np.array([str(t.role) for t in infos])
    scores = 1.0 - (1.0 - _by_role(tails, roles)) * (1.0 - _by_role(-spectra, roles))
    layers = np.array([-1 if t.layer is None else t.layer for t in infos])
    for layer in set(layers) - {-1}:
        here = layers == layer
        scores[here] = 1.0 - np.prod(1.0 - scores[here]) ** (1.0 / here.sum())
    sizes = np.array([t.n_elements for t in infos], np.float64)
    return relative * (scores * sizes)[:, None]


def _by_role(values: Float64, roles: npt.NDArray[np.str_]) -> Float64:
    out = np.full(len(values), 0.5)
    for role in set(roles):
        here = roles == role
        middle = np.median(values[here])
        spread = 1.4826 * np.median(np.abs(values[here] - middle))
        if spread > 0:
            out[here] = 1.0 / (1.0 + np.exp(-((values[here] - middle) / spread).clip(-30, 30)))
    return out
