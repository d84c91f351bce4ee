"""Pass 1: second moments of every linear layer's input, one layer in memory at a time.

All sequences go through a layer before the next one is loaded, so memory holds one layer, the inputs of its linear layers
for one round of batches, their moments and the hidden states. The Fisher pass later recomputes single layers, so each
layer's input is kept for the sequences it will use.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ramp_edge.calibrate.decoder import DecoderModel, Layer
from ramp_edge.calibrate.store import HEAD_SITE, CalibrationSettings, CalibrationStore, site_of
from ramp_edge.calibrate.workers import batch_workers
from ramp_edge.errors import CalibrationError
from ramp_edge.events import EventBus
from ramp_edge.records import ModelInventory

BATCH_TOKENS = 1024
"""Tokens per step: larger steps spill the CPU's caches and are slower."""
ROUND_BYTES = 400_000_000
"""Inputs of linear layers, in float32, that are held before their moments are taken."""
CHECKPOINT_LAYERS = 8
"""A stopped pass starts again at most this many layers back: writing every layer would cost more than it saves."""

Float32 = npt.NDArray[np.float32]


class MomentSums:
    """Sums of x x^T by input site, float32."""

    def __init__(self) -> None:
        self.sums: dict[str, Float32] = {}

    def add(self, site: str, x: Float32) -> None:
        """Add x^T x of [n_tokens, n_cols]. numpy turns this product into BLAS syrk: half the work of a full one."""
        product = x.T @ x
        if site in self.sums:
            self.sums[site] += product
        else:
            self.sums[site] = product


def layer_sites(inventory: ModelInventory, index: int) -> dict[str, str]:
    """Tensor name -> input site, for the linear layers of one block."""
    tensors = [t for t in inventory.tensors if t.layer == index]
    return {t.name: site for t in tensors if (site := site_of(t, tied=inventory.tied_embedding)) is not None}


def _rounds(n_sequences: int, tokens_per_sequence: int, bytes_per_token: int) -> Iterator[list[slice]]:
    """Sequences in batches of about BATCH_TOKENS, and batches in rounds of at most ROUND_BYTES of inputs."""
    batch = max(1, BATCH_TOKENS // tokens_per_sequence)
    batches = [slice(at, min(at + batch, n_sequences)) for at in range(0, n_sequences, batch)]
    per_round = max(1, ROUND_BYTES // (batch * tokens_per_sequence * max(1, bytes_per_token)))
    for at in range(0, len(batches), per_round):
        yield batches[at : at + per_round]


def _step(layer: Layer, hidden: Tensor, sites: dict[str, str], out: dict[str, Tensor], batch: slice, row: int) -> None:
    """One batch through one layer, in place; the input of each site goes to `out` from `row` on."""
    seen: set[str] = set()

    def tap(name: str, x: Tensor, _y: Tensor) -> None:
        site = sites.get(name)
        if site is not None and site not in seen:
            seen.add(site)
            flat = x.flatten(0, 1)
            out[site][row : row + len(flat)].copy_(flat)

    with torch.no_grad():
        hidden[batch] = layer.forward(hidden[batch], tap)


def _layer_moments(
    layer: Layer, hidden: Tensor, sites: dict[str, str], widths: dict[str, int], held_out: int
) -> tuple[dict[str, Float32], dict[str, Tensor]]:
    """Send all hidden states through the layer, in place: sums of the moments of its sites, and the inputs of the last `held_out`
    sequences, which the sums leave out."""
    result = MomentSums()
    last_fit = len(hidden) - held_out
    kept: dict[str, list[Tensor]] = {site: [] for site in widths}
    time = hidden.shape[1]
    inputs: dict[str, Tensor] = {}
    for batches in _rounds(len(hidden), time, 4 * sum(widths.values())):
        first, last = batches[0].start, batches[-1].stop
        if not inputs:
            # The first round is the largest.
            inputs = {site: torch.empty((last - first) * time, width) for site, width in widths.items()}
        with batch_workers() as pool:
            rows = [(b.start - first) * time for b in batches]
            list(pool.map(partial(_step, layer, hidden, sites, inputs), batches, rows))
        # Sums in a fixed order over whole rounds: the same numbers each time, and products large enough for all cores.
        n_fit = max(0, min(last, last_fit) - first) * time
        for site, x in inputs.items():
            if n_fit:
                result.add(site, x[:n_fit].numpy())
            if last > last_fit:
                kept[site].append(x[n_fit : (last - first) * time].clone())
    return result.sums, {site: torch.cat(parts) for site, parts in kept.items() if parts}


def _finished_layers(inventory: ModelInventory, store: CalibrationStore, kinds: tuple[str, ...]) -> int:
    """Leading blocks of which nothing is missing in the store; `kinds` of files belong to each site."""
    for index in range(inventory.hyper.n_layer):
        sites = layer_sites(inventory, index).values()
        names = [f"input.{index}", *(f"{site}.{kind}" for site in sites for kind in kinds)]
        if not all(map(store.has, names)):
            return index
    return inventory.hyper.n_layer


@torch.no_grad()
def moments_pass(
    model: DecoderModel,
    tokens: npt.NDArray[np.int32],
    settings: CalibrationSettings,
    store: CalibrationStore,
    events: EventBus,
) -> None:
    """Fill `store` with moments of every site and the layer inputs of the Fisher sequences.

    tokens: int32 [n_sequences, sequence_tokens]. Finished layers are not computed again; where a file of one is gone, the
    pass starts before it.
    """
    inventory = model.inventory
    n_layer = inventory.hyper.n_layer
    held_out = settings.held_out_sequences
    n_tokens = np.float32((len(tokens) - held_out) * tokens.shape[1])
    fisher = (settings.fisher_sequences, min(settings.fisher_tokens, tokens.shape[1]))
    kinds = ("moments", "held_out") if held_out else ("moments",)
    finished = _finished_layers(inventory, store, kinds)
    if finished == n_layer and all(map(store.has, (f"input.{n_layer}", *(f"{HEAD_SITE}.{kind}" for kind in kinds)))):
        return
    first = next((n for n in range(finished, 0, -1) if store.has(f"progress.{n}")), 0)
    hidden = torch.from_numpy(store.load_float(f"progress.{first}")) if first else model.embed(tokens)
    with events.stage("moments", total=n_layer + 1, unit="layers") as stage:
        stage.advance(first)
        for index in range(first, n_layer):
            store.save_hidden(f"input.{index}", hidden[: fisher[0], : fisher[1]])
            sites = layer_sites(inventory, index)
            widths = {site: inventory.tensor(name).n_cols for name, site in sites.items()}
            sums, kept = _layer_moments(model.layer(index), hidden, sites, widths, held_out)
            if not bool(torch.isfinite(hidden).all()):
                raise CalibrationError(
                    f"block {index} of {inventory.path.name} gives values that are not finite on the calibration text",
                    hint="check the model with another runtime; it may be damaged",
                )
            for site, total in sums.items():
                store.save(f"{site}.moments", total / n_tokens)
            for site, inputs in kept.items():
                store.save_hidden(f"{site}.held_out", inputs)
            if (index + 1) % CHECKPOINT_LAYERS == 0 and index + 1 < n_layer:
                # float32: a resumed pass must give the very numbers of one that was not stopped.
                store.save(f"progress.{index + 1}", hidden.numpy())
                store.drop(f"progress.{index + 1 - CHECKPOINT_LAYERS}")
            stage.advance()
        store.save_hidden(f"input.{n_layer}", hidden[: fisher[0], : fisher[1]])
        head = MomentSums()
        for batches in _rounds(len(hidden) - held_out, hidden.shape[1], 4 * hidden.shape[2]):
            part = hidden[batches[0].start : batches[-1].stop]
            head.add(HEAD_SITE, model.final_norm(part).flatten(0, 1).numpy())
        store.save(f"{HEAD_SITE}.moments", head.sums[HEAD_SITE] / n_tokens)
        if held_out:
            store.save_hidden(f"{HEAD_SITE}.held_out", model.final_norm(hidden[-held_out:]).flatten(0, 1))
        for index in range(n_layer):
            store.drop(f"progress.{index}")
        stage.advance()
