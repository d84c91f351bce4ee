"""Error feedback: less output error for every type, the same bytes however the rows are split."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ramp_edge.codec.ggml import decode, encode
from ramp_edge.codec.types import QUANTIZED_TYPES, QuantType
from ramp_edge.feedback_root import coding_order
from ramp_edge.quantize.feedback import quantize_rows
from ramp_edge.quantize.hessian import FeedbackFactor, feedback_factor

N_COLS = 512


def correlated_inputs(n_tokens: int = 4096, seed: int = 0) -> np.ndarray:
    """Activations [n_tokens, n_cols] with a decaying spectrum, as a trained network's."""
    basis = np.linalg.qr(np.random.default_rng(77).standard_normal((N_COLS, N_COLS)))[0]
    spectrum = np.arange(1, N_COLS + 1) ** -0.7
    return (np.random.default_rng(seed).standard_normal((n_tokens, N_COLS)) * spectrum @ basis).astype(np.float32)


def weights(n_rows: int = 32) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((n_rows, N_COLS)).astype(np.float32)


def moments(x: np.ndarray) -> np.ndarray:
    return (x.T @ x / len(x)).astype(np.float32)


# Output error with feedback over output error of the codec with the moments' diagonal as importance, on inputs that
# the moments have not seen: measured. (The spectrum decays fast here; real layers gain less.)
RATIOS = {
    "Q4_0": 0.103, "Q4_1": 0.160, "Q5_0": 0.163, "Q5_1": 0.127, "Q8_0": 0.105, "Q2_K": 0.151,
    "Q3_K": 0.156, "Q4_K": 0.145, "Q5_K": 0.145, "Q6_K": 0.106, "IQ2_XXS": 0.425, "IQ2_XS": 0.580,
    "IQ3_XXS": 0.497, "IQ1_S": 0.496, "IQ4_NL": 0.150, "IQ3_S": 0.470, "IQ2_S": 0.572, "IQ4_XS": 0.135,
    "IQ1_M": 0.497,
}  # fmt: skip


@pytest.mark.parametrize("quant_type", QUANTIZED_TYPES, ids=lambda t: t.name)
def test_feedback_lowers_the_error_on_unseen_inputs(quant_type: QuantType) -> None:
    hessian, w, unseen = moments(correlated_inputs()), weights(8), moments(correlated_inputs(seed=9))
    _, with_feedback = quantize_rows(quant_type, w, feedback_factor(hessian))
    plain = decode(quant_type, encode(quant_type, w, np.ascontiguousarray(hessian.diagonal())), N_COLS)

    def output_error(meaning: np.ndarray) -> float:
        error = (meaning - w).astype(np.float64)
        return float(np.einsum("rc,cd,rd->", error, unseen, error))

    ratio = output_error(with_feedback) / output_error(plain)
    assert ratio < min(0.95, 1.2 * RATIOS[quant_type.name])


@pytest.mark.parametrize("quant_type", [QuantType.Q4_0, QuantType.Q4_K, QuantType.IQ3_S], ids=lambda t: t.name)
def test_any_split_of_the_rows_gives_the_same_bytes(quant_type: QuantType) -> None:
    factor, w = feedback_factor(moments(correlated_inputs())), weights(24)
    whole, meaning = quantize_rows(quant_type, w, factor)
    for size in (1, 7, 24):
        parts = [quantize_rows(quant_type, w[at : at + size], factor) for at in range(0, 24, size)]
        # float32 sums over the columns may run in another order for other heights: rarely a block ends in another byte.
        joined = np.concatenate([p[0] for p in parts])
        assert (joined != whole).mean() < 3e-2  # measured up to 9.0e-3, depending on the machine
    np.testing.assert_array_equal(decode(quant_type, whole, N_COLS), meaning)


def test_weights_are_left_as_they_were() -> None:
    w = weights(4)
    before = w.copy()
    quantize_rows(QuantType.Q4_0, w, feedback_factor(moments(correlated_inputs())))
    np.testing.assert_array_equal(w, before)


@pytest.mark.parametrize("n_tokens", [1, 40])
def test_moments_of_few_tokens_still_help(n_tokens: int) -> None:
    x = correlated_inputs(n_tokens)
    w = weights(8)
    factor = feedback_factor(moments(x))
    assert torch.isfinite(factor.root).all() and torch.isfinite(factor.inverse).all()
    _, meaning = quantize_rows(QuantType.Q4_0, w, factor)
    plain = decode(QuantType.Q4_0, encode(QuantType.Q4_0, w), N_COLS)
    assert np.isfinite(meaning).all()
    assert ((x @ (meaning - w).T) ** 2).mean() < 0.5 * ((x @ (plain - w).T) ** 2).mean()


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_moments_without_information_act_as_equal_importance(value: float) -> None:
    w = weights(4)
    factor = feedback_factor(np.full((N_COLS, N_COLS), value, dtype=np.float32))
    data, _ = quantize_rows(QuantType.Q4_K, w, factor)
    np.testing.assert_array_equal(factor.importance(256), np.full(N_COLS, factor.importance(256)[0]))
    # Nothing correlates, so feedback changes no target; the search over scales still beats the codec's own choice.
    expected = decode(QuantType.Q4_K, encode(QuantType.Q4_K, w, factor.importance(256)), N_COLS)
    assert ((decode(QuantType.Q4_K, data, N_COLS) - w) ** 2).sum() <= ((expected - w) ** 2).sum()


def test_the_factor_is_the_shrunk_and_damped_moments() -> None:
    hessian = moments(correlated_inputs())
    factor = feedback_factor(hessian, shrinkage=0.2, damping=0.01)
    damped = 0.8 * hessian + np.diag(0.2 * hessian.diagonal() + 0.01 * hessian.diagonal().mean())
    damped = damped[np.ix_(factor.order, factor.order)]
    np.testing.assert_allclose(factor.hessian.numpy(), damped, rtol=1e-5, atol=1e-8)
    root = factor.root.numpy()
    np.testing.assert_allclose(root @ root.T, damped, atol=2e-6 * damped.max() + 1e-6)
    np.testing.assert_allclose(root @ factor.inverse.numpy(), np.eye(N_COLS), atol=1e-4)
    assert (np.tril(root, -1) == 0).all()


def test_importance_is_what_an_error_costs_after_the_best_correction() -> None:
    """The last slab has nothing after it: its importance is the diagonal of its own damped moments."""
    hessian = moments(correlated_inputs())
    factor = feedback_factor(hessian, damping=0.01)
    damped = (hessian.diagonal() + 0.01 * hessian.diagonal().mean())[factor.order]
    values = factor.importance(256)
    np.testing.assert_allclose(values[256:], damped[256:], rtol=1e-3)
    assert (values[:256] <= damped[:256] * 1.001).all()


def test_floats_and_no_factor_are_the_plain_codec() -> None:
    w = weights(4)
    factor = feedback_factor(moments(correlated_inputs()))
    for quant_type, known in ((QuantType.F16, factor), (QuantType.Q8_0, None)):
        data, meaning = quantize_rows(quant_type, w, known)
        np.testing.assert_array_equal(data, encode(quant_type, w))
        np.testing.assert_array_equal(meaning, decode(quant_type, data, N_COLS))


@given(st.sampled_from([32, 64, 96, 256, 512, 576]), st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_the_coding_order_keeps_blocks_whole_and_takes_large_inputs_first(n_cols: int, seed: int) -> None:
    energy = np.random.default_rng(seed).exponential(size=n_cols).astype(np.float32)
    order = coding_order(energy)
    np.testing.assert_array_equal(np.sort(order), np.arange(n_cols))
    block = 256 if n_cols % 256 == 0 else 32
    for size in (32, block):
        blocks = order.reshape(-1, size) // size
        assert (blocks == blocks[:, :1]).all()
    np.testing.assert_array_equal(np.diff(order.reshape(-1, 32), axis=1), 1)
    sums = energy[order].reshape(-1, block).sum(axis=1)
    assert (np.diff(sums) <= 1e-4).all()


def test_rows_that_do_not_divide_into_blocks_are_coded_as_they_lie() -> None:
    np.testing.assert_array_equal(coding_order(np.arange(33, dtype=np.float32)), np.arange(33))


@pytest.mark.parametrize("quant_type", [QuantType.Q4_0, QuantType.Q4_K, QuantType.IQ3_S], ids=lambda t: t.name)
def test_coding_large_inputs_first_lowers_the_error(quant_type: QuantType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inputs that grow from left to right: as they lie, the largest would find nobody to take their error."""
    x = correlated_inputs() * np.geomspace(0.1, 3.0, N_COLS, dtype=np.float32)
    hessian, w = moments(x), weights(16)

    def output_error(factor: FeedbackFactor) -> float:
        error = (quantize_rows(quant_type, w, factor)[1] - w).astype(np.float64)
        return float(np.einsum("rc,cd,rd->", error, hessian, error))

    ordered = output_error(feedback_factor(hessian))
    monkeypatch.setattr("ramp_edge.feedback_root.coding_order", lambda energy: np.arange(len(energy)))
    assert ordered < 0.95 * output_error(feedback_factor(hessian))  # measured: 0.67, 0.61, 0.16
