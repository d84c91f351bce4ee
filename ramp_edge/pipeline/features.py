"""The policy's features of a model, from its stored moments, kept beside them."""

from __future__ import annotations

import hashlib

import numpy as np

from ramp_edge.calibrate.decoder import DecoderModel
from ramp_edge.calibrate.feature_list import FEATURES
from ramp_edge.calibrate.features import execution_order, model_features
from ramp_edge.calibrate.noise import noise_pass
from ramp_edge.calibrate.store import CalibrationStore
from ramp_edge.events import EventBus
from ramp_edge.model.gguf_file import GgufTensors
from ramp_edge.records import ArchitectureFacts, ModelFeatures, ModelInventory

FEATURES_VERSION = 1
"""Raise when a feature's meaning changes."""


def policy_features(
    inventory: ModelInventory,
    facts: ArchitectureFacts,
    tensors: GgufTensors,
    store: CalibrationStore,
    events: EventBus,
) -> ModelFeatures:
    """Measure the features, or find them in the cache. Needs `moments_pass` on the same store."""
    formulas = "".join(f"{f.name}{f.formula}{f.scale}" for f in FEATURES)
    key = hashlib.sha256(f"{FEATURES_VERSION}{formulas}".encode()).hexdigest()[:12]
    name = f"features-{key}"
    names = tuple(t.name for t in execution_order(inventory))
    store.discard_damaged(name)
    if store.has(name):
        values = store.load_float(name)
        if values.shape == (len(names), len(FEATURES)) and np.isfinite(values).all():
            return ModelFeatures(names=names, values=values)
    model = DecoderModel(inventory, facts, tensors.load_tensor)
    noise = noise_pass(model, store, events)
    features = model_features(inventory, tensors.load_tensor, store, noise, events)
    store.save(name, features.values)
    return features
