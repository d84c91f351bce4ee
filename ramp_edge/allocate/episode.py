"""Episodes in numpy: many allocations decided tensor by tensor, side by side.

The one implementation behind training (hundreds of episodes at once), the Gymnasium environment (one) and a build (one, without
any of the training packages). A step is one tensor in execution order. What the reserve plan needs for the tensors still to come is always kept free, so
that whatever is asked for, every episode ends within its limits: no repair hides behind the policy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ramp_edge.allocate.cases import Task
from ramp_edge.allocate.halo import BITS_HIGH, BITS_LOW, bits_of, nearest, preference
from ramp_edge.allocate.prices import (
    PriceLadder,
    StackedLadders,
    exact_plan,
    foreseen_kl,
    largest_allowed_below,
    price_ladder,
    tail_sums,
)
from ramp_edge.records import NOISE_SCALE

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
N_FEATURES = 11
STATE_NAMES = (
    "budget", "left", "so_far", "lowest", "highest", "rest_lowest", "rest_highest", "own_share", "rest_share", "seconds_left",
    "rest_noise", "rest_feedback", "outline", "margin",
)  # fmt: skip
"""What the state holds beside the features. Bits per weight: of the whole budget, of what is left of it, of what was spent, least and most that
this tensor can have now, least and most of all that is still to come (the range still open). Shares: of this tensor in what is to come, of
what is to come in the model. seconds_left: of the limit, over what the rest takes at the reserve's types. Means over what is to come, by size: the
first two features, so that the tensor at hand can be seen beside its successors. outline: the bits that a knapsack on what the features foresee would
give this tensor now; margin: half the binary logarithm of the foreseen KL per weight at 4.5 bits over the price of a byte there, the same without steps."""
N_STATE = N_FEATURES + len(STATE_NAMES)
_BITS_MIDDLE, _BITS_SPAN = (BITS_LOW + BITS_HIGH) / 2, (BITS_HIGH - BITS_LOW) / 2
_LN_8_OVER_BITS = float(np.log(8 / 4.5))
_MOST_SECONDS = 4.0
_TOLERANCE = 1e-9
"""Of the seconds limit: sums of floats in another order differ in the last digits."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskTable:
    """Tasks padded to one shape and stacked: [n_tasks, n_tensors, n_types]. All share one list of types."""

    tasks: tuple[Task, ...]
    length: Int64
    features: Float32
    weights: Float64
    legal: npt.NDArray[np.bool_]
    kl: Float64
    """0 where nothing is predicted"""
    size: Float64
    seconds: Float64
    reserve_size: Float64
    """[n_tasks, n_tensors + 1]: bytes of the reserve plan from each tensor on."""
    reserve_seconds: Float64
    rest_weights: Float64
    rest_low: Float64
    """[n_tasks, n_tensors + 1]: bytes of the smallest legal types from each tensor on."""
    rest_high: Float64
    rest_means: Float64
    """[n_tasks, n_tensors + 1, 2]"""
    type_bits: Float64
    tie_break: Float64
    """[n_tasks, n_tensors, n_types]"""
    max_bytes: Float64
    max_seconds: Float64
    ladders: StackedLadders
    log_kl_per_byte: Float64
    """[n_tasks, n_tensors]: ln of the foreseen KL at 4.5 bits over the bytes."""


def stack(tasks: Sequence[Task]) -> TaskTable:
    """Tasks of one list of types, ready for episodes."""
    types = tasks[0].types
    assert all(task.types == types for task in tasks), "tasks of one table share their types"
    n, most = len(tasks), max(len(t.names) for t in tasks)
    shape = (n, most, len(types))
    features, weights = np.zeros((n, most, N_FEATURES), np.float32), np.zeros((n, most))
    legal = np.zeros(shape, np.bool_)
    size, seconds, kl = np.zeros((3, *shape))
    reserved, reserved_s = np.zeros((n, most)), np.zeros((n, most))
    foreseen = np.zeros((n, most))
    tie_break = np.zeros(shape)
    for row, task in enumerate(tasks):
        m = len(task.names)
        foreseen[row, :m] = task.features[:, 0] / NOISE_SCALE + _LN_8_OVER_BITS
        features[row, :m], weights[row, :m], legal[row, :m] = task.features, task.n_weights, task.legal
        size[row, :m], seconds[row, :m] = task.size_bytes, task.seconds
        if task.kl is not None:
            kl[row, :m] = np.where(task.legal, task.kl, 0.0)
        reserved[row, :m] = task.size_bytes[np.arange(m), task.reserve]
        tie_break[row, :m] = preference(task.relative_kl)
        reserved_s[row, :m] = task.seconds[np.arange(m), task.reserve]
    low = np.where(legal, size, np.inf).min(axis=2)
    high = np.where(legal, size, 0.0).max(axis=2)
    rest = tail_sums(weights)
    sums = np.stack([tail_sums(weights * features[..., column]) for column in (0, 1)], axis=-1)
    return TaskTable(
        tasks=tuple(tasks),
        length=np.array([len(t.names) for t in tasks], np.int64),
        features=features,
        weights=weights,
        legal=legal,
        kl=kl,
        size=size,
        seconds=seconds,
        reserve_size=tail_sums(reserved),
        reserve_seconds=tail_sums(reserved_s),
        rest_weights=rest,
        rest_low=tail_sums(np.where(np.isfinite(low), low, 0.0)),
        rest_high=tail_sums(high),
        rest_means=sums / np.maximum(rest, 1.0)[..., None],
        type_bits=np.array([t.bits_per_weight for t in types]),
        tie_break=tie_break,
        max_bytes=np.array([t.max_bytes for t in tasks], np.float64),
        max_seconds=np.array([t.max_seconds for t in tasks], np.float64),
        ladders=_foreseen(tasks),
        log_kl_per_byte=foreseen,
    )


def _foreseen(tasks: Sequence[Task]) -> StackedLadders:
    """The answers of a knapsack on the foreseen KL; ladders of tasks that differ in limits alone are made once."""
    known: dict[tuple[str, bytes], PriceLadder] = {}
    ladders, plans = [], []
    for task in tasks:
        key, kl = (task.name, task.legal.tobytes()), foreseen_kl(task)
        if key not in known:
            known[key] = price_ladder(kl, task)
        ladders.append(known[key])
        plans.append(exact_plan(kl, task))
    return StackedLadders(tasks, ladders, plans)


def _scaled(bits: Float64) -> Float64:
    """Bits per weight around 0."""
    return np.asarray(((bits - _BITS_MIDDLE) / _BITS_SPAN).clip(-3.0, 3.0), np.float64)


class Episodes:
    """Episodes [n] over rows of a task table, in step with each other; those that end early wait."""

    def __init__(self, table: TaskTable, rows: Int64) -> None:
        self.table, self.rows = table, np.asarray(rows, np.int64)
        self.at = 0
        n = len(self.rows)
        self.used, self.used_seconds, self.forced = np.zeros(n), np.zeros(n), np.zeros(n)
        self.columns = np.full((n, table.legal.shape[1]), -1, np.int64)
        self._answer: tuple[int, Int64, Float64] | None = None

    @property
    def active(self) -> npt.NDArray[np.bool_]:
        """[n]: episodes that have a tensor to decide now."""
        return np.asarray(self.at < self.table.length[self.rows], np.bool_)

    @property
    def done(self) -> bool:
        """True once none has."""
        return not bool(self.active.any())

    def allowed(self) -> npt.NDArray[np.bool_]:
        """[n, n_types]: legal, and the reserve plan still fits afterwards. All False where the episode is over."""
        t, r, at = self.table, self.rows, self.at
        if at >= t.legal.shape[1]:
            return np.zeros((len(r), t.legal.shape[2]), np.bool_)
        room = t.max_bytes[r] - self.used - t.reserve_size[r, at + 1]
        slack = t.max_seconds[r] - self.used_seconds - t.reserve_seconds[r, at + 1]
        slack = slack + _TOLERANCE * np.where(np.isfinite(t.max_seconds[r]), t.max_seconds[r], 0.0)
        return np.asarray(
            t.legal[r, at] & (t.size[r, at] <= room[:, None]) & (t.seconds[r, at] <= slack[:, None]), np.bool_
        )

    def outline(self) -> tuple[Int64, Float64]:
        """(columns, ln of the price) [n] that the outline gives the tensor at hand."""
        t, r, at = self.table, self.rows, self.at
        if self._answer is None or self._answer[0] != at:
            self._answer = (at, *t.ladders.look_up(r, at, t.max_bytes[r] - self.used))
        return self._answer[1], self._answer[2]

    def observe(self) -> Float32:
        """float32 [n, N_STATE]; zeros where the episode is over."""
        t, r, at = self.table, self.rows, self.at
        out = np.zeros((len(r), N_STATE), np.float32)
        active = self.active
        if not active.any():
            return out
        allowed = self.allowed()
        own, rest, total = t.weights[r, at], t.rest_weights[r, at], t.rest_weights[r, 0]
        some = np.maximum(rest, 1.0)
        spent = total - rest
        budget = 8 * t.max_bytes[r] / np.maximum(total, 1.0)
        so_far = np.where(spent > 0, 8 * self.used / np.maximum(spent, 1.0), budget)
        bits = np.where(allowed, t.type_bits[None, :], np.nan)
        limit = np.isfinite(t.max_seconds[r])
        wanted_s = np.maximum(t.reserve_seconds[r, at], 1e-30)
        seconds = np.where(
            limit, (np.where(limit, t.max_seconds[r], 0.0) - self.used_seconds) / wanted_s, _MOST_SECONDS
        )
        outline, price = self.outline()
        margin = (t.log_kl_per_byte[r, at] - price) / (2 * np.log(2.0))
        columns = (
            _scaled(budget),
            _scaled(8 * (t.max_bytes[r] - self.used) / some),
            _scaled(so_far),
            _scaled(np.nanmin(bits, axis=1, initial=np.inf)),
            _scaled(np.nanmax(bits, axis=1, initial=-np.inf)),
            _scaled(8 * t.rest_low[r, at] / some),
            _scaled(8 * t.rest_high[r, at] / some),
            own / some,
            rest / np.maximum(total, 1.0),
            seconds.clip(0.0, _MOST_SECONDS) / _MOST_SECONDS,
            t.rest_means[r, at, 0],
            t.rest_means[r, at, 1],
            _scaled(t.type_bits[largest_allowed_below(outline, np.where(active[:, None], allowed, True))]),
            (margin / 2.0).clip(-3.0, 3.0),
        )
        out[:, :N_FEATURES] = t.features[r, at]
        out[:, N_FEATURES:] = np.stack(columns, axis=-1)
        out[~active] = 0.0
        return out

    def step(self, actions: Float64) -> Int64:
        """Decide one tensor of every episode from actions [n] in [0, 1]; the columns taken [n], -1 where an episode is over."""
        t = self.table
        allowed, active = self.allowed(), self.active
        taken = np.full(len(self.rows), -1, np.int64)
        if active.any():
            ties = t.tie_break[self.rows[active], self.at]
            # Among types of equal bits the outline's own comes first: it may be the faster one where seconds are short.
            ties[np.arange(len(ties)), self.outline()[0][active]] = -1e-9
            taken[active] = nearest(bits_of(np.asarray(actions)[active]), t.type_bits, ties, allowed[active])
            self._take(taken, allowed, active)
        self.at += 1
        return taken

    def force(self, columns: Int64) -> None:
        """Take these columns [n] instead of an action's; they must be allowed."""
        allowed, active = self.allowed(), self.active
        taken = np.where(active, columns, -1)
        assert allowed[np.flatnonzero(active), taken[active]].all(), "a plan beyond the limits"
        self._take(taken, allowed, active)
        self.at += 1

    def _take(self, taken: Int64, allowed: npt.NDArray[np.bool_], active: npt.NDArray[np.bool_]) -> None:
        t, at = self.table, self.at
        one = (allowed.sum(axis=1) == 1) & (t.legal[self.rows, at].sum(axis=1) > 1) & active
        self.forced += np.where(one, t.weights[self.rows, at] / np.maximum(t.rest_weights[self.rows, 0], 1.0), 0.0)
        place = np.flatnonzero(active)
        self.used[place] += t.size[self.rows[place], at, taken[place]]
        self.used_seconds[place] += t.seconds[self.rows[place], at, taken[place]]
        self.columns[:, at] = taken
