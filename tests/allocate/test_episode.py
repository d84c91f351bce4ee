"""Episodes: feasible whatever is asked for, the state right, one or many alike."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ramp_edge.allocate.cases import ModelCase, Task, load_case, reserve_plan, task_of
from ramp_edge.allocate.episode import N_FEATURES, N_STATE, STATE_NAMES, Episodes, stack
from ramp_edge.allocate.halo import action_for
from ramp_edge.codec.types import QuantType

Maker = Callable[..., ModelCase]


def limits(case: ModelCase) -> tuple[int, int]:
    """Bytes of the smallest and of the largest plan."""
    size, legal = case.size_bytes(), np.isfinite(case.kl)
    return int(np.where(legal, size, 1 << 60).min(1).sum()), int(np.where(legal, size, 0).max(1).sum())


def rates(case: ModelCase, seed: int) -> list[float]:
    """Seconds per byte by type: codebook types slow, as on real boards."""
    rng = np.random.default_rng(seed)
    return [float(rng.uniform(1.0, 4.0) if t.name.startswith("IQ") else rng.uniform(1.0, 1.5)) for t in case.types]


def run(tasks: list[Task], actions: np.ndarray) -> Episodes:
    episodes = Episodes(stack(tasks), np.arange(len(tasks)))
    while not episodes.done:
        assert episodes.allowed()[episodes.active].any(axis=1).all()
        assert np.isfinite(episodes.observe()).all()
        episodes.step(actions[: len(tasks), episodes.at])
    return episodes


@given(
    st.integers(0, 10**6), st.integers(1, 9), st.floats(0.0, 1.0), st.floats(0.0, 1.0), st.booleans(), st.integers(0, 4)
)
def test_no_sequence_of_actions_breaks_a_limit(
    make_case: Maker, seed: int, n_tensors: int, bytes_share: float, seconds_share: float, timed: bool, kind: int
) -> None:
    case = make_case(n_tensors, seed)
    low, high = limits(case)
    speed = rates(case, seed)
    budget = low + int(bytes_share * (high - low))
    size, legal = case.size_bytes(), np.isfinite(case.kl)
    seconds = size * np.array(speed) * case.read_per_token[:, None]
    fastest = np.where(legal, seconds, np.inf).min(1).sum()
    slowest = np.where(legal, seconds, 0.0).max(1).sum()
    most_s = fastest + seconds_share * (slowest - fastest) if timed else float("inf")
    task = task_of(case, budget, seconds_per_byte=speed, max_seconds=most_s)
    if task is None:
        assert timed, "without a limit on seconds the smallest plan is feasible"
        assert reserve_plan(size, seconds, legal, budget, most_s) is None
        return
    rng = np.random.default_rng(seed)
    actions = [
        np.zeros((1, n_tensors)),
        np.ones((1, n_tensors)),
        rng.random((1, n_tensors)),
        rng.integers(0, 2, (1, n_tensors)).astype(float),
        rng.standard_normal((1, n_tensors)) * 1e6,
    ][kind]
    episodes = run([task], actions)
    columns = episodes.columns[0]
    assert task.total(task.size_bytes, columns) <= budget
    assert task.total(task.seconds, columns) <= most_s * (1 + 1e-8)
    assert legal[np.arange(n_tensors), columns].all()
    assert episodes.used[0] == task.total(task.size_bytes, columns)


def test_just_the_smallest_plan_is_taken_where_nothing_else_fits(make_case: Maker) -> None:
    case = make_case(10, 3)
    task = task_of(case, limits(case)[0])
    assert task is not None
    episodes = run([task], np.ones((1, 10)))
    assert episodes.used[0] == limits(case)[0]
    # Rows of 320 have two smallest types of one size, of which the action still chooses.
    ties = (task.size_bytes == task.size_bytes[np.arange(10), task.reserve][:, None]) & task.legal
    alone = ties.sum(axis=1) == 1
    assert 0.5 < episodes.forced[0] == pytest.approx(case.n_weights[alone].sum() / case.n_weights.sum())
    assert task_of(case, limits(case)[0] - 1) is None


def test_with_all_the_room_there_is_actions_decide_alone(make_case: Maker) -> None:
    case = make_case(10, 4)
    task = task_of(case, limits(case)[1])
    assert task is not None
    for bits, expected in ((8.5, QuantType.Q8_0), (4.5, QuantType.IQ4_NL), (5.5, None)):
        episodes = run([task], np.full((1, 10), float(action_for(bits))))
        types = [case.types[c] for c in episodes.columns[0]]
        assert episodes.forced[0] == 0.0
        if expected is not None:
            assert set(types) == {expected}
        else:  # rows that no 256-column block divides take the other 5.5-bit type
            wanted = [QuantType.Q5_K if c % 256 == 0 else QuantType.Q5_0 for c in case.n_cols]
            assert types == wanted


def test_many_episodes_are_each_what_they_are_alone(make_case: Maker) -> None:
    tasks = []
    for seed, length in enumerate((3, 12, 7, 1)):
        case = make_case(length, seed)
        low, high = limits(case)
        task = task_of(case, (low + high) // 2)
        assert task is not None
        tasks.append(task)
    actions = np.random.default_rng(0).random((4, 12))
    together = Episodes(stack(tasks), np.arange(4))
    seen = []
    while not together.done:
        seen.append(together.observe())
        together.step(actions[:, together.at])
    for row, task in enumerate(tasks):
        alone = Episodes(stack([task]), np.array([0]))
        while not alone.done:
            np.testing.assert_array_equal(alone.observe()[0], seen[alone.at][row])
            alone.step(actions[row : row + 1, alone.at])
        n = len(task.names)
        np.testing.assert_array_equal(alone.columns[0], together.columns[row, :n])
        assert (together.columns[row, n:] == -1).all()
        assert all((seen[at][row] == 0).all() for at in range(n, 12))


def test_the_state_says_what_its_names_say(make_case: Maker) -> None:
    case = make_case(6, 5, (256,))
    low, high = limits(case)
    budget = (low + high) // 2
    task = task_of(case, budget)
    assert task is not None
    episodes = Episodes(stack([task]), np.array([0]))
    episodes.step(np.array([0.5]))
    state = episodes.observe()[0]
    assert state.shape == (N_STATE,)
    np.testing.assert_array_equal(state[:N_FEATURES], case.features[1])
    named = dict(zip(STATE_NAMES, state[N_FEATURES:], strict=True))
    weights = case.n_weights

    def scaled(bits: float) -> float:
        return (bits - 5.0) / 3.5

    used = float(episodes.used[0])
    assert named["budget"] == pytest.approx(scaled(8 * budget / weights.sum()), rel=1e-5)
    assert named["left"] == pytest.approx(scaled(8 * (budget - used) / weights[1:].sum()), rel=1e-5)
    assert named["so_far"] == pytest.approx(scaled(8 * used / weights[0]), rel=1e-5)
    assert named["rest_lowest"] == pytest.approx(scaled(2.0625), rel=1e-5)
    assert named["rest_highest"] == pytest.approx(scaled(8.5), rel=1e-5)
    assert named["own_share"] == pytest.approx(weights[1] / weights[1:].sum(), rel=1e-5)
    assert named["rest_share"] == pytest.approx(weights[1:].sum() / weights.sum(), rel=1e-5)
    assert named["rest_noise"] == pytest.approx(weights[1:] @ case.features[1:, 0] / weights[1:].sum(), rel=1e-4)
    assert named["seconds_left"] == 1.0
    allowed = [t.bits_per_weight for t, ok in zip(case.types, episodes.allowed()[0], strict=True) if ok]
    assert named["lowest"] == pytest.approx(scaled(min(allowed)), rel=1e-5)
    assert named["highest"] == pytest.approx(scaled(max(allowed)), rel=1e-5)


def test_forcing_a_plan_ends_at_that_plan(make_case: Maker) -> None:
    from ramp_edge.allocate.reference import reference_of

    case = make_case(9, 6)
    low, high = limits(case)
    task = task_of(case, (2 * low + high) // 3)
    assert task is not None
    reference = reference_of(task)
    episodes = Episodes(stack([task]), np.array([0]))
    while not episodes.done:
        episodes.force(reference.columns[episodes.at : episodes.at + 1])
    np.testing.assert_array_equal(episodes.columns[0], reference.columns)
    assert task.kl is not None and task.total(task.kl, reference.columns) == pytest.approx(reference.kl)


def test_a_case_survives_its_file(make_case: Maker, tmp_path: Path) -> None:
    case = make_case(5, 7)
    case.save(tmp_path / "case.npz")
    again = load_case(tmp_path / "case.npz")
    assert (again.name, again.family, again.names, again.types) == (case.name, case.family, case.names, case.types)
    for field in ("features", "n_rows", "n_cols", "read_per_token", "kl"):
        np.testing.assert_array_equal(getattr(again, field), getattr(case, field))
    assert [p.name for p in tmp_path.iterdir()] == ["case.npz"]
    with np.load(tmp_path / "case.npz") as data:
        values = {**data, "version": 99}
    np.savez(tmp_path / "newer.npz", **values)
    with pytest.raises(ValueError, match="version 99"):
        load_case(tmp_path / "newer.npz")


def test_restricting_the_types_of_a_task(make_case: Maker) -> None:
    case = make_case(6, 8)
    some = (QuantType.Q4_0, QuantType.Q8_0)
    task = task_of(case, limits(case)[1], types=some)
    assert task is not None
    episodes = run([task], np.random.default_rng(0).random((1, 6)))
    assert {case.types[c] for c in episodes.columns[0]} <= set(some)
    narrow = make_case(6, 8, (320,))
    assert task_of(narrow, limits(narrow)[1], types=(QuantType.Q4_K,)) is None  # no block of 256 divides 320
