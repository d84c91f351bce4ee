"""The policy's features of a model, from its stored moments, and what each type costs each tensor; kept beside the moments."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

import numpy as np
import numpy.typing as npt

from ramp_edge.allocate.choices import Legal
from ramp_edge.calibrate.decoder import DecoderModel
from ramp_edge.calibrate.feature_list import FEATURES
from ramp_edge.calibrate.features import execution_order, model_features
from ramp_edge.calibrate.noise import RoundingNoise, noise_pass
from ramp_edge.calibrate.store import TIED_FORWARD_SITE, CalibrationStore
from ramp_edge.codec.activations import ACTIVATION_BLOCKS, activation_block
from ramp_edge.codec.types import QuantType
from ramp_edge.events import EventBus
from ramp_edge.pipeline.calibration import TABLE_VERSION, forward_moments, load_rows
from ramp_edge.pipeline.model_source import SourceModel
from ramp_edge.quantize.search import Search
from ramp_edge.quantize.table import FactorCache
from ramp_edge.quantize.type_errors import few_rows, relative_errors
from ramp_edge.records import ModelFeatures, TensorInfo

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
FEATURES_VERSION = 4
"""Raise when a feature's meaning changes."""


def policy_features(
    source: SourceModel,
    store: CalibrationStore,
    legal: Mapping[str, Legal],
    backend: str,
    search: Search,
    pool: ThreadPoolExecutor,
    events: EventBus,
) -> ModelFeatures:
    """Measure them, or find them in the cache. Needs `moments_pass` on the same store."""
    order = execution_order(source.inventory)
    values, rounding_kl, inputs = _values(source, store, order, events)
    types = tuple(
        sorted({t for entry in legal.values() for t in entry.types}, key=lambda t: (t.bits_per_weight, int(t)))
    )
    errors = _type_errors(source, store, order, legal, types, search, pool, events)
    for column, quant_type in enumerate(types):
        block = activation_block(quant_type, backend)
        if block:
            errors[:, column] += inputs[:, ACTIVATION_BLOCKS.index(block)]
    return ModelFeatures(
        names=tuple(t.name for t in order), values=values, rounding_kl=rounding_kl, types=types, relative_kl=errors
    )


def _values(
    source: SourceModel,
    store: CalibrationStore,
    order: tuple[TensorInfo, ...],
    events: EventBus,
) -> tuple[Float32, Float64, Float64]:
    """(the features, KL of 4-bit weights, what rounding of each tensor's inputs costs by ACTIVATION_BLOCKS, over those weights' cost)."""
    formulas = "".join(f"{f.name}{f.formula}{f.scale}" for f in FEATURES)
    name = f"features-{_digest(FEATURES_VERSION, formulas)}"
    tied = f"{TIED_FORWARD_SITE}.moments"
    store.discard_damaged(name, tied)
    inventory, tensors = source.inventory, source.tensors
    width = len(FEATURES)
    if store.has(name) and (store.has(tied) or not inventory.tied_embedding):
        held = store.load_float(name)
        if held.shape == (len(order), width + 1 + len(ACTIVATION_BLOCKS)) and np.isfinite(held).all():
            return np.ascontiguousarray(held[:, :width]), *_costs(held[:, width:])
    noise = noise_pass(DecoderModel(inventory, source.facts, tensors.load_tensor), store, events)
    values = model_features(inventory, tensors.load_tensor, store, noise, events)
    costs = np.array([[noise.kl.get(t.name, 0.0), *_inputs(noise, t)] for t in order], np.float32)
    store.save(name, np.concatenate([values, costs], axis=1))
    return values, *_costs(costs)


def _inputs(noise: RoundingNoise, tensor: TensorInfo) -> list[float]:
    return [noise.inputs.get(tensor.name, {}).get(block, 0.0) for block in ACTIVATION_BLOCKS]


def _costs(held: Float32) -> tuple[Float64, Float64]:
    return held[:, 0].astype(np.float64), held[:, 1:].astype(np.float64)


def _type_errors(
    source: SourceModel,
    store: CalibrationStore,
    order: tuple[TensorInfo, ...],
    legal: Mapping[str, Legal],
    types: tuple[QuantType, ...],
    search: Search,
    pool: ThreadPoolExecutor,
    events: EventBus,
) -> Float64:
    """[n_tensors, n_types], NaN where a type is not legal."""
    asked = str([[int(t) for t in legal[tensor.name].types] for tensor in order])
    name = f"type-errors-{_digest(FEATURES_VERSION, TABLE_VERSION, asked, str(sorted(asdict(search).items())))}"
    store.discard_damaged(name)
    if store.has(name):
        held = store.load_float(name).astype(np.float64)
        if held.shape == (len(order), len(types)) and np.isfinite(held).any(axis=1).all():
            return held
    factors = FactorCache(forward_moments(source.inventory, store))
    out = np.full((len(order), len(types)), np.nan)
    with events.stage("type errors", total=len(order), unit="tensors") as stage:
        for row, tensor in enumerate(order):
            rows = few_rows(tensor)
            found = relative_errors(
                load_rows(source.tensors, tensor.name, rows),
                rows,
                legal[tensor.name].types,
                factors.get(tensor),
                pool,
                search,
            )
            out[row, [types.index(t) for t in found]] = list(found.values())
            stage.advance()
    # What the cache gives back the next time, so that both builds choose and predict the same.
    kept = out.astype(np.float32)
    store.save(name, kept)
    return kept.astype(np.float64)


def _digest(*parts: object) -> str:
    return hashlib.sha256(" ".join(map(str, parts)).encode()).hexdigest()[:12]
