"""Pass 1: second moments of every linear layer's input, one layer in memory at a time.

All sequences go through a layer before the next one is loaded, so memory holds one layer, its moments and the hidden
states. The Fisher pass later recomputes single layers, so each layer's input is kept for the sequences it will use.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ramp_edge.calibrate.decoder import DecoderModel
from ramp_edge.calibrate.store import HEAD_SITE, CalibrationSettings, CalibrationStore, site_of
from ramp_edge.errors import CalibrationError
from ramp_edge.events import EventBus

BATCH_TOKENS = 1024
"""Tokens per step: larger steps spill the CPU's caches and are slower."""


class _Accumulator:
    """Sums x x^T per site; tensors with one input are counted once."""

    def __init__(self, sites: dict[str, str]) -> None:
        self._sites = sites
        self.sums: dict[str, npt.NDArray[np.float32]] = {}
        self._counted: str | None = None

    def tap(self, name: str, x: Tensor, _y: Tensor) -> None:
        site = self._sites.get(name)
        if site is None or site == self._counted:
            return
        self._counted = site
        add_moments(self.sums, site, x)


def add_moments(sums: dict[str, npt.NDArray[np.float32]], site: str, x: Tensor) -> None:
    """Add x^T x of [..., n_cols]. numpy turns this product into BLAS syrk: half the work of a full one."""
    flat = x.reshape(-1, x.shape[-1]).float().numpy()
    product = flat.T @ flat
    if site in sums:
        sums[site] += product
    else:
        sums[site] = product


@torch.no_grad()
def moments_pass(
    model: DecoderModel,
    tokens: npt.NDArray[np.int32],
    settings: CalibrationSettings,
    store: CalibrationStore,
    events: EventBus,
) -> None:
    """Fill `store` with moments of every site and the layer inputs of the Fisher sequences.

    tokens: int32 [n_sequences, sequence_tokens]. Finished layers are not computed again.
    """
    inventory = model.inventory
    n_layer = inventory.hyper.n_layer
    fisher = (settings.fisher_sequences, min(settings.fisher_tokens, tokens.shape[1]))
    if store.has(f"{HEAD_SITE}.moments"):
        return
    first = next((n for n in range(n_layer, 0, -1) if store.has(f"progress.{n}")), 0)
    hidden = store.load_hidden(f"progress.{first}") if first else model.embed(tokens)
    batch = max(1, BATCH_TOKENS // tokens.shape[1])
    with events.stage("moments", total=n_layer + 1, unit="layers") as stage:
        stage.advance(first)
        for index in range(first, n_layer):
            store.save_hidden(f"input.{index}", hidden[: fisher[0], : fisher[1]])
            layer = model.layer(index)
            tensors = [t for t in inventory.tensors if t.layer == index]
            sites = {t.name: s for t in tensors if (s := site_of(t, tied=inventory.tied_embedding)) is not None}
            accumulator = _Accumulator(sites)
            for start in range(0, len(hidden), batch):
                hidden[start : start + batch] = layer.forward(hidden[start : start + batch], accumulator.tap)
            if not bool(torch.isfinite(hidden).all()):
                raise CalibrationError(
                    f"block {index} of {inventory.path.name} gives values that are not finite on the calibration text",
                    hint="check the model with another runtime; it may be damaged",
                )
            for site, total in accumulator.sums.items():
                store.save(f"{site}.moments", total / np.float32(tokens.size))
            # A checkpoint every few layers: writing all hidden states each time would cost more than it saves.
            if (index + 1) % 8 == 0 and index + 1 < n_layer:
                store.save_hidden(f"progress.{index + 1}", hidden)
                store.drop(f"progress.{index - 7}")
            stage.advance()
        store.save_hidden(f"input.{n_layer}", hidden[: fisher[0], : fisher[1]])
        sums: dict[str, npt.NDArray[np.float32]] = {}
        for start in range(0, len(hidden), batch):
            add_moments(sums, HEAD_SITE, model.final_norm(hidden[start : start + batch]))
        store.save(f"{HEAD_SITE}.moments", sums[HEAD_SITE] / np.float32(tokens.size))
        for index in range(n_layer):
            store.drop(f"progress.{index}")
        stage.advance()
