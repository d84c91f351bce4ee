"""Pass 2: Fisher samples. Labels are drawn from the model itself, so squared gradients estimate the Fisher matrix.

For a weight error E of one tensor, KL per token ~ 1/2 mean_s <E, G_s>^2 / T, with G_s = dL/dW the gradient of sequence
s's sampled log-likelihood (T tokens). Codec errors of different rows are independent, so sum_r (E_r . G_s,r)^2 estimates the
same with far less noise, and a subset of rows is enough. The same gradients say what rounded activations cost
(`activations.py`). The output head needs no sampling: with probabilities p and hidden
states h its part is 1/2 mean_t sum_r p_tr (1 - p_tr) (E_r . h_t)^2.

The pass walks from the last layer to the first and recomputes each from its stored input: one layer in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from ramp_edge.calibrate.activations import activation_kl, mean_per_token
from ramp_edge.calibrate.decoder import DecoderModel, Layer
from ramp_edge.calibrate.moments import BATCH_TOKENS
from ramp_edge.calibrate.store import EMBEDDING_SITE, HEAD_SITE, TIED_SITE, CalibrationSettings, CalibrationStore
from ramp_edge.calibrate.workers import batch_workers
from ramp_edge.events import EventBus
from ramp_edge.records import TensorInfo

Int64 = npt.NDArray[np.int64]
HEAD_ROWS = 4096
"""Vocabulary rows looked at: the most probable ones."""
HEAD_TOKENS = 1024
"""Positions whose probabilities are kept for the head's own estimate."""
_LOGIT_ELEMENTS = 32_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class FisherSamples:
    """Gradients of some rows of one linear layer."""

    name: str
    rows: Int64
    gradients: Tensor
    """float32 [n_sequences, n_rows_chosen, n_cols]"""
    row_gradient_sq: Tensor
    """float32 [n_rows]: sum over sequences and tokens of the squared output gradient, for all rows."""
    tokens_per_sequence: int
    activation_kl: dict[int, float]
    """Activations sharing a scale -> KL per token of rounding this layer's input so."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadSamples:
    """What an error in some rows of the output matrix does to the logits."""

    name: str
    rows: Int64
    hidden: Tensor
    """float32 [n_tokens, n_embd]: the head's input."""
    variance: Tensor
    """float32 [n_tokens, n_rows_chosen]: p (1 - p)."""
    coverage: float
    """Share of all rows' summed p (1 - p) that the chosen rows hold."""
    total_variance: float
    """Sum of p (1 - p) over all rows, mean over tokens: 1 - sum p^2."""
    activation_kl: dict[int, float]
    """As of a linear layer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddingSamples:
    """Gradients at the embedding's output."""

    name: str
    tokens: Int64
    """[n_sequences, tokens_per_sequence]"""
    gradients: Tensor
    """float32 [n_sequences, tokens_per_sequence, n_embd], embedding scale included."""


Samples = FisherSamples | HeadSamples | EmbeddingSamples
RowChoice = Callable[[TensorInfo], Int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class _HeadResult:
    samples: HeadSamples
    gradient: Tensor
    """d(log-likelihood)/d(last hidden state), [n_sequences, time, n_embd]"""


def _logits(hidden: Tensor, weight: Tensor) -> Tensor:
    """float32 [n_tokens, vocab]"""
    return F.linear(hidden.to(weight.dtype), weight).float()


def _sample_labels(p: Tensor, uniform: Tensor) -> Tensor:
    """One column per row of [n, vocab] probabilities, by inverting the cumulative sum at `uniform` [n] in [0, 1)."""
    cumulative = p.cumsum(-1)
    place = (uniform * cumulative[:, -1]).unsqueeze(1)
    return torch.searchsorted(cumulative, place, right=True).squeeze(1).clamp_(max=p.shape[1] - 1)


@torch.no_grad()
def _head_pass(model: DecoderModel, hidden: Tensor, seed: int, events: EventBus) -> _HeadResult:
    """Sample labels from the softmax and send their gradient back through head and final norm."""
    weight = model.head()
    vocab = weight.shape[0]
    n_embd = hidden.shape[-1]
    normed = model.final_norm(hidden).reshape(-1, n_embd)
    uniform = torch.rand(len(normed), generator=torch.Generator().manual_seed(seed))
    chunk = max(16, _LOGIT_ELEMENTS // vocab)
    picked = torch.arange(0, len(normed), -(-len(normed) // HEAD_TOKENS))
    mean_variance = torch.zeros(vocab)
    grad_normed = torch.empty_like(normed)
    with events.stage("fisher head", total=len(normed), unit="tokens") as stage:
        for start in range(0, len(normed), chunk):
            h = normed[start : start + chunk]
            p = torch.softmax(_logits(h, weight), dim=-1)
            label = _sample_labels(p, uniform[start : start + chunk])
            # d(log p_label)/dh = W_label - sum_v p_v W_v
            grad_normed[start : start + chunk] = weight[label].float() - (p.to(weight.dtype) @ weight).float()
            stage.advance(len(h))
        for start in range(0, len(picked), chunk):
            p = torch.softmax(_logits(normed[picked[start : start + chunk]], weight), dim=-1)
            mean_variance += p.sum(0) - p.square_().sum(0)
        rows = torch.topk(mean_variance, min(HEAD_ROWS, vocab)).indices.sort().values
        variance = torch.empty(len(picked), len(rows))
        for start in range(0, len(picked), chunk):
            p = torch.softmax(_logits(normed[picked[start : start + chunk]], weight), dim=-1)[:, rows]
            variance[start : start + chunk] = p - p * p
    leaf = hidden.clone().requires_grad_()
    with torch.enable_grad():
        out = model.final_norm(leaf)
    (gradient,) = torch.autograd.grad(out, leaf, grad_normed.view_as(hidden))
    samples = HeadSamples(
        name=model.head_name,
        rows=rows.numpy(),
        hidden=normed[picked],
        variance=variance,
        coverage=float(mean_variance[rows].double().sum() / mean_variance.double().sum()),
        total_variance=float(mean_variance.double().sum() / len(picked)),
        activation_kl=mean_per_token([activation_kl(normed, grad_normed)], len(normed)),
    )
    return _HeadResult(samples=samples, gradient=gradient)


class _BatchTaps:
    """Input and output gradient of each chosen linear layer, for one batch."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset(names)
        self.inputs: dict[str, Tensor] = {}
        self.gradients: dict[str, Tensor] = {}

    def tap(self, name: str, x: Tensor, y: Tensor) -> None:
        if name in self._names:
            self.inputs[name] = x.detach()
            y.register_hook(lambda grad: self.gradients.__setitem__(name, grad))  # type: ignore[no-untyped-call]


@dataclass(frozen=True, kw_only=True, slots=True)
class _LayerSums:
    """Samples of one layer while its batches come in; a batch writes its own sequences only."""

    rows: dict[str, Int64]
    gradients: dict[str, Tensor]
    """[n_sequences, n_rows_chosen, n_cols] by tensor name"""


@dataclass(frozen=True, kw_only=True, slots=True)
class _BatchResult:
    """What one batch gives of each linear layer."""

    squares: dict[str, Tensor]
    """Squared output gradients [n_rows], summed over tokens."""
    activation: dict[str, dict[int, float]]


def _backward(layer: Layer, inputs: Tensor, gradient: Tensor, batch: slice, sums: _LayerSums) -> _BatchResult:
    """One batch back through one layer: `gradient` is replaced in place."""
    taps = _BatchTaps(sums.rows)
    with torch.enable_grad():
        leaf = inputs[batch].requires_grad_()
        out = layer.forward(leaf, taps.tap)
        (back,) = torch.autograd.grad(out, leaf, gradient[batch])
    squares, activation = {}, {}
    for name, grad in taps.gradients.items():
        squares[name] = grad.flatten(0, 1).square().sum(0)
        weight = layer.weight(name)
        activation[name] = activation_kl(taps.inputs[name], grad.to(weight.dtype) @ weight)
        chosen = grad[..., torch.from_numpy(sums.rows[name])]  # [batch, time, rows]
        torch.bmm(chosen.transpose(1, 2), taps.inputs[name].float(), out=sums.gradients[name][batch])
    # Last: without a post-norm, ffn_down's output gradient is this very part of `gradient`.
    gradient[batch] = back
    return _BatchResult(squares=squares, activation=activation)


def fisher_pass(
    model: DecoderModel,
    tokens: npt.NDArray[np.int32],
    settings: CalibrationSettings,
    store: CalibrationStore,
    rows_for: RowChoice,
    consume: Callable[[Samples], None],
    events: EventBus,
) -> None:
    """Hand the samples of every quantizable tensor to `consume`, from the head down to the embedding; a tied head comes last as well.

    Needs `moments_pass` on the same store. `rows_for` chooses the rows of each linear layer.
    """
    inventory = model.inventory
    n_layer = inventory.hyper.n_layer
    hidden = store.load_hidden(f"input.{n_layer}")
    n_seq, time, _ = hidden.shape
    head = _head_pass(model, hidden, settings.seed + 1, events)
    store.save_activation_kl(model.head_name, head.samples.activation_kl)
    store.save(f"{HEAD_SITE}.variance", np.array([head.samples.total_variance], np.float32))
    if not inventory.tied_embedding:
        consume(head.samples)
    gradient = head.gradient
    # Small enough that every core gets a batch.
    size = max(1, min(BATCH_TOKENS // time, -(-n_seq // torch.get_num_threads())))
    batches = [slice(at, min(at + size, n_seq)) for at in range(0, n_seq, size)]
    with events.stage("fisher", total=n_layer, unit="layers") as stage:
        for index in reversed(range(n_layer)):
            layer = model.layer(index)
            inputs = store.load_hidden(f"input.{index}")
            infos = {t.name: t for t in inventory.quantizable if t.layer == index}
            rows = {name: rows_for(info) for name, info in infos.items()}
            sums = _LayerSums(
                rows=rows, gradients={n: torch.empty(n_seq, len(r), infos[n].n_cols) for n, r in rows.items()}
            )
            step = partial(_backward, layer, inputs, gradient, sums=sums)
            with batch_workers() as pool:
                results = list(pool.map(step, batches))
            for name, chosen in rows.items():
                squares = torch.stack([part.squares[name] for part in results]).sum(0)
                activation = mean_per_token([part.activation[name] for part in results], n_seq * time)
                store.save(f"{name}.gradient_sq", squares.numpy())
                store.save_activation_kl(name, activation)
                consume(
                    FisherSamples(
                        name=name,
                        rows=chosen,
                        gradients=sums.gradients.pop(name),
                        row_gradient_sq=squares,
                        tokens_per_sequence=time,
                        activation_kl=activation,
                    )
                )
            stage.advance()
    scaled = gradient * model.embedding_scale
    flat = scaled.reshape(-1, scaled.shape[-1])
    store.save(f"{EMBEDDING_SITE}.moments", (flat.T @ flat / len(flat)).numpy())
    if inventory.tied_embedding:
        as_output = np.float32(head.samples.total_variance) * store.moments(HEAD_SITE)
        store.save(f"{TIED_SITE}.moments", as_output + store.moments(EMBEDDING_SITE))
        consume(head.samples)
    consume(EmbeddingSamples(name="token_embd.weight", tokens=tokens[:n_seq, :time].astype(np.int64), gradients=scaled))
