"""The knapsack distilled: a small network learns from the zoo's tables what foreseen KL lacks beside the predicted, tensor by tensor.

It is the trained policy's first pass. The outline then is the knapsack's plan on corrected KL, and Soft Actor-Critic starts from there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ramp_edge.allocate.cases import ModelCase
from ramp_edge.allocate.episode import N_FEATURES
from ramp_edge.allocate.policy import centred
from ramp_edge.allocate.prices import foreseen_table

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class CorrectionSettings:
    """Sizes and rates; 0 passes leave what is foreseen as it is."""

    passes: int = 300
    """Over all models, one step each."""
    hidden: int = 32
    rate: float = 3e-3
    decay: float = 0.1
    dropout: float = 0.1
    blur: float = 0.1
    """Standard deviation of noise on the features: ten models have few tensors that are alike."""


class Correction(nn.Module):
    """Centred features [n_tensors, 11] -> ln of predicted over foreseen KL [n_tensors]."""

    def __init__(self, hidden: int, dropout: float) -> None:
        super().__init__()
        self.first, self.second, self.third = (
            nn.Linear(n_in, hidden) for n_in in (N_FEATURES, hidden, hidden)
        )  # fmt: skip
        self.last = nn.Linear(hidden, 1)
        self.dropout = dropout
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, features: Tensor) -> Tensor:
        h = F.silu(self.first(features))
        for layer in (self.second, self.third):
            h = F.silu(layer(F.dropout(h, self.dropout, self.training)))
        out: Tensor = self.last(h)
        return out.squeeze(-1)

    def of(self, case: ModelCase) -> Float64:
        """[n_tensors]"""
        with torch.no_grad():
            return np.asarray(
                self(torch.from_numpy(centred(case.features, case.n_weights))).double().numpy(), np.float64
            )


def missing_kl(case: ModelCase) -> Float64:
    """ln of predicted over foreseen KL [n_tensors], mean over types, centred by share of the weights: what a correction should say."""
    gap = np.nanmean(np.log(case.kl) - np.log(foreseen_table(case.features, case.n_weights, case.relative_kl)), axis=1)
    return np.asarray(gap - case.share @ gap, np.float64)


def teach(
    cases: Sequence[ModelCase], settings: CorrectionSettings, seed: int, seen: Sequence[Float32] | None = None
) -> Correction:
    """Regression over all tensors, each weighed by the root of its share of its model: large ones cost more, but there are few of them.

    `seen` are features [n_tensors, 11] of every case, where the network is to see others than the cases' own.
    """
    features_of = [case.features for case in cases] if seen is None else seen
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Correction(settings.hidden, settings.dropout)
        optimizer = torch.optim.AdamW(network.parameters(), lr=settings.rate, weight_decay=settings.decay)
        lessons = [
            tuple(torch.from_numpy(v).float() for v in (centred(features, c.n_weights), missing_kl(c), _weights(c)))
            for c, features in zip(cases, features_of, strict=True)
        ]
        network.train()
        for _ in range(settings.passes):
            for at in torch.randperm(len(lessons)).tolist():
                features, wanted, weights = lessons[at]
                found = network(features + settings.blur * torch.randn_like(features))
                loss = (weights * (found - wanted).square()).sum()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        network.eval()
    return network


def corrected(case: ModelCase, network: Correction) -> ModelCase:
    """The case as the policy sees it after its first pass."""
    return replace(case, relative_kl=case.relative_kl * np.exp(network.of(case))[:, None])


def _weights(case: ModelCase) -> Float64:
    root = np.sqrt(case.share)
    return np.asarray(root / root.sum(), np.float64)
