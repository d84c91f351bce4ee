"""Ratios of paired costs, their noise, and what counts as a gain."""

from __future__ import annotations

import numpy as np
import pytest

from ramp_edge.fold.judge import UNCHANGED, is_gain, moment_errors, output_errors, paired_ratio


def test_output_errors_two_ways() -> None:
    rng = np.random.default_rng(0)
    error, inputs = rng.standard_normal((5, 8)).astype(np.float32), rng.standard_normal((40, 8)).astype(np.float32)
    truth = [np.mean([float(e @ x) ** 2 for x in inputs]) for e in error]
    assert output_errors(error, inputs) == pytest.approx(truth, rel=1e-5)
    assert moment_errors(error, inputs.T @ inputs / np.float32(40)) == pytest.approx(truth, rel=1e-4)


def test_the_noise_is_that_of_repeated_samples() -> None:
    rng = np.random.default_rng(0)
    ratios, noises = [], []
    for _ in range(400):
        before = rng.lognormal(0, 0.5, 64)
        ratio = paired_ratio(before, before * 0.95 * np.exp(0.1 * rng.standard_normal(64)))
        ratios.append(ratio.value)
        noises.append(ratio.noise)
    assert np.mean(noises) == pytest.approx(np.std(ratios), rel=0.15)  # measured 7 % under


def test_equal_costs_have_no_noise_and_nothing_is_unchanged() -> None:
    costs = np.array([1.0, 2.0, 3.0])
    assert paired_ratio(costs, 0.5 * costs).noise == pytest.approx(0.0, abs=1e-12)
    assert paired_ratio(np.zeros(3), costs) == UNCHANGED


def test_a_gain_must_exceed_its_noise() -> None:
    assert is_gain(1.0, 0.9, 0.04)
    assert not is_gain(1.0, 0.9, 0.06)
    assert not is_gain(1.0, 1.0, 0.0)
    assert not is_gain(1.0, 1.1, 0.0)
