"""The model of the cost, its gradient, and what its optimum does with the real codec."""

from __future__ import annotations

import numpy as np
import pytest

from ramp_edge.codec.types import QuantType
from ramp_edge.fold.groups import FoldGroup
from ramp_edge.fold.judge import moment_errors
from ramp_edge.fold.scales import ScaleTerm, _Prepared, search_scales
from ramp_edge.quantize.feedback import quantize_rows
from ramp_edge.quantize.hessian import feedback_factor

GROUP = FoldGroup(name="blk.0.ffn_in", readers=("blk.0.ffn_up.weight",), producer="blk.0.ffn_norm.weight")


def term(rows: np.ndarray, weight_kl: float = 1.0, activation_kl: float = 0.0, block: int = 32) -> ScaleTerm:
    return ScaleTerm(
        rows=rows,
        row_weights=np.ones(len(rows), np.float32),
        block_cols=32,
        weight_kl=weight_kl,
        activation_block=block,
        activation_kl=activation_kl,
        sensitivity=np.square(rows).sum(axis=0),
    )


def problem(seed: int = 0, n_cols: int = 128) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(rows, inputs, moments) of a layer whose inputs have loud channels."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((48, n_cols)).astype(np.float32)
    loud = np.exp(1.2 * rng.standard_normal(n_cols)).astype(np.float32)
    inputs = (rng.standard_normal((4096, n_cols)) * loud).astype(np.float32)
    return rows, inputs, inputs.T @ inputs / np.float32(len(inputs))


@pytest.mark.parametrize(("weight_kl", "activation_kl"), [(1.0, 0.0), (0.0, 1.0), (0.7, 0.3)])
def test_gradient_against_differences(weight_kl: float, activation_kl: float) -> None:
    rows, _, moments = problem()
    price = feedback_factor(moments).price()
    prepared = _Prepared(term(rows, weight_kl, activation_kl), price, np.diagonal(moments).copy())
    assert prepared.cost(np.zeros(128, np.float32))[0] == pytest.approx(2 * weight_kl + activation_kl, rel=1e-4)
    at = (0.3 * np.random.default_rng(1).standard_normal(128)).astype(np.float32)
    _, gradient = prepared.cost(at)
    for column in (0, 17, 64, 127):
        step = np.zeros(128, np.float32)
        step[column] = 0.02
        slope = (prepared.cost(at + step)[0] - prepared.cost(at - step)[0]) / 0.04
        assert slope == pytest.approx(float(gradient[column]), rel=0.03, abs=2e-5)


def test_scales_lower_the_error_of_the_real_codec() -> None:
    """On loud channels and inputs that nothing was fitted to."""
    ratios = []
    for seed in range(3):
        rows, inputs, _ = problem(seed)
        half = inputs[:2048]
        moments = half.T @ half / np.float32(len(half))
        unseen = inputs[2048:].T @ inputs[2048:] / np.float32(2048)
        factor = feedback_factor(moments)
        scales = search_scales(GROUP, [term(rows)], factor.price(), np.diagonal(moments).copy())
        assert np.log(scales).mean() == pytest.approx(0.0, abs=0.05)
        errors = []
        for s in (np.ones(128, np.float32), scales):
            meaning = quantize_rows(QuantType.Q4_0, rows * s, factor.scaled(s))[1]
            errors.append(moment_errors(rows - meaning / s, unseen).sum())
        ratios.append(errors[1] / errors[0])
    assert max(ratios) < 0.9  # measured 0.74 to 0.83


def test_nothing_to_gain_leaves_scales_alone() -> None:
    rows, _, moments = problem()
    ones = search_scales(GROUP, [term(rows, 0.0)], feedback_factor(moments).price(), np.diagonal(moments).copy())
    assert (ones == 1.0).all()


def test_scaled_factor_is_the_factor_of_scaled_moments() -> None:
    _, _, moments = problem()
    s = np.exp(0.3 * np.random.default_rng(0).standard_normal(128)).astype(np.float32)
    factor = feedback_factor(moments, damping=0.0)
    scaled = factor.scaled(s)
    order = factor.order
    h = scaled.hessian.numpy()
    assert np.allclose(h, factor.hessian.numpy() / np.outer(s[order], s[order]), rtol=1e-4)
    root = scaled.root.numpy().astype(np.float64)
    assert np.abs(root @ root.T - h).max() < 1e-3 * np.abs(h).max()
    assert np.allclose(scaled.price(), factor.price() / s**2, rtol=1e-4)
