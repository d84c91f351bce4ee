"""The knapsack's answers for every price of a byte, ready to be looked up in any state of an allocation.

For a price, every tensor takes argmin KL + price * bytes on its own. So for a ladder of prices the choices, and the bytes of every rest of the
model, are known beforehand; with some bytes left at some tensor, the answer is that of the lowest price whose rest still fits.

A price is coarse: what all tensors would take at it seldom comes to just the bytes left. So the plan of the exact knapsack on the same table is kept as
well, and answers as long as the decisions so far have left it the bytes that it counted on.

The policy sees such an answer as part of its state (`outline`): not of the true table, which it does not know, but of what forward passes foresee,
corrected by its first pass where it is a trained one. The true table's answers are the teacher of its training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ramp_edge.allocate.cases import Task
from ramp_edge.allocate.knapsack import solve
from ramp_edge.records import NOISE_SCALE

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
N_PRICES = 96
_MARGIN = 4.0
"""In ln, beyond the prices at which the first and the last tensor moves."""
_ON_PLAN = 0.001
"""Of the budget: by how much more than its rest a plan may find left and still answer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PriceLadder:
    """Choices of one task by rising price."""

    log_prices: Float64
    """[n_prices]"""
    choice: Int64
    """[n_prices, n_tensors]: columns"""
    rest: Float64
    """[n_prices, n_tensors + 1]: bytes of the choices from each tensor on"""
    rest_kl: Float64
    """[n_prices, n_tensors + 1]: their KL"""


def price_ladder(kl: Float64, task: Task, per_second: float = 0.0) -> PriceLadder:
    """The ladder of a task for some table [n_tensors, n_types], positive where legal; seconds may have a price too."""
    kl = np.where(task.legal, np.maximum(kl, 1e-300), np.inf)
    log_per_byte = np.log(kl[task.legal]) - np.log(task.size_bytes[task.legal])
    prices = np.linspace(log_per_byte.min() - _MARGIN, log_per_byte.max() + _MARGIN, N_PRICES)
    cost = kl + per_second * task.seconds
    choice = np.stack([(cost + np.exp(p) * task.size_bytes).argmin(axis=1) for p in prices]).astype(np.int64)
    rows = np.arange(len(task.names))[None, :]
    return PriceLadder(
        log_prices=prices,
        choice=choice,
        rest=tail_sums(task.size_bytes[rows, choice].astype(np.float64)),
        rest_kl=tail_sums(kl[rows, choice]),
    )


def tail_sums(values: Float64) -> Float64:
    """[n, m] -> [n, m + 1]: sums from each column on."""
    tail = np.cumsum(values[:, ::-1], axis=1)[:, ::-1]
    return np.concatenate([tail, np.zeros((len(values), 1))], axis=1)


def foreseen_kl(task: Task) -> Float64:
    """KL [n_tensors, n_types] as forward passes foresee it, up to a common factor."""
    return foreseen_table(task.features, task.n_weights, task.relative_kl)


def foreseen_table(features: npt.NDArray[np.float32], n_weights: Int64, relative_kl: Float64) -> Float64:
    """[n_tensors, n_types]: 4-bit noise (the first feature), times each type's error beside it."""
    per_weight = np.exp(features[:, 0].astype(np.float64) / NOISE_SCALE)
    return np.asarray((per_weight * n_weights)[:, None] * relative_kl, np.float64)


def exact_plan(kl: Float64, task: Task) -> Int64:
    """Columns [n_tensors] of the knapsack on some table [n_tensors, n_types], finite where legal; the reserve plan's where it finds none."""
    plan = solve(task.items_of(kl), task.max_bytes, task.max_seconds)
    return task.reserve if plan is None else task.columns_of(plan)


class StackedLadders:
    """Ladders of several tasks and their exact plans, padded, for look-ups in many episodes at once."""

    def __init__(self, tasks: Sequence[Task], ladders: Sequence[PriceLadder], plans: Sequence[Int64]) -> None:
        most = max(ladder.choice.shape[1] for ladder in ladders)
        shape = (len(ladders), N_PRICES)
        self._choice = np.zeros((*shape, most), np.int16)
        self._rest, self._rest_kl = np.zeros((2, *shape, most + 1))
        self._prices = np.stack([ladder.log_prices for ladder in ladders])
        for row, ladder in enumerate(ladders):
            n = ladder.choice.shape[1]
            self._choice[row, :, :n], self._rest[row, :, : n + 1] = ladder.choice, ladder.rest
            self._rest_kl[row, :, : n + 1] = ladder.rest_kl
        self._plan, self._plan_rest = np.zeros((len(tasks), most), np.int64), np.zeros((len(tasks), most + 1))
        for row, (task, columns) in enumerate(zip(tasks, plans, strict=True)):
            n = len(columns)
            sizes = task.size_bytes[np.arange(n), columns].astype(np.float64)
            self._plan[row, :n], self._plan_rest[row, : n + 1] = columns, tail_sums(sizes[None, :])[0]
        budgets = np.array([task.max_bytes for task in tasks], np.float64)
        self._plan_room = budgets - self._plan_rest[:, 0] + _ON_PLAN * budgets

    def best_kl(self, rows: Int64, at: int, left_bytes: Float64) -> Float64:
        """KL [n] of the best rest of each model from tensor `at` on with `left_bytes` [n]: between two prices, a line.

        What no price affords costs as the smallest plan does.
        """
        rest, kl = self._rest[rows, :, at], self._rest_kl[rows, :, at]
        fits = rest <= left_bytes[:, None]
        high = np.where(fits.any(axis=1), fits.argmax(axis=1), N_PRICES - 1)
        low = np.maximum(high - 1, 0)
        each = np.arange(len(rows))
        more, less = rest[each, low], rest[each, high]
        share = np.where(more > less, (left_bytes - less) / np.maximum(more - less, 1.0), 0.0).clip(0.0, 1.0)
        return np.asarray(kl[each, high] + share * (kl[each, low] - kl[each, high]), np.float64)

    def look_up(self, rows: Int64, at: int, left_bytes: Float64) -> tuple[Int64, Float64]:
        """(columns, ln of the price) [n] for `left_bytes` [n] at tensor `at`: of the exact plan where what is left is what it counted on, else
        of the lowest price that fits, the smallest plan's where nothing does."""
        fits = self._rest[rows, :, at] <= left_bytes[:, None]
        place = np.where(fits.any(axis=1), fits.argmax(axis=1), N_PRICES - 1)
        spare = left_bytes - self._plan_rest[rows, at]
        on_plan = (spare >= 0.0) & (spare <= self._plan_room[rows])
        columns = np.where(on_plan, self._plan[rows, at], self._choice[rows, place, at])
        return columns.astype(np.int64), self._prices[rows, place]


def largest_allowed_below(wanted: Int64, allowed: npt.NDArray[np.bool_]) -> Int64:
    """`wanted` [n] where it is allowed; else the next smaller allowed column, else the first. Types stand in order of bits."""
    ok = allowed[np.arange(len(wanted)), wanted]
    below = allowed & (np.arange(allowed.shape[1])[None, :] <= wanted[:, None])
    last_below = below.shape[1] - 1 - below[:, ::-1].argmax(axis=1)
    return np.asarray(np.where(ok, wanted, np.where(below.any(axis=1), last_below, allowed.argmax(axis=1))), np.int64)
