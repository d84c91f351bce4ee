"""The eleven features: finite on anything, right on what can be worked out, and the same whatever a model's size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ramp_edge.calibrate.feature_list import FEATURES, LIMIT
from ramp_edge.calibrate.features import (
    centre,
    execution_order,
    input_site,
    kind_and_stage,
    log_ratio,
    model_features,
    statistics,
)
from ramp_edge.calibrate.moments import moments_pass
from ramp_edge.calibrate.noise import noise_pass
from ramp_edge.calibrate.store import CalibrationSettings, CalibrationStore
from ramp_edge.events import EventBus
from ramp_edge.records import Role

SETTINGS = CalibrationSettings(n_sequences=4, sequence_tokens=64, fisher_sequences=4, fisher_tokens=32)
NAMES = [feature.name for feature in FEATURES]


def test_there_are_eleven_with_names_of_their_own_in_three_groups() -> None:
    assert len(FEATURES) == len(set(NAMES)) == 11
    assert {f.group for f in FEATURES} == {"activation", "weight", "structure"}
    assert all(f.why and f.formula and f.low < f.high for f in FEATURES)


@given(
    arrays.arrays(
        np.float32,
        st.tuples(st.integers(1, 6), st.sampled_from([1, 2, 31, 32, 64])),
        elements=st.floats(width=32, allow_nan=True, allow_infinity=True),
    ),
    st.integers(0, 3),
)
def test_statistics_are_finite_on_any_weights(weights: Any, kind: int) -> None:
    n = weights.shape[1]
    rng = np.random.default_rng(kind)
    x = rng.standard_normal((3, n)) * 10.0 ** rng.uniform(-18, 18)
    moments = [None, np.zeros((n, n)), (x.T @ x), np.full((n, n), np.inf)][kind]
    values = statistics(weights, input_site(None if moments is None else moments.astype(np.float32), n))
    assert len(values) == 6 and np.isfinite(values).all()


@given(
    st.integers(1, 5).flatmap(
        lambda n: st.tuples(
            arrays.arrays(np.float64, (n, 11), elements=st.floats(-1e6, 1e6)),
            arrays.arrays(np.float64, n, elements=st.integers(1, 10**11).map(float)),
        )
    )
)
def test_centred_values_stay_within_their_range(case: Any) -> None:
    values = centre(*case)
    assert values.dtype == np.float32 and np.isfinite(values).all()
    for column, feature in enumerate(FEATURES):
        assert values[:, column].min() >= feature.low and values[:, column].max() <= feature.high


def test_centring_takes_the_mean_by_size() -> None:
    raw = np.random.default_rng(0).standard_normal((7, 11)) * 0.3
    raw[:, 8:] = raw[:, 8:].clip(0, 1)
    sizes = np.array([1.0, 2, 3, 4, 5, 6, 100])
    values = centre(raw, sizes)
    means = sizes @ values / sizes.sum()
    assert np.abs(means[:8]).max() < 1e-6
    # What all tensors of a model share, such as the sharpness of its predictions, goes.
    shifted = raw + np.where([f.centred for f in FEATURES], 5.0, 0.0)
    assert np.allclose(centre(shifted, sizes), values, atol=1e-6)
    np.testing.assert_allclose(values[:, 8:], raw[:, 8:], rtol=1e-6)


def test_statistics_of_a_gaussian_matrix_with_independent_inputs() -> None:
    weights = np.random.default_rng(0).standard_normal((512, 256)).astype(np.float32)
    feedback, outlier, rank, gain, kurtosis, spread = statistics(weights, input_site(None, 256))
    assert feedback == pytest.approx(0.0, abs=2e-3)  # damping adds 0.1 %
    assert outlier == rank == 0.0 and gain == pytest.approx(0.0, abs=1e-9)
    assert kurtosis == pytest.approx(np.log(3.0), abs=0.02)
    assert spread == pytest.approx(np.sqrt(2 / 256), rel=0.1)  # of ln chi-squared


def test_statistics_of_one_loud_column_and_weights_that_listen_to_it() -> None:
    moments = np.eye(32, dtype=np.float32)
    moments[3, 3] = 33.0
    weights = np.zeros((4, 32), np.float32)
    weights[:, 3] = 2.0
    _, outlier, rank, gain, _, spread = statistics(weights, input_site(moments, 32))
    assert outlier == pytest.approx(np.log(33 * 32 / 64))
    assert rank == pytest.approx(np.log(64**2 / (32 * (33**2 + 31))))
    assert gain == pytest.approx(np.log(32 * 33 / 64))
    assert spread == 0.0


@given(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
def test_statistics_do_not_depend_on_scale(of_weights: float, of_moments: float) -> None:
    rng = np.random.default_rng(1)
    weights, x = rng.standard_normal((16, 64)), rng.standard_normal((200, 64)) * np.exp(rng.standard_normal(64))
    moments = (x.T @ x).astype(np.float32)
    base = statistics(weights.astype(np.float32), input_site(moments, 64))
    scaled = statistics((weights * of_weights).astype(np.float32), input_site(moments * np.float32(of_moments), 64))
    np.testing.assert_allclose(scaled, base, rtol=1e-3, atol=1e-4)


@given(st.floats(), st.floats())
def test_log_ratio_is_always_a_number(a: float, b: float) -> None:
    assert np.isfinite(log_ratio(a, b))


def test_every_role_has_a_place_of_its_own() -> None:
    matrices = [r for r in Role if r not in (Role.NORM, Role.BIAS, Role.OTHER)]
    places = [kind_and_stage(r, tied=False) for r in matrices] + [kind_and_stage(Role.TOKEN_EMBD, tied=True)]
    assert len(set(places)) == len(places) == 10
    assert all(-1 <= v <= 1 for place in places for v in place)


@pytest.mark.parametrize("tied", [True, False])
def test_features_of_a_whole_model(tied: bool, make_tiny_gguf: Any, decoders: Any, tmp_path: Path) -> None:
    model = decoders.open(make_tiny_gguf(tmp_path / "m.gguf", tied=tied))
    store = CalibrationStore(tmp_path / "store")
    moments_pass(model, decoders.tokens(model, 4, 64), SETTINGS, store, EventBus())
    noise = noise_pass(model, store, EventBus())
    found = model_features(model.inventory, model._load, store, noise, EventBus())
    names = [t.name for t in execution_order(model.inventory)]
    assert names[0] == "token_embd.weight" and names[1] == "blk.0.attn_q.weight"
    assert names[-1] == ("blk.1.ffn_down.weight" if tied else "output.weight")
    assert set(names) == {t.name for t in model.inventory.quantizable}
    assert found.shape == (len(names), 11) and np.isfinite(found).all()
    depth = found[:, NAMES.index("depth")]
    assert (np.diff(depth) >= 0).all() and depth[0] == 0.0
    # The noise feature is the logarithm of KL per weight, up to the model's mean and its scale.
    column = found[:, 0]
    per_weight = np.log([noise.kl[n] / model.inventory.tensor(n).n_elements for n in names])
    inside = np.abs(column) < LIMIT
    np.testing.assert_allclose(np.diff(column[inside]), 0.5 * np.diff(per_weight[inside]), atol=1e-4)
