"""Discrete Soft Actor-Critic (after Christodoulou, arXiv 1910.07207): the actor chooses among the legal types themselves, without a map from bits.

Actor and critics score every type from the state and what is known of the type there, with the same weights for all types. An actor that
has learned nothing takes the outline's type. Rewards as in `ramp_edge/train/`: each step's, without a discount.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ramp_edge.allocate.cases import ModelCase
from ramp_edge.allocate.episode import N_STATE, Episodes
from ramp_edge.allocate.prices import largest_allowed_below
from ramp_edge.allocate.reward import RewardWeights
from ramp_edge.allocate.scoring import Judge
from ramp_edge.train.rollout import Arena, step_weight
from ramp_edge.train.run import evaluation_tasks
from ramp_edge.train.sac import SacSettings
from ramp_edge.train.tasks import TaskSampling, sample_tasks

Float32, Int64 = npt.NDArray[np.float32], npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Choose = Callable[[Float32, Float32, Mask], Int64]
"""(states [n, N_STATE], what is known of the types [n, n_types, 3], allowed [n, n_types]) -> columns [n]."""
N_OF_TYPE = 3
ROUNDS, EPISODES, UPDATES, CRITIC_ROUNDS, EVALUATE_EVERY = 60, 64, 30, 24, 10
_OUTLINE_LEAD, _CRITIC_LEAD, _ALPHA = 6.0, 2.5, 0.01
"""Logits by which the outline's type leads each bit away at first, in the critics' rounds (so that they see other choices too), and the temperature."""
_HIDDEN = 64


class _Scores(nn.Module):
    """[n, N_STATE], [n, n_types, N_OF_TYPE] -> one number for every type [n, n_types]."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(N_STATE + N_OF_TYPE, _HIDDEN), nn.SiLU(), nn.Linear(_HIDDEN, _HIDDEN), nn.SiLU(), nn.Linear(_HIDDEN, 1)
        )  # fmt: skip
        last = self.layers[-1]
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, state: Tensor, of_type: Tensor) -> Tensor:
        both = torch.cat([state[:, None, :].expand(-1, of_type.shape[1], -1), of_type], dim=-1)
        out: Tensor = self.layers(both)
        return out.squeeze(-1)


def _known_of_types(arena: Arena, episodes: Episodes, allowed: Mask) -> Float32:
    """[n, n_types, 3]: bits beside the outline's, ln of the foreseen KL beside the outline's type's, whether it is the outline's type."""
    t, rows, at = arena.table, episodes.rows, episodes.at
    outline = largest_allowed_below(episodes.outline()[0], np.where(episodes.active[:, None], allowed, True))
    relative = np.stack(
        [np.nan_to_num(arena.tasks[r].relative_kl[min(at, len(arena.tasks[r].names) - 1)], nan=1.0) for r in rows]
    )
    each = np.arange(len(rows))
    bits = t.type_bits[None, :] - t.type_bits[outline][:, None]
    cost = np.log(np.maximum(relative, 1e-12))
    own = np.zeros(bits.shape)
    own[each, outline] = 1.0
    return np.stack([bits / 2, (cost - cost[each, outline][:, None]) / 2, own], axis=-1).astype(np.float32)


def _play(
    arena: Arena, rows: Int64, choose: Choose
) -> tuple[npt.NDArray[np.float64], list[tuple[npt.NDArray[Any], ...]]]:
    """(ln of KL over the knapsack's [n], steps: states, what is known of types, allowed, columns, scaled rewards)."""
    episodes = Episodes(arena.table, rows)
    judge = Judge(arena.references, episodes, arena.weights)
    steps = []
    while not episodes.done:
        active, at = episodes.active, episodes.at
        state, allowed = episodes.observe(), episodes.allowed()
        of_type = _known_of_types(arena, episodes, allowed)
        safe = np.where(active[:, None], allowed, True)
        columns = choose(state, of_type, safe)
        episodes.force(columns)
        reward = judge.step(active, np.where(active, columns, -1))
        scaled = reward * arena.table.length[rows] / step_weight(arena.table, rows, at)
        steps.append(tuple(v[active] for v in (state, of_type, safe, columns, scaled.astype(np.float32))))
    return judge.log_ratio, steps


class DiscreteSac:
    """Actor and twin critics over types."""

    def __init__(self, seed: int) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.actor, self.qf1, self.qf2 = _Scores(), _Scores(), _Scores()
        self.generator = torch.Generator().manual_seed(seed)
        settings = SacSettings()
        self.least_reward, self.batch = settings.least_reward, settings.batch
        self.actor_optimizer = torch.optim.AdamW(
            self.actor.parameters(), lr=settings.actor_rate, weight_decay=settings.actor_decay
        )
        self.critic_optimizer = torch.optim.Adam(
            [*self.qf1.parameters(), *self.qf2.parameters()], lr=settings.critic_rate
        )

    def logits(self, state: Tensor, of_type: Tensor, allowed: Tensor, lead: float = _OUTLINE_LEAD) -> Tensor:
        """[n, n_types]; the outline's type leads, by its distance in bits."""
        start = lead * (of_type[..., 2] - 2.0 * of_type[..., 0].abs())
        return (start + self.actor(state, of_type)).masked_fill(~allowed, -1e9)

    def best(self, state: Float32, of_type: Float32, allowed: Mask) -> Int64:
        """The likeliest types."""
        with torch.no_grad():
            return self.logits(*map(torch.from_numpy, (state, of_type, allowed))).argmax(dim=1).numpy()

    def explorer(self, lead: float) -> Choose:
        """Types at random, as likely as the actor has them."""

        def choose(state: Float32, of_type: Float32, allowed: Mask) -> Int64:
            with torch.no_grad():
                p = self.logits(*map(torch.from_numpy, (state, of_type, allowed)), lead).softmax(dim=1)
            return torch.multinomial(p, 1, generator=self.generator)[:, 0].numpy()

        return choose

    def update(self, replay: tuple[Tensor, ...], *, actor: bool) -> None:
        """One step of the critics, and of the actor where it is its turn."""
        index = torch.randint(0, len(replay[0]), (self.batch,), generator=self.generator)
        state, of_type, allowed, column, reward = (part[index] for part in replay)
        wanted = reward.clamp_min(self.least_reward)
        q1, q2 = self.qf1(state, of_type), self.qf2(state, of_type)
        taken = (q.gather(1, column[:, None])[:, 0] for q in (q1, q2))
        loss = sum((q - wanted).square().mean() for q in taken)
        self.critic_optimizer.zero_grad()
        loss.backward()
        self.critic_optimizer.step()
        if actor:
            logits = self.logits(state, of_type, allowed)
            log_p = logits.log_softmax(dim=1)
            p = log_p.exp()
            value = torch.minimum(q1, q2).detach()
            actor_loss = (p * (_ALPHA * log_p - value).masked_fill(~allowed, 0.0)).sum(dim=1).mean()
            self.actor_optimizer.zero_grad()
            actor_loss.backward()
            self.actor_optimizer.step()


def discrete(cases: Sequence[ModelCase], family: str, seed: int) -> dict[str, Any]:
    """Train without `family`, as `transfer` does: ratios of the last actor and of the one that the cases learned from like best."""
    arena = Arena(sample_tasks([c for c in cases if c.family != family], TaskSampling(), seed), RewardWeights())
    learned, left_out = (
        Arena(evaluation_tasks([c for c in cases if (c.family == family) is out]), RewardWeights())
        for out in (False, True)
    )
    sac = DiscreteSac(seed)
    parts: list[list[npt.NDArray[Any]]] = [[] for _ in range(5)]

    def ratios(of: Arena) -> npt.NDArray[np.float64]:
        return np.exp(_play(of, np.arange(len(of.tasks)), sac.best)[0])

    best = (float(np.log(ratios(learned)).mean()), ratios(learned), ratios(left_out))
    for at in range(ROUNDS):
        rng = np.random.default_rng((seed, at))
        rows = rng.choice(len(arena.tasks), min(EPISODES, len(arena.tasks)), replace=False)
        early = at < CRITIC_ROUNDS
        for step in _play(arena, rows, sac.explorer(_CRITIC_LEAD if early else _OUTLINE_LEAD))[1]:
            for kept, part in zip(parts, step, strict=True):
                kept.append(part)
        replay = tuple(torch.from_numpy(np.concatenate(part)) for part in parts)
        for _ in range(UPDATES):
            sac.update(replay, actor=not early)
        if (at + 1) % EVALUATE_EVERY == 0:
            score = float(np.log(now := ratios(learned)).mean())
            if score < best[0]:
                best = (score, now, ratios(left_out))
    return {
        "family": family,
        "seed": seed,
        "learned": [float(v) for v in best[1]],
        "kept": [float(v) for v in best[2]],
        "last": [float(v) for v in ratios(left_out)],
    }
