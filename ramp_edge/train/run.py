"""A training run: the correction first, then demonstrations, then rounds of episodes and updates, measured on tasks that it does not learn from.

Everything follows from the cases, the settings and the seed: a run that was stopped goes on from its checkpoint to the very policy of one that was not.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from ramp_edge.allocate.cases import ModelCase, Task
from ramp_edge.allocate.episode import N_STATE
from ramp_edge.allocate.policy import OUTLINE
from ramp_edge.allocate.reward import RewardWeights
from ramp_edge.allocate.scoring import MeasuredTruth
from ramp_edge.beside import written_beside
from ramp_edge.errors import ResumeError
from ramp_edge.events import EventBus
from ramp_edge.train.correction import CorrectionSettings, corrected, teach
from ramp_edge.train.rollout import Act, Arena
from ramp_edge.train.sac import Actor, Replay, Sac, SacSettings
from ramp_edge.train.tasks import TaskSampling, budget_task, sample_tasks

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Log = Callable[[str, float, int], None]
"""(name, value, round): where figures go, TensorBoard or elsewhere."""
CHECKPOINT_VERSION = 2
EVALUATED_SHARES = (0.25, 0.4, 0.55)
"""Budgets of the evaluation, as shares of the way from the smallest to the largest plan: about 5 to 6.5 bits where 256-column types are not legal."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainSettings:
    """A run is a function of these, the cases and the seed."""

    rounds: int = 60
    episodes: int = 64
    """Side by side in a round."""
    updates: int = 30
    """Of the networks, in a round."""
    demonstrations: int = 3
    """First rounds, with the teacher's episodes."""
    critic_rounds: int = 24
    """First rounds in which only the critics learn, after the teacher's from the outline's episodes."""
    blur: float = 0.06
    """Standard deviation of noise on the teacher's and the outline's actions (0.06 is 0.4 bits), so that critics see what other choices cost."""
    evaluate_every: int = 10
    seed: int = 0
    correction: CorrectionSettings = field(default_factory=CorrectionSettings)
    sac: SacSettings = field(default_factory=SacSettings)
    reward: RewardWeights = field(default_factory=RewardWeights)
    sampling: TaskSampling = field(default_factory=TaskSampling)

    def fingerprint(self, cases: Sequence[ModelCase], truth: MeasuredTruth | None = None) -> str:
        """Of settings, cases and what is measured: what a checkpoint must have come from."""
        digest = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode())
        digest.update(b"" if truth is None else f"{truth.identity} {truth.share}".encode())
        for case in cases:
            digest.update(case.name.encode())
            digest.update(np.ascontiguousarray(case.features).tobytes())
            digest.update(np.ascontiguousarray(case.kl).tobytes())
        return digest.hexdigest()


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """KL beside the knapsack's, over tasks of the evaluation."""

    median: float
    mean: float
    """Geometric."""
    worst: float


def score_of(ratio: Float64) -> Score:
    """exp of the log-ratios' median, mean and largest."""
    return Score(
        median=float(np.exp(np.median(ratio))), mean=float(np.exp(ratio.mean())), worst=float(np.exp(ratio.max()))
    )


def evaluation_tasks(cases: Sequence[ModelCase]) -> list[Task]:
    """Every case at every evaluated budget, all types, no limit on seconds."""
    tasks = [budget_task(case, share) for case in cases for share in EVALUATED_SHARES]
    return [task for task in tasks if task is not None]


def outline_act(states: Float32) -> Float64:
    """The untrained actor: the outline's bits."""
    return np.asarray(0.5 * (states[:, OUTLINE].astype(np.float64) + 1.0), np.float64)


class Training:
    """One policy in the making."""

    def __init__(
        self, cases: Sequence[ModelCase], settings: TrainSettings, events: EventBus, truth: MeasuredTruth | None = None
    ) -> None:
        self.settings, self._events, self._truth = settings, events, truth
        self._fingerprint = settings.fingerprint(cases, truth)
        with events.stage("tasks", total=4, unit="steps") as stage:
            self.correction = teach(cases, settings.correction, settings.seed)
            stage.advance()
            self.plain_evaluation = Arena(evaluation_tasks(cases), settings.reward)
            stage.advance()
            seen = [corrected(case, self.correction) for case in cases]
            self.evaluation = Arena(evaluation_tasks(seen), settings.reward)
            stage.advance()
            self.arena = Arena(sample_tasks(seen, settings.sampling, settings.seed), settings.reward)
            stage.advance()
        self.sac = Sac(N_STATE, OUTLINE, settings.sac, settings.seed)
        self.replay = Replay(settings.sac.replay, N_STATE)
        self.round = 0
        self.best: Score | None = None
        self._best_actor: dict[str, torch.Tensor] = {}

    def act(self, states: Float32) -> Float64:
        """The policy without noise."""
        with torch.no_grad():
            return np.asarray(self.sac.actor.act(torch.from_numpy(states)).numpy(), np.float64)

    def _explore(self, states: Float32) -> Float64:
        with torch.no_grad():
            actions, _ = self.sac.actor.sample(torch.from_numpy(states), self.sac.generator)
        return np.asarray(actions.numpy(), np.float64)

    def run(self, log: Log, checkpoint: Path | None = None, *, stop_after: int | None = None) -> None:
        """Go on to the last round (or to `stop_after`), saving a checkpoint at every evaluation."""
        s = self.settings
        last = s.rounds if stop_after is None else min(s.rounds, stop_after)
        if self.best is None:
            self._evaluate(log)  # the outline, which the actor is before it has learned anything
        with self._events.stage("train", total=s.rounds, unit="rounds") as stage:
            stage.advance(self.round)
            while self.round < last:
                self._one_round(log)
                self.round += 1
                stage.advance()
                if self.round % s.evaluate_every == 0 or self.round == s.rounds:
                    self._evaluate(log)
                    if checkpoint is not None:
                        self.save(checkpoint)

    def _one_round(self, log: Log) -> None:
        s = self.settings
        rng = np.random.default_rng((s.seed, self.round))
        rows = rng.choice(len(self.arena.tasks), min(s.episodes, len(self.arena.tasks)), replace=False)
        early = self.round < s.critic_rounds
        act: Act | None = None if self.round < s.demonstrations else outline_act if early else self._explore
        outcome, steps = self.arena.play(
            rows,
            act,
            blur=s.blur if early else 0.0,
            seed=int(rng.integers(1 << 31)),
            truth=None if act is None else self._truth,
        )
        self.replay.add(steps.states, steps.scalars, steps.following)
        figures: dict[str, float] = {}
        for _ in range(s.updates):
            figures = self.sac.update(self.replay, actor=self.round >= s.critic_rounds)
        for name, value in figures.items():
            log(f"sac/{name}", value, self.round)
        for name, values in outcome.terms.items():
            log(f"reward/{name}", float(values.mean()), self.round)
        log("episode/kl_ratio", float(np.exp(outcome.log_ratio.mean())), self.round)
        if outcome.measured:
            log("measured/episodes", len(outcome.measured), self.round)
            log("measured/over_predicted", float(np.exp(np.mean(list(outcome.measured.values())))), self.round)

    def _evaluate(self, log: Log) -> None:
        predicted, measured = self.scores(self.act)
        for name, value in asdict(predicted).items():
            log(f"evaluation/{name}", value, self.round)
        if measured is not None:
            for name, value in asdict(measured).items():
                log(f"measured_evaluation/{name}", value, self.round)
        score = measured or predicted
        if self.best is None or score.mean < self.best.mean:
            self.best = score
            self._best_actor = {n: v.detach().clone() for n, v in self.sac.actor.state_dict().items()}

    def scores(self, act: Act | None, *, plain: bool = False) -> tuple[Score, Score | None]:
        """KL ratios of a policy (None: the teacher) over the evaluation's tasks: predicted, and measured where a run can measure; `plain` without
        the correction."""
        arena = self.plain_evaluation if plain else self.evaluation
        rows, truth = np.arange(len(arena.tasks)), self._truth
        predicted = score_of(arena.play(rows, act)[0].log_ratio)
        if truth is None:
            return predicted, None
        # Measurements have the last word on which actor is kept.
        of = np.array([task.name in truth.models for task in arena.tasks])
        return predicted, score_of(arena.play(rows[of], act, truth=replace(truth, share=1.0))[0].log_ratio)

    def best_act(self, states: Float32) -> Float64:
        """The best actor without noise."""
        actor = Actor(N_STATE, self.settings.sac.hidden, OUTLINE)
        actor.load_state_dict(self.best_actor())
        with torch.no_grad():
            return np.asarray(actor.act(torch.from_numpy(states)).numpy(), np.float64)

    def best_actor(self) -> Mapping[str, torch.Tensor]:
        """The actor with the best mean score on the evaluation tasks of the training cases, measured where that can be; the untrained one takes part."""
        return self._best_actor or self.sac.actor.state_dict()

    def weights(self) -> dict[str, Float32]:
        """Of the best actor's way to its mean, and of the correction, by torch's names."""
        actor = {n: v for n, v in self.best_actor().items() if not n.startswith("log_std")}
        both = {**actor, **{f"correction.{n}": v for n, v in self.correction.state_dict().items()}}
        return {n: v.numpy().astype(np.float32) for n, v in both.items()}

    def save(self, path: Path) -> None:
        """The whole state, written beside and renamed."""
        state = {
            "version": CHECKPOINT_VERSION,
            "fingerprint": self._fingerprint,
            "sac": self.sac.state_dict(),
            "replay": self.replay.state_dict(),
            "round": self.round,
            "best": None if self.best is None else asdict(self.best),
            "best_actor": self._best_actor,
        }
        with written_beside(path) as partial:
            torch.save(state, partial)

    def resume(self, path: Path) -> None:
        """Take up a checkpoint. Raises ResumeError for one of other settings or cases."""
        saved = torch.load(path, weights_only=True)
        if saved.get("version") != CHECKPOINT_VERSION or saved["fingerprint"] != self._fingerprint:
            raise ResumeError(
                f"{path} belongs to other settings, cases or another version of ramp-edge",
                hint="repeat the old command to resume it, or train into another folder",
            )
        self.sac.load_state_dict(saved["sac"])
        self.replay.load_state_dict(saved["replay"])
        self.round, self._best_actor = int(saved["round"]), saved["best_actor"]
        self.best = None if saved["best"] is None else Score(**saved["best"])
