"""What the policy learns from: each model's features and its table of predicted KL, from the very calibration of a build."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from comparison.imatrix import weighted_error

from ramp_edge.allocate.cases import ModelCase
from ramp_edge.codec.types import FLOAT_TYPES, QuantType
from ramp_edge.events import EventBus
from ramp_edge.pipeline.calibrated_model import open_calibrated
from ramp_edge.pipeline.calibration import forward_moments, load_rows
from ramp_edge.pipeline.features import policy_features
from ramp_edge.pipeline.request import EFFORTS, BuildRequest, Effort
from ramp_edge.records import ErrorTable, ModelFeatures, ModelInventory, Role
from zoo.rivals import Rivals, measure_rivals


def measure_case(
    model: Path, texts: list[Path], device: str, cache: Path, threads: int, effort: Effort
) -> tuple[ModelCase, Rivals]:
    """Calibrate a model (or find it in `cache`) and gather its case, and what rivals see of it."""
    os.environ["RAMP_EDGE_CACHE"] = str(cache)
    events = EventBus()
    request = BuildRequest(
        model=str(model),
        device=device,
        output=cache / "unused",
        calibration=tuple(texts),
        effort=effort,
        threads=threads,
    )
    with ThreadPoolExecutor(threads) as pool:
        ready = open_calibrated(request, threads, pool, events)
        source, legal, done = ready.source, ready.legal, ready.calibrated
        inventory, tensors, target = source.inventory, source.tensors, ready.target
        search = EFFORTS[effort].search
        features = policy_features(source, done.store, legal, target.backend, search, pool, events)
        moments = forward_moments(inventory, done.store)
        weighted = weighted_error(inventory, moments, legal, partial(load_rows, tensors), threads)
    types = sorted((t for t in target.types if t not in FLOAT_TYPES), key=lambda t: (t.bits_per_weight, int(t)))
    rivals = measure_rivals(inventory, tensors, legal, weighted, features.names, types)
    return gather(inventory, features, done.table, types), rivals


def gather(
    inventory: ModelInventory, features: ModelFeatures, table: ErrorTable, types: Sequence[QuantType]
) -> ModelCase:
    """A case from what calibration gave; types that the table lacks for a tensor are not legal there."""
    infos = [inventory.tensor(name) for name in features.names]
    return ModelCase(
        name=inventory.path.stem,
        family=inventory.architecture,
        names=features.names,
        features=features.values,
        n_rows=np.array([t.n_rows for t in infos], np.int64),
        n_cols=np.array([t.n_cols for t in infos], np.int64),
        read_per_token=np.array([t.role is not Role.TOKEN_EMBD or inventory.tied_embedding for t in infos]),
        types=tuple(types),
        relative_kl=features.relative_kl[:, [features.types.index(t) for t in types]],
        kl=np.array([[table.kl[t.name].get(q, np.nan) for q in types] for t in infos], np.float64),
    )
