"""What the policy learns on and decides about: one model's tensors in execution order, as arrays, and the limits of one episode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ramp_edge.allocate.knapsack import Item, Plan, solve
from ramp_edge.beside import written_beside
from ramp_edge.codec.types import QuantType

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
_VERSION = 2
_SECONDS_PRICES = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 16.0)
"""What the share of the seconds may count beside the share of the bytes, in the search for a reserve plan."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelCase:
    """One model, every type that anything may ask of it. Parallel arrays over tensors (rows) and types (columns)."""

    name: str
    family: str
    """llama, qwen3, gemma3: what leave-one-family-out leaves out."""
    names: tuple[str, ...]
    """Quantizable tensors in execution order."""
    features: Float32
    """[n_tensors, 11]"""
    n_rows: Int64
    n_cols: Int64
    read_per_token: npt.NDArray[np.bool_]
    """False where a decoded token does not read the tensor: an embedding that is not the output matrix too."""
    types: tuple[QuantType, ...]
    relative_kl: Float64
    """[n_tensors, n_types]: of `ModelFeatures`, NaN where a type is not legal."""
    kl: Float64
    """[n_tensors, n_types] predicted KL; NaN where a type is not legal, or nothing is known."""

    @property
    def n_weights(self) -> Int64:
        """[n_tensors]"""
        return self.n_rows * self.n_cols

    @property
    def share(self) -> Float64:
        """Of the model's weights [n_tensors]."""
        return np.asarray(self.n_weights / self.n_weights.sum(), np.float64)

    def size_bytes(self) -> Int64:
        """[n_tensors, n_types]; 0 where the type's blocks do not divide the rows."""
        out = np.zeros((len(self.names), len(self.types)), np.int64)
        for column, quant_type in enumerate(self.types):
            fits = self.n_cols % quant_type.block_size == 0
            out[fits, column] = (self.n_cols // quant_type.block_size * quant_type.block_bytes * self.n_rows)[fits]
        return out

    def save(self, path: Path) -> None:
        """One npz; it appears whole or not at all."""
        with written_beside(path) as partial, partial.open("wb") as stream:
            np.savez_compressed(
                stream, version=_VERSION, name=self.name, family=self.family, names=np.array(self.names), features=self.features,
                n_rows=self.n_rows, n_cols=self.n_cols, read_per_token=self.read_per_token,
                types=np.array([t.name for t in self.types]), relative_kl=self.relative_kl, kl=self.kl,
            )  # fmt: skip


def load_case(path: Path) -> ModelCase:
    """The case of `ModelCase.save`. Raises ValueError for a file of another version."""
    with np.load(path, allow_pickle=False) as data:
        if int(data["version"]) != _VERSION:
            raise ValueError(f"{path} is a case of version {int(data['version'])}, not {_VERSION}")
        return ModelCase(
            name=str(data["name"]),
            family=str(data["family"]),
            names=tuple(str(n) for n in data["names"]),
            features=data["features"].astype(np.float32),
            n_rows=data["n_rows"].astype(np.int64),
            n_cols=data["n_cols"].astype(np.int64),
            read_per_token=data["read_per_token"].astype(np.bool_),
            types=tuple(QuantType[str(t)] for t in data["types"]),
            relative_kl=data["relative_kl"].astype(np.float64),
            kl=data["kl"].astype(np.float64),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """One episode's question: a model, the types that may be used, and the limits."""

    name: str
    names: tuple[str, ...]
    features: Float32
    n_weights: Int64
    types: tuple[QuantType, ...]
    legal: npt.NDArray[np.bool_]
    """[n_tensors, n_types]"""
    size_bytes: Int64
    seconds: Float64
    """[n_tensors, n_types] per decoded token"""
    relative_kl: Float64
    """[n_tensors, n_types], of `ModelFeatures`; finite where legal."""
    kl: Float64 | None
    """[n_tensors, n_types], finite where legal; None where nothing was predicted (the policy needs none)."""
    max_bytes: int
    max_seconds: float
    reserve: Int64
    """[n_tensors]: the type of each tensor in a plan that keeps both limits. Its share is kept free for what is still to come."""

    def items_of(self, kl: Float64) -> list[Item]:
        """For the knapsack on any table [n_tensors, n_types], finite where legal."""
        return [
            Item(
                kl=tuple(float(v) for v in kl[row, columns]),
                size_bytes=tuple(int(v) for v in self.size_bytes[row, columns]),
                seconds=tuple(float(v) for v in self.seconds[row, columns]),
            )
            for row, columns in enumerate(np.flatnonzero(legal) for legal in self.legal)
        ]

    def columns_of(self, plan: Plan) -> Int64:
        """A knapsack plan's choices as columns of `types`."""
        pairs = zip(plan.choice, self.legal, strict=True)
        return np.array([np.flatnonzero(legal)[choice] for choice, legal in pairs], np.int64)

    def total(self, values: npt.NDArray[np.generic], columns: Int64) -> float:
        """Sum of values [n_tensors, n_types] over a plan."""
        return float(values[np.arange(len(columns)), columns].sum())


def smallest_columns(size_bytes: Int64, legal: npt.NDArray[np.bool_]) -> Int64:
    """The smallest legal type of each tensor."""
    return np.asarray(np.where(legal, size_bytes, np.iinfo(np.int64).max).argmin(axis=1), np.int64)


def reserve_plan(
    size_bytes: Int64, seconds: Float64, legal: npt.NDArray[np.bool_], max_bytes: int, max_seconds: float
) -> Int64 | None:
    """Columns [n_tensors] of a plan within both limits that leaves much of either; None where there is none.

    Under a limit on seconds the smallest types alone would not do: they may be the slowest, and what they take is kept free from all before them.
    """
    smallest = smallest_columns(size_bytes, legal)
    rows = np.arange(len(legal))
    if size_bytes[rows, smallest].sum() > max_bytes:
        return None
    if not np.isfinite(max_seconds):
        return smallest
    best: Int64 | None = None
    least = 1.0
    for price in _SECONDS_PRICES:
        cost = size_bytes / max(max_bytes, 1) + price * seconds / max(max_seconds, 1e-30)
        columns = np.where(legal, cost, np.inf).argmin(axis=1)
        taken = max(
            size_bytes[rows, columns].sum() / max(max_bytes, 1), seconds[rows, columns].sum() / max(max_seconds, 1e-30)
        )
        if taken <= least:
            best, least = columns.astype(np.int64), taken
    if best is not None:
        return best
    items = [
        Item(
            # Bytes stand for KL: the plan keeps the seconds with as few bytes as it can.
            kl=tuple(float(v) for v in size_bytes[row, columns]),
            size_bytes=tuple(int(v) for v in size_bytes[row, columns]),
            seconds=tuple(float(v) for v in seconds[row, columns]),
        )
        for row, columns in enumerate(np.flatnonzero(flags) for flags in legal)
    ]
    plan = solve(items, max_bytes, max_seconds)
    if plan is None:
        return None
    return np.array([np.flatnonzero(legal[row])[choice] for row, choice in enumerate(plan.choice)], np.int64)


def task_of(
    case: ModelCase,
    max_bytes: int,
    *,
    types: Sequence[QuantType] | None = None,
    seconds_per_byte: Sequence[float] | None = None,
    max_seconds: float = float("inf"),
) -> Task | None:
    """A question about a case with a table; `types` restricts it. None where no plan keeps the limits.

    seconds_per_byte is parallel to the case's types; without it every byte costs the same time.
    """
    legal = np.isfinite(case.kl)
    if types is not None:
        legal &= np.array([t in types for t in case.types])[None, :]
    if not legal.any(axis=1).all():
        return None
    size = case.size_bytes()
    rates = np.ones(len(case.types)) if seconds_per_byte is None else np.asarray(seconds_per_byte, np.float64)
    seconds = size * rates[None, :] * case.read_per_token[:, None]
    reserve = reserve_plan(size, seconds, legal, max_bytes, max_seconds)
    if reserve is None:
        return None
    return Task(
        name=case.name,
        names=case.names,
        features=case.features,
        n_weights=case.n_weights,
        types=case.types,
        legal=legal,
        size_bytes=size,
        seconds=seconds,
        relative_kl=case.relative_kl,
        kl=case.kl,
        max_bytes=max_bytes,
        max_seconds=max_seconds,
        reserve=reserve,
    )
