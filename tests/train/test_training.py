"""Training on synthetic cases: SAC's parts, demonstrations, resuming, and that a seed decides everything."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

pytest.importorskip("tensorboard")

from ramp_edge.allocate.cases import ModelCase, Task
from ramp_edge.allocate.episode import N_STATE
from ramp_edge.allocate.policy import OUTLINE, load_policy
from ramp_edge.allocate.reward import RewardWeights
from ramp_edge.allocate.scoring import MeasuredTruth
from ramp_edge.codec.types import QuantType
from ramp_edge.errors import PolicyFileError, ResumeError, UsageError
from ramp_edge.events import EventBus
from ramp_edge.train.correction import CorrectionSettings, corrected, missing_kl, teach
from ramp_edge.train.files import read_cases, train
from ramp_edge.train.rollout import Arena
from ramp_edge.train.run import Training, TrainSettings, evaluation_tasks, outline_act
from ramp_edge.train.sac import Actor, Replay, Sac, SacSettings
from ramp_edge.train.tasks import TYPE_SETS, TaskSampling, budget_task, sample_tasks

Maker = Callable[..., ModelCase]
SETTINGS = TrainSettings(
    correction=CorrectionSettings(passes=20),
    rounds=6,
    episodes=6,
    updates=3,
    demonstrations=1,
    critic_rounds=2,
    evaluate_every=2,
    sac=SacSettings(batch=64, replay=4000),
    sampling=TaskSampling(per_case=4),
)


def nothing(name: str, value: float, at: int) -> None:
    assert math.isfinite(value), name


@pytest.fixture(scope="module")
def cases() -> list[ModelCase]:
    path = Path(__file__).parents[1] / "allocate" / "conftest.py"
    spec = importlib.util.spec_from_file_location("synthetic_cases", path)
    assert spec is not None and spec.loader is not None
    module: ModuleType = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return [module._make_case(n, n) for n in (6, 10, 14)]


def test_tasks_differ_in_budget_types_and_limits_and_are_feasible(cases: list[ModelCase]) -> None:
    tasks = sample_tasks(cases, TaskSampling(per_case=30, timed_share=0.5), 0)
    assert len(tasks) == 90
    assert len({task.max_bytes for task in tasks}) > 60
    assert 10 < sum(math.isfinite(task.max_seconds) for task in tasks) < 80
    assert len({task.legal.tobytes() for task in tasks}) >= 3 * (len(TYPE_SETS) - 1)
    again = sample_tasks(cases, TaskSampling(per_case=30, timed_share=0.5), 0)
    assert [t.max_bytes for t in again] == [t.max_bytes for t in tasks]


def test_the_teacher_comes_close_to_the_knapsack(cases: list[ModelCase]) -> None:
    arena = Arena(evaluation_tasks(cases), RewardWeights())
    outcome, _ = arena.play(np.arange(len(arena.tasks)), None)
    # Measured 1.00 to 1.06: types of equal bits, and prices without exchanges.
    assert float(np.exp(outcome.log_ratio.max())) < 1.15
    np.testing.assert_allclose(outcome.terms["quality"], -outcome.log_ratio, atol=1e-9)


def test_transitions_lead_from_each_state_to_the_next(cases: list[ModelCase]) -> None:
    arena = Arena([t for t in (budget_task(cases[0], 0.4),) if t is not None], RewardWeights())
    _, steps = arena.play(np.array([0]), outline_act)
    n = len(cases[0].names)
    assert steps.states.shape == (n, N_STATE)
    np.testing.assert_array_equal(steps.following[:-1], steps.states[1:])
    assert (steps.following[-1] == 0).all()
    assert steps.scalars[:, 4].tolist() == [0.0] * (n - 1) + [1.0]


def test_log_probabilities_of_actions_are_those_of_the_squashed_gaussian() -> None:
    actor = Actor(N_STATE, 8, OUTLINE)
    state = torch.randn(1, N_STATE, generator=torch.Generator().manual_seed(0)).repeat(200_000, 1)
    with torch.no_grad():
        action, log_p = actor.sample(state, torch.Generator().manual_seed(1))
    assert float(action.min()) >= 0.0 and float(action.max()) <= 1.0
    histogram, edges = np.histogram(action.double().numpy(), bins=40, density=True)
    place = np.digitize(action.numpy(), edges[1:-1])
    for b in np.flatnonzero(histogram > 0.3 * histogram.max()):
        assert float(log_p[torch.from_numpy(place == b)].exp().mean()) == pytest.approx(histogram[b], rel=0.1)


def test_sac_finds_the_action_that_pays() -> None:
    """One step, reward falling with the distance to an action that the state names."""
    settings = SacSettings(actor_rate=3e-3, critic_rate=3e-3, batch=256, replay=4096, target_entropy=-2.0)
    sac, replay = Sac(N_STATE, OUTLINE, settings, 0), Replay(4096, N_STATE)
    rng = np.random.default_rng(0)
    states = np.zeros((4096, N_STATE), np.float32)
    states[:, 0] = rng.uniform(-1, 1, 4096)
    wanted = 0.5 + 0.1 * states[:, 0]
    actions = rng.uniform(0.2, 0.8, 4096)
    reward = -40 * np.square(actions - wanted)
    scalars = np.stack([actions, wanted, np.ones(4096), reward, np.ones(4096)], axis=1).astype(np.float32)
    replay.add(states, scalars, np.zeros_like(states))
    for at in range(600):
        sac.update(replay, actor=at >= 200)
    with torch.no_grad():
        chosen = sac.actor.act(torch.from_numpy(states)).numpy()
    untrained = float(np.abs(0.5 - wanted).mean())
    # Measured 0.006 beside 0.050.
    assert float(np.abs(chosen - wanted).mean()) < 0.4 * untrained


def test_imitation_moves_the_actor_to_the_teacher() -> None:
    sac = Sac(N_STATE, OUTLINE, SacSettings(actor_rate=3e-3), 0)
    states = torch.randn(512, N_STATE, generator=torch.Generator().manual_seed(0)).clamp(-0.9, 0.9)
    teacher = (0.5 * (states[:, OUTLINE] + 1.0) + 0.08).clamp(0.05, 0.95)
    losses = [sac.imitate(states, teacher, torch.ones(512)) for _ in range(300)]
    assert losses[-1] < 0.1 * losses[0]


def test_the_ring_keeps_the_newest() -> None:
    replay = Replay(10, 2)
    for first in range(0, 25, 5):
        values = np.arange(first, first + 5, dtype=np.float32)
        replay.add(np.stack([values, values], 1), np.tile(values[:, None], (1, 5)), np.stack([values, values], 1))
    states, scalars, following = replay.sample(500, torch.Generator().manual_seed(0))
    assert replay.count == 10 and set(states[:, 0].tolist()) == set(range(15, 25))
    assert torch.equal(states[:, 0], scalars[:, 0]) and torch.equal(states, following)


def test_a_seed_decides_the_policy_and_a_stop_changes_nothing(cases: list[ModelCase], tmp_path: Path) -> None:
    whole = Training(cases, SETTINGS, EventBus())
    whole.run(nothing)
    stopped = Training(cases, SETTINGS, EventBus())
    stopped.run(nothing, tmp_path / "c.pt", stop_after=4)
    resumed = Training(cases, SETTINGS, EventBus())
    resumed.resume(tmp_path / "c.pt")
    assert resumed.round == 4
    resumed.run(nothing)
    for name, value in whole.sac.actor.state_dict().items():
        assert torch.equal(value, resumed.sac.actor.state_dict()[name]), name
    assert whole.best == resumed.best
    other = Training(cases, replace(SETTINGS, seed=1), EventBus())
    other.run(nothing)
    assert any(not torch.equal(v, other.sac.actor.state_dict()[n]) for n, v in whole.sac.actor.state_dict().items())


def test_a_checkpoint_of_other_settings_is_refused(cases: list[ModelCase], tmp_path: Path) -> None:
    one = Training(cases, SETTINGS, EventBus())
    one.run(nothing, tmp_path / "c.pt", stop_after=2)
    with pytest.raises(ResumeError, match="other settings"):
        Training(cases, replace(SETTINGS, updates=4), EventBus()).resume(tmp_path / "c.pt")
    with pytest.raises(ResumeError, match="other settings"):
        Training(cases[:2], SETTINGS, EventBus()).resume(tmp_path / "c.pt")


def test_a_run_writes_a_policy_that_runs_as_it_was_trained(cases: list[ModelCase], tmp_path: Path) -> None:
    # Actors that have moved away from the outline show a difference if there is one.
    settings = replace(SETTINGS, sac=replace(SETTINGS.sac, actor_rate=1e-2), critic_rounds=1)
    record = train(cases, settings, tmp_path / "run", tmp_path / "p.onnx", EventBus(), resume=False)
    scores = record["kl_over_knapsack"]
    assert isinstance(scores, dict)
    assert scores["policy"]["mean"] <= scores["first pass"]["mean"] + 1e-12, (
        "the untrained actor takes part in the choice"
    )
    assert scores["outline"]["mean"] != scores["first pass"]["mean"]
    policy = load_policy(tmp_path / "p.onnx")
    assert [c["name"] for c in policy.record["cases"]] == [c.name for c in cases]
    assert policy.record["settings"]["seed"] == 0 and "commit" in policy.record
    training = Training(cases, settings, EventBus())
    training.run(nothing)
    states = np.random.default_rng(0).uniform(-1, 1, (64, N_STATE)).astype(np.float32)
    training.sac.actor.load_state_dict(dict(training.best_actor()))
    np.testing.assert_allclose(policy.act(states), training.act(states), atol=2e-6)
    task = evaluation_tasks(cases)[0]
    seen = corrected(cases[0], training.correction)
    np.testing.assert_allclose(policy.foresee(task).relative_kl, seen.relative_kl, rtol=1e-5)
    assert any(p.name.startswith("events.out.tfevents") for p in (tmp_path / "run").iterdir())


def test_cases_that_are_none_are_named(tmp_path: Path, cases: list[ModelCase]) -> None:
    with pytest.raises(UsageError, match="no cases"):
        read_cases([tmp_path])
    (tmp_path / "broken.npz").write_bytes(b"PK")
    with pytest.raises(PolicyFileError, match=r"broken\.npz is no case"):
        read_cases([tmp_path])
    with pytest.raises(PolicyFileError, match="no such file"):
        read_cases([tmp_path / "absent.npz"])
    (tmp_path / "broken.npz").unlink()
    for case in cases:
        case.save(tmp_path / f"{case.name}.npz")
    assert {case.name for case in read_cases([tmp_path])} == {case.name for case in cases}


def truth_of(cases: list[ModelCase], share: float = 1.0, **odd: float) -> MeasuredTruth:
    """The tables of the first two cases, where a tensor's part of the KL may be off by a factor, by its index as t0, t1."""
    tables = {case.name: case for case in cases[:2]}
    factors = {int(name[1:]): factor for name, factor in odd.items()}

    def kl(task: Task, types: Mapping[str, QuantType]) -> float:
        case = tables[task.name]
        parts = [case.kl[row, case.types.index(types[name])] for row, name in enumerate(case.names)]
        return float(sum(part * factors.get(row, 1.0) for row, part in enumerate(parts)))

    return MeasuredTruth(kl=kl, models=frozenset(tables), share=share, identity=str(odd))


def test_measured_kl_replaces_what_the_table_paid(cases: list[ModelCase]) -> None:
    arena = Arena(evaluation_tasks(cases), RewardWeights(worse=0.0, unused=0.0, cliff=0.0))
    rows = np.arange(len(arena.tasks))
    predicted, before = arena.play(rows, outline_act)
    truth = truth_of(cases, t2=3.0)
    measured, after = arena.play(rows, outline_act, truth=truth)
    can = {row for row in rows if arena.tasks[row].name in truth.models}
    assert set(measured.measured) == {
        row
        for row in can
        if (arena.references[row].columns != predicted.columns[row, : len(arena.tasks[row].names)]).any()
    }
    assert len(measured.measured) >= 3
    for row in rows:
        task, reference = arena.tasks[row], arena.references[row]
        columns = measured.columns[row, : len(task.names)]
        wanted = truth.log_ratio(task, columns, reference) if row in can else predicted.log_ratio[row]
        assert measured.log_ratio[row] == pytest.approx(wanted, abs=1e-12)
        assert measured.terms["quality"][row] == pytest.approx(-wanted, abs=1e-9)
        # What the steps hold, in their own scale, sums up to it; tensors of the reference's own type hold what they held.
        own = np.array([s for s in range(len(before.scalars)) if _episode_of(arena, s) == row])
        weight, reward, was = after.scalars[own, 2], after.scalars[own, 3], before.scalars[own, 3]
        assert (reward * weight).sum() / len(own) == pytest.approx(-wanted, abs=1e-5)
        np.testing.assert_array_equal(reward[columns == reference.columns], was[columns == reference.columns])


def _episode_of(arena: Arena, step: int) -> int:
    """Steps are gathered tensor by tensor, all episodes that are not over side by side."""
    at = 0
    while True:
        active = [row for row, task in enumerate(arena.tasks) if at < len(task.names)]
        if step < len(active):
            return active[step]
        step, at = step - len(active), at + 1


def test_a_share_of_the_episodes_is_measured_and_none_of_the_teacher_s(cases: list[ModelCase]) -> None:
    counts: dict[int, float] = {}

    def log(name: str, value: float, at: int) -> None:
        if name == "measured/episodes":
            counts[at] = value

    settings = replace(SETTINGS, rounds=8, episodes=12)
    training = Training(cases, settings, EventBus(), truth_of(cases, share=0.5, t1=4.0))
    training.run(log)
    # Two of three models can be measured: 4 of 12 episodes are expected in each of 7 rounds.
    assert 0 not in counts and 14 <= sum(counts.values()) <= 42
    plain = Training(cases, settings, EventBus())
    plain.run(log)
    assert any(not torch.equal(v, plain.sac.qf1.state_dict()[n]) for n, v in training.sac.qf1.state_dict().items())


def test_measurements_decide_which_actor_is_kept(cases: list[ModelCase], tmp_path: Path) -> None:
    settings = replace(SETTINGS, sac=replace(SETTINGS.sac, actor_rate=1e-2), critic_rounds=1)
    truth = truth_of(cases, share=0.3, t0=0.1, t3=8.0)
    record = train(cases, settings, tmp_path / "run", tmp_path / "p.onnx", EventBus(), resume=False, truth=truth)
    predicted, measured = (record[name] for name in ("kl_over_knapsack", "measured_kl_over_knapsack"))
    assert isinstance(predicted, dict) and isinstance(measured, dict)
    assert measured["policy"]["mean"] <= measured["first pass"]["mean"] + 1e-12
    assert measured["outline"]["mean"] != predicted["outline"]["mean"]
    assert record["measured"] == {"models": sorted(truth.models), "share_of_episodes": 0.3}
    with pytest.raises(ResumeError, match="other settings"):
        Training(cases, settings, EventBus(), truth_of(cases, share=0.4)).resume(tmp_path / "run" / "checkpoint.pt")


def test_a_correction_learns_what_is_missing_and_carries_over(cases: list[ModelCase]) -> None:
    """Where a feature tells all of it, a model that was not taught gains too; the same seed teaches the same."""
    wrong = [replace(c, kl=c.kl * np.exp(0.8 * c.features[:, 5:6].astype(np.float64))) for c in cases]
    *taught, left_out = wrong
    network = teach(taught, CorrectionSettings(), 0)
    wanted = missing_kl(left_out)
    # Measured 0.15 of the spread.
    assert np.std(network.of(left_out) - wanted) < 0.4 * np.std(wanted)
    before, after = (
        float(Arena(evaluation_tasks([case]), RewardWeights()).play(np.arange(3), outline_act)[0].log_ratio.mean())
        for case in (left_out, corrected(left_out, network))
    )
    assert after < 0.5 * before, (before, after)
    np.testing.assert_array_equal(network.of(left_out), teach(taught, CorrectionSettings(), 0).of(left_out))
    nothing_learned = teach(taught, CorrectionSettings(passes=0), 0)
    assert not nothing_learned.of(left_out).any()
