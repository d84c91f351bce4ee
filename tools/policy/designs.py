"""Other designs than one step a tensor by a small network: coarser steps, and a network in which tensors see each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from policy.distilled import centred_columns, ratios_with, role, roles_of
from ramp_edge.allocate.cases import ModelCase, Task
from ramp_edge.allocate.knapsack import Item, solve
from ramp_edge.allocate.prices import foreseen_kl
from ramp_edge.allocate.reference import reference_of
from ramp_edge.train.correction import missing_kl
from ramp_edge.train.run import evaluation_tasks

Float64 = npt.NDArray[np.float64]
PASSES = (30, 300)
"""Over the models learned from: stopped early, and long."""
SEEDS = 3
_WIDTH, _HEADS, _LAYERS, _DROPOUT, _RATE, _DECAY, _BLUR = 32, 4, 2, 0.1, 3e-3, 0.1, 0.1


def _block(name: str) -> str:
    return name.split(".")[1] if name.startswith("blk.") else name


def _half(name: str) -> str:
    return f"{_block(name)} {'attn' if '.attn' in name else 'ffn'}" if name.startswith("blk.") else name


GROUPINGS: dict[str, Callable[[str], str]] = {
    "one type a block": _block,
    "one type each for a block's attention and its feed-forward": _half,
    "one type a role, the same in all blocks": role,
}


def coarse(cases: Sequence[ModelCase]) -> list[dict[str, Any]]:
    """KL over the knapsack's of the best plans with one type for a whole group of tensors: by the true table, which no policy of such steps
    can beat, and by what is foreseen. None where no type is legal in a whole group, or none is small enough."""
    out = []
    for label, group in GROUPINGS.items():
        found: dict[str, list[float | None]] = {"true": [], "foreseen": []}
        for task in evaluation_tasks(cases):
            assert task.kl is not None
            best = reference_of(task).kl
            for key, table in (("true", task.kl), ("foreseen", foreseen_kl(task))):
                plan = _grouped_plan(task, table, [group(name) for name in task.names])
                found[key].append(None if plan is None else task.total(task.kl, plan) / best)
        out.append({"design": label, **found})
    return out


def _grouped_plan(task: Task, table: Float64, groups: Sequence[str]) -> npt.NDArray[np.int64] | None:
    """Columns [n_tensors] of the knapsack over groups; None where it has no plan."""
    members = [np.array([g == group for g in groups]) for group in dict.fromkeys(groups)]
    common = [np.flatnonzero(task.legal[of].all(axis=0)) for of in members]
    if not all(len(columns) for columns in common):
        return None
    items = [
        Item(
            kl=tuple(float(v) for v in table[of][:, columns].sum(axis=0)),
            size_bytes=tuple(int(v) for v in task.size_bytes[of][:, columns].sum(axis=0)),
            seconds=tuple(float(v) for v in task.seconds[of][:, columns].sum(axis=0)),
        )
        for of, columns in zip(members, common, strict=True)
    ]
    plan = solve(items, task.max_bytes)
    if plan is None:
        return None
    out = np.zeros(len(groups), np.int64)
    for of, columns, choice in zip(members, common, plan.choice, strict=True):
        out[of] = columns[choice]
    return out


class _Correction(nn.Module):
    """Columns of all tensors of a model [n, width] -> what foreseen KL lacks, ln [n]. Without `attention` each tensor is seen alone."""

    def __init__(self, width: int, *, attention: bool) -> None:
        super().__init__()
        self.first = nn.Linear(width, _WIDTH)
        if attention:
            layer = nn.TransformerEncoderLayer(
                _WIDTH, _HEADS, 2 * _WIDTH, _DROPOUT, nn.functional.gelu, batch_first=True, norm_first=True
            )
            self.body: nn.Module = nn.TransformerEncoder(layer, _LAYERS, enable_nested_tensor=False)
        else:
            parts = (nn.GELU(), nn.Dropout(_DROPOUT), nn.Linear(_WIDTH, _WIDTH))
            self.body = nn.Sequential(*(part for _ in range(_LAYERS) for part in parts), nn.GELU())
        self.last = nn.Linear(_WIDTH, 1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, columns: Tensor) -> Tensor:
        out: Tensor = self.last(self.body(self.first(columns)[None]))
        return out.reshape(-1)


def distilled_by_networks(cases: Sequence[ModelCase]) -> list[dict[str, Any]]:
    """Ratios to the knapsack on the families learned from and on the one left out, over all families and seeds."""
    out = []
    for attention in (False, True):
        parts: dict[int, dict[str, list[float]]] = {n: {"learned": [], "left_out": []} for n in PASSES}
        for family in sorted({c.family for c in cases}):
            for seed in range(SEEDS):
                for passes, corrected in _taught(cases, family, seed, attention=attention):
                    for case, correction in zip(cases, corrected, strict=True):
                        key = "left_out" if case.family == family else "learned"
                        parts[passes][key] += ratios_with(case, correction)
        name = "attention over all tensors of the model" if attention else "each tensor alone"
        out += [{"design": f"{name}, {passes} passes", **found} for passes, found in parts.items()]
    return out


def _taught(
    cases: Sequence[ModelCase], family: str, seed: int, *, attention: bool
) -> Iterator[tuple[int, list[Float64]]]:
    """Corrections of all cases after each of PASSES, taught by all families but one."""
    roles = roles_of(cases)
    columns = {c.name: torch.from_numpy(centred_columns(c, roles)).float() for c in cases}
    wanted = {c.name: torch.from_numpy(missing_kl(c)).float() for c in cases}
    share = {c.name: torch.from_numpy(c.share).float() for c in cases}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _Correction(next(iter(columns.values())).shape[1], attention=attention)
        optimizer = torch.optim.AdamW(network.parameters(), lr=_RATE, weight_decay=_DECAY)
        taught = [c.name for c in cases if c.family != family]
        for done in range(1, max(PASSES) + 1):
            network.train()
            for at in torch.randperm(len(taught)).tolist():
                name = taught[at]
                seen = columns[name] + _BLUR * torch.randn_like(columns[name])
                loss = (share[name] * (network(seen) - wanted[name]).square()).sum()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            if done in PASSES:
                network.eval()
                with torch.no_grad():
                    yield done, [network(columns[c.name]).double().numpy() for c in cases]
