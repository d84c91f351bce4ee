"""The allocation of one model as a Gymnasium environment: `gymnasium.Env` around `Episodes`. Needs the `train` extra.

Two qualities of truth: the table of predicted KL (microseconds an episode), and measured KL, which the caller brings and which is asked for in a
stated share of the episodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt

from ramp_edge.allocate.cases import Task
from ramp_edge.allocate.episode import N_STATE, Episodes, stack
from ramp_edge.allocate.reference import reference_of
from ramp_edge.allocate.reward import RewardWeights
from ramp_edge.allocate.scoring import Judge, MeasuredTruth, end_terms
from ramp_edge.codec.types import QuantType

Float32 = npt.NDArray[np.float32]


class AllocationEnv(gymnasium.Env[Float32, Float32]):
    """One step a tensor, one action a bit width in [0, 1]. `info` holds the mask and, at the end, every reward term."""

    def __init__(
        self, tasks: Sequence[Task], weights: RewardWeights | None = None, measured: MeasuredTruth | None = None
    ) -> None:
        self._table = stack(tasks)
        self._references = tuple(reference_of(task) for task in tasks)
        self._weights, self._measured = weights or RewardWeights(), measured
        self.observation_space = gymnasium.spaces.Box(-6.0, 6.0, (N_STATE,), np.float32)
        self.action_space = gymnasium.spaces.Box(0.0, 1.0, (1,), np.float32)
        self._episode: Episodes | None = None
        self._judge: Judge | None = None
        self._row, self._quality, self._measure = 0, 0.0, False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Float32, dict[str, Any]]:
        """A task at random, or the one of `options["task"]`."""
        super().reset(seed=seed)
        wanted = (options or {}).get("task")
        self._row = int(self.np_random.integers(len(self._table.tasks))) if wanted is None else int(wanted)
        self._measure = (
            self._measured is not None
            and self.task.name in self._measured.models
            and bool(self.np_random.random() < self._measured.share)
        )
        self._episode = Episodes(self._table, np.array([self._row]))
        self._judge = Judge(self._references, self._episode, self._weights)
        self._quality = 0.0
        return self._episode.observe()[0], self._info()

    def step(self, action: Float32) -> tuple[Float32, float, bool, bool, dict[str, Any]]:
        """Decide one tensor. Rewards: the quality of each step, everything else at the end."""
        assert self._episode is not None and self._judge is not None, "reset comes first"
        episode = self._episode
        active = episode.active
        taken = episode.step(np.asarray(action, np.float64).reshape(1))
        quality = float(self._judge.step(active, taken)[0])
        self._quality += quality
        reward, info = quality, self._info()
        if episode.done:
            log_ratio = self._log_ratio()
            terms = end_terms(self._weights, episode, np.array([log_ratio]))
            # What the table told step by step gives way to the measurement.
            correction = -self._weights.quality * log_ratio - self._quality
            reward += correction + float(terms.total[0])
            info["terms"] = {name: float(v[0]) for name, v in asdict(terms).items()}
            info["terms"]["quality"] = self._quality + correction
            info["measured"], info["log_ratio"], info["types"] = self._measure, log_ratio, self.types
        return episode.observe()[0], reward, episode.done, False, info

    @property
    def task(self) -> Task:
        """The task under way."""
        return self._table.tasks[self._row]

    @property
    def types(self) -> dict[str, QuantType]:
        """What was decided so far."""
        assert self._episode is not None
        task = self.task
        columns = self._episode.columns[0]
        return {n: task.types[c] for n, c in zip(task.names, columns, strict=False) if c >= 0}

    def _log_ratio(self) -> float:
        if self._measure and self._measured is not None:
            assert self._episode is not None
            columns = self._episode.columns[0, : len(self.task.names)]
            return self._measured.log_ratio(self.task, columns, self._references[self._row])
        assert self._judge is not None
        return float(self._judge.log_ratio[0])

    def _info(self) -> dict[str, Any]:
        assert self._episode is not None
        return {"allowed": self._episode.allowed()[0], "task": self._row}
