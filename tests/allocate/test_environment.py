"""The Gymnasium environment around the episodes."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from collections.abc import Callable, Mapping

import numpy as np
import pytest

from ramp_edge.allocate.cases import ModelCase, Task, task_of

pytest.importorskip("gymnasium")

from ramp_edge.allocate.environment import AllocationEnv
from ramp_edge.allocate.halo import action_for
from ramp_edge.allocate.reference import reference_of
from ramp_edge.allocate.reward import RewardWeights
from ramp_edge.allocate.scoring import MeasuredTruth
from ramp_edge.codec.types import QuantType

Maker = Callable[..., ModelCase]


def task_for(case: ModelCase, bits: float) -> Task:
    task = task_of(case, int(bits * case.n_weights.sum() / 8))
    assert task is not None
    return task


@pytest.fixture
def tasks(make_case: Maker) -> list[Task]:
    return [task_for(make_case(n, n), bits) for n, bits in itertools.product((4, 9), (4.75, 6.5))]


def play(env: AllocationEnv, act: Callable[[dict], float], task: int, seed: int = 0) -> tuple[float, dict]:
    _, info = env.reset(seed=seed, options={"task": task})
    total, done = 0.0, False
    while not done:
        _, reward, done, cut, info = env.step(np.array([act(info)], np.float32))
        assert not cut
        total += reward
    return total, info


def test_gymnasium_s_own_checker_accepts_it(tasks: list[Task]) -> None:
    from gymnasium.utils.env_checker import check_env

    check_env(AllocationEnv(tasks), skip_render_check=True)


def test_rewards_are_the_sum_of_the_logged_terms(tasks: list[Task]) -> None:
    env = AllocationEnv(tasks)
    rng = np.random.default_rng(0)
    for index in range(len(tasks)):
        total, info = play(env, lambda _: rng.random(), index)
        assert total == pytest.approx(sum(info["terms"].values()))
        assert info["terms"]["quality"] == pytest.approx(-info["log_ratio"])
        assert info["terms"]["over"] == info["terms"]["speed"] == 0.0
        kl = sum(tasks[index].kl[r, tasks[index].types.index(t)] for r, t in enumerate(info["types"].values()))
        assert info["log_ratio"] == pytest.approx(math.log(kl / reference_of(tasks[index]).kl))
        assert not info["measured"]


def test_the_reference_s_bits_come_close_to_the_reference(tasks: list[Task]) -> None:
    """The HALO map loses only what types of equal bits differ in."""
    env = AllocationEnv(tasks)
    for index, task in enumerate(tasks):
        bits = iter([task.types[c].bits_per_weight for c in reference_of(task).columns])
        _, info = play(env, lambda _, bits=bits: float(action_for(next(bits))), index)
        assert -1e-9 <= info["log_ratio"] < 0.1


def test_measured_kl_replaces_the_table_in_its_share_of_episodes(tasks: list[Task]) -> None:
    asked: list[int] = []
    reference = [tasks[0].types[c] for c in reference_of(tasks[0]).columns]

    def kl(task: Task, types: Mapping[str, QuantType]) -> float:
        if list(types.values()) == reference:
            return 0.1
        asked.append(len(types))
        return 0.2

    truth = MeasuredTruth(kl=kl, models=frozenset({tasks[0].name}), share=0.25)
    env = AllocationEnv(tasks, RewardWeights(unused=0.0, cliff=0.0), truth)
    env.reset(seed=7)
    measured = 0
    for _ in range(200):
        env.reset(options={"task": 0})
        total, done = 0.0, False
        while not done:
            _, reward, done, _, info = env.step(np.array([0.4], np.float32))
            total += reward
        if info["measured"]:
            measured += 1
            # Twice the KL, whatever the table says: ln 2 of quality and half as much again.
            assert info["log_ratio"] == pytest.approx(math.log(2.0))
            assert total == pytest.approx(-1.5 * math.log(2.0))
    assert measured == len(asked) and 25 <= measured <= 80
    assert set(asked) == {len(tasks[0].names)}


def test_what_cannot_be_measured_is_left_to_the_table(tasks: list[Task]) -> None:
    def kl(task: Task, types: object) -> float:
        raise AssertionError(task.name)

    env = AllocationEnv(tasks, measured=MeasuredTruth(kl=kl, models=frozenset({"another"}), share=1.0))
    assert not any(play(env, lambda _: 0.4, index)[1]["measured"] for index in range(len(tasks)))


def test_a_seed_decides_the_episode(tasks: list[Task]) -> None:
    env = AllocationEnv(tasks)
    chosen = [env.reset(seed=seed)[1]["task"] for seed in range(30)]
    assert chosen == [env.reset(seed=seed)[1]["task"] for seed in range(30)]
    assert set(chosen) == set(range(len(tasks)))


def test_a_build_needs_neither_gymnasium_nor_torch_for_its_episodes() -> None:
    script = (
        "import sys; import ramp_edge.allocate.episode, ramp_edge.allocate.scoring, ramp_edge.allocate.reference;"
        "print([m for m in ('gymnasium', 'torch', 'onnx') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
