"""Soft Actor-Critic (Haarnoja et al., arXiv 1812.05905) in one file, in reading order: networks, replay, one update.

Why not a library: an episode here is a few hundred microseconds of numpy for hundreds of models at once, and the network has two hidden layers of
64. A loop over single environment steps would spend nearly all its time between them. Names follow the paper: qf1, qf2, log_alpha, target_entropy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ramp_edge.allocate.policy import EDGE, REACH

Float32 = npt.NDArray[np.float32]
LOG_STD_LOW, LOG_STD_HIGH = -5.0, 0.5
"""Of the action before squashing. At -5 the policy is certain to a twentieth of a bit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SacSettings:
    """Sizes and rates."""

    hidden: int = 32
    critic_hidden: int = 128
    actor_rate: float = 5e-5
    actor_decay: float = 0.01
    """Weight decay of the actor: a zoo of ten models is small, and what it does not teach stays the outline's."""
    critic_rate: float = 1e-3
    gamma: float = 0.0
    """Each reward already holds what a choice costs the rest, if the knapsack decides that: looking further ahead adds noise only."""
    tau: float = 0.01
    """Share of the critics that their targets take over at each update."""
    batch: int = 1024
    replay: int = 200_000
    target_entropy: float = -3.0
    """Nats, of an action in [0, 1]: a spread of about a tenth of a bit."""
    initial_alpha: float = 0.002
    reward_scale: float = 1.0
    """Factor on rewards as the replay holds them."""
    least_reward: float = -20.0
    """Rewards below count as this: one ruined embedding must not drown what thousands of other steps say."""
    imitation: float = 0.0
    """Weight of staying near the teacher's action in the actor's loss; 0 takes the demonstrations out of it."""


class Actor(nn.Module):
    """State [n, n_state] -> mean and log standard deviation of the action before squashing, each [n].

    The outline in the state (a knapsack on what the features foresee) is where the mean starts; the network learns what to change
    in it. With nothing learned the policy is the outline.
    """

    def __init__(self, n_state: int, hidden: int, outline: int) -> None:
        super().__init__()
        self.outline = outline
        self.hidden = nn.Sequential(nn.Linear(n_state, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU())
        self.mean, self.log_std = nn.Linear(hidden, 1), nn.Linear(hidden, 1)
        for layer in (self.mean, self.log_std):
            nn.init.zeros_(layer.bias)
            nn.init.zeros_(layer.weight)

    def forward(self, state: Tensor) -> tuple[Tensor, Tensor]:
        h = self.hidden(state)
        start = 0.5 * (state[:, self.outline] + 1.0)  # bits around the middle of their range -> action
        mean = torch.logit(start.clamp(EDGE, 1.0 - EDGE)) + REACH * torch.tanh(self.mean(h)).squeeze(-1)
        log_std = LOG_STD_LOW + 0.5 * (LOG_STD_HIGH - LOG_STD_LOW) * (torch.tanh(self.log_std(h)) + 1.0)
        return mean, log_std.squeeze(-1)

    def act(self, state: Tensor) -> Tensor:
        """The policy's own choice, without noise: actions in [0, 1]."""
        return torch.sigmoid(self.forward(state)[0])

    def sample(self, state: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """(actions in [0, 1], their log-probabilities), differentiable."""
        mean, log_std = self.forward(state)
        noise = torch.randn(mean.shape, generator=generator)
        u = mean + log_std.exp() * noise
        action = torch.sigmoid(u)
        log_p = -0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi)
        # d sigmoid / du = sigmoid(u) sigmoid(-u)
        return action, log_p - F.logsigmoid(u) - F.logsigmoid(-u)


class Critic(nn.Module):
    """(state, action) -> Q [n]. It sees the action's distance to the outline, and its square: Q is about a parabola near there."""

    def __init__(self, n_state: int, hidden: int, outline: int) -> None:
        super().__init__()
        self.outline = outline
        layers = (nn.Linear(n_state + 2, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, 1))
        self.layers = nn.Sequential(*layers)

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        distance = 10.0 * (action - 0.5 * (state[:, self.outline] + 1.0))[:, None]
        out: Tensor = self.layers(torch.cat([state, distance, distance.square()], dim=1))
        return out.squeeze(-1)


class Replay:
    """Transitions in a ring: state, action, teacher's action, weight of imitation, reward, next state, end."""

    def __init__(self, size: int, n_state: int) -> None:
        self._state, self._next = torch.zeros(size, n_state), torch.zeros(size, n_state)
        self._scalars = torch.zeros(size, 5)
        self.size, self.count, self._at = size, 0, 0

    def add(self, state: Float32, scalars: Float32, following: Float32) -> None:
        """scalars [n, 5]: action, teacher, weight, reward, end (1 where the episode is over)."""
        place = (self._at + np.arange(len(state))) % self.size
        index = torch.from_numpy(place)
        self._state[index], self._next[index] = torch.from_numpy(state), torch.from_numpy(following)
        self._scalars[index] = torch.from_numpy(scalars)
        self._at = (self._at + len(state)) % self.size
        self.count = min(self.size, self.count + len(state))

    def sample(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """(states, scalars, next states) of n transitions at random."""
        index = torch.randint(0, self.count, (n,), generator=generator)
        return self._state[index], self._scalars[index], self._next[index]

    def state_dict(self) -> dict[str, object]:
        """What is held, without the empty rest."""
        n = self.count
        parts = {"state": self._state[:n], "scalars": self._scalars[:n], "next": self._next[:n]}
        return {**{k: v.clone() for k, v in parts.items()}, "count": n, "at": self._at}

    def load_state_dict(self, saved: dict[str, Tensor]) -> None:
        """Take up `state_dict`'s transitions."""
        self.count, self._at = int(saved["count"]), int(saved["at"])
        for own, name in ((self._state, "state"), (self._scalars, "scalars"), (self._next, "next")):
            own[: self.count] = saved[name]


class Sac:
    """Actor, twin critics, temperature, their optimizers."""

    def __init__(self, n_state: int, outline: int, settings: SacSettings, seed: int) -> None:
        self.settings = settings
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.actor = Actor(n_state, settings.hidden, outline)
            self.qf1, self.qf2 = (Critic(n_state, settings.critic_hidden, outline) for _ in range(2))
            self.target1, self.target2 = (Critic(n_state, settings.critic_hidden, outline) for _ in range(2))
        self.target1.load_state_dict(self.qf1.state_dict())
        self.target2.load_state_dict(self.qf2.state_dict())
        self.log_alpha = torch.tensor(math.log(settings.initial_alpha), requires_grad=True)
        self.generator = torch.Generator().manual_seed(seed)
        self.actor_optimizer = torch.optim.AdamW(
            self.actor.parameters(), lr=settings.actor_rate, weight_decay=settings.actor_decay
        )
        critics = [*self.qf1.parameters(), *self.qf2.parameters()]
        self.critic_optimizer = torch.optim.Adam(critics, lr=settings.critic_rate)
        self.alpha_optimizer = torch.optim.Adam([self.log_alpha], lr=settings.actor_rate)

    def imitate(self, states: Tensor, teacher: Tensor, weight: Tensor) -> float:
        """One step towards the teacher's actions; the weighted mean squared distance in bits."""
        loss = self._distance(self.actor.act(states), teacher, weight)
        self.actor_optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.actor_optimizer.step()
        return float(loss.detach())

    @staticmethod
    def _distance(action: Tensor, teacher: Tensor, weight: Tensor) -> Tensor:
        return (weight * (7.0 * (action - teacher)).square()).sum() / weight.sum()

    def update(self, replay: Replay, *, actor: bool = True) -> dict[str, float]:
        """One step of critics, actor and temperature; their figures. `actor=False` lets the critics learn first."""
        s = self.settings
        state, scalars, following = replay.sample(s.batch, self.generator)
        action, teacher, weight, reward, end = scalars.unbind(1)
        alpha = self.log_alpha.exp().detach()

        # CRITICS: the reward and what the policy would go on to earn
        with torch.no_grad():
            next_action, next_log_p = self.actor.sample(following, self.generator)
            lower = torch.minimum(self.target1(following, next_action), self.target2(following, next_action))
            wanted = (s.reward_scale * reward).clamp_min(s.least_reward) + s.gamma * (1.0 - end) * (
                lower - alpha * next_log_p
            )
        q1, q2 = self.qf1(state, action), self.qf2(state, action)
        critic_loss = F.mse_loss(q1, wanted) + F.mse_loss(q2, wanted)
        self.critic_optimizer.zero_grad()
        critic_loss.backward()  # type: ignore[no-untyped-call]
        self.critic_optimizer.step()
        figures = {"critic_loss": float(critic_loss.detach()), "q": float(q1.detach().mean())}

        if actor:
            # ACTOR: more of what the critics value, some entropy, near the teacher as long as that is asked for
            sampled, log_p = self.actor.sample(state, self.generator)
            value = torch.minimum(self.qf1(state, sampled), self.qf2(state, sampled))
            near = self._distance(self.actor.act(state), teacher, weight)
            actor_loss = (alpha * log_p - value).mean() + s.imitation * near
            self.actor_optimizer.zero_grad()
            actor_loss.backward()  # type: ignore[no-untyped-call]
            self.actor_optimizer.step()

            # TEMPERATURE: towards the wanted entropy
            alpha_loss = -(self.log_alpha * (log_p.detach() + s.target_entropy)).mean()
            self.alpha_optimizer.zero_grad()
            alpha_loss.backward()  # type: ignore[no-untyped-call]
            self.alpha_optimizer.step()
            figures |= {
                "actor_loss": float(actor_loss.detach()),
                "entropy": -float(log_p.detach().mean()),
                "alpha": float(self.log_alpha.detach().exp()),
                "teacher_distance_bits2": float(near.detach()),
            }
        with torch.no_grad():
            for target, source in ((self.target1, self.qf1), (self.target2, self.qf2)):
                for a, b in zip(target.parameters(), source.parameters(), strict=True):
                    a.lerp_(b, s.tau)
        return figures

    def state_dict(self) -> dict[str, object]:
        """Everything that a run goes on from."""
        modules = {n: getattr(self, n).state_dict() for n in ("actor", "qf1", "qf2", "target1", "target2")}
        optimizers = {
            n: getattr(self, n).state_dict() for n in ("actor_optimizer", "critic_optimizer", "alpha_optimizer")
        }
        return {
            **modules,
            **optimizers,
            "log_alpha": self.log_alpha.detach().clone(),
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, saved: dict[str, object]) -> None:
        """Take up `state_dict`'s state."""
        for name in (
            "actor",
            "qf1",
            "qf2",
            "target1",
            "target2",
            "actor_optimizer",
            "critic_optimizer",
            "alpha_optimizer",
        ):
            getattr(self, name).load_state_dict(saved[name])
        log_alpha, generator = saved["log_alpha"], saved["generator"]
        assert isinstance(log_alpha, Tensor) and isinstance(generator, Tensor)
        with torch.no_grad():
            self.log_alpha.copy_(log_alpha)
        self.generator.set_state(generator)
