"""Predicted KL against the formulas written out with loops, and against the KL of a softmax itself."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from ramp_edge.codec.ggml import decode, encode
from ramp_edge.codec.types import QuantType
from ramp_edge.quantize.hessian import feedback_factor
from ramp_edge.quantize.sensitivity import RowErrors, embedding_kl, head_kl, linear_kl, row_errors

Q8, Q4 = QuantType.Q8_0, QuantType.Q4_0


def made_up(rows: np.ndarray, n_cols: int, seed: int = 0, size: float = 1.0) -> RowErrors:
    generator = torch.Generator().manual_seed(seed)
    errors = {
        t: scale * size * torch.randn(len(rows), n_cols, generator=generator) for t, scale in ((Q8, 0.1), (Q4, 1))
    }
    return RowErrors(rows=rows, weights=np.zeros((len(rows), n_cols), dtype=np.float32), errors=errors)


def test_linear_kl_is_its_formula() -> None:
    errors = made_up(np.arange(6), 5)
    gradients = torch.randn(4, 6, 5, generator=torch.Generator().manual_seed(1))
    found = linear_kl(errors, gradients, torch.rand(6), np.ones(6, dtype=np.float32), tokens=7)
    for quant_type, error in errors.errors.items():
        total = 0.0
        for s in range(4):
            for r in range(6):
                total += float(sum(gradients[s, r, c] * error[r, c] for c in range(5))) ** 2
        assert found[quant_type] == pytest.approx(0.5 * total / 4 / 7, rel=1e-5)


def test_sampled_rows_stand_for_all_rows() -> None:
    """With rows of unlike size and gradient, an eighth of them predicts the whole within its noise."""
    rng = np.random.default_rng(0)
    n_rows, n_cols = 1600, 64
    energy = rng.lognormal(0, 0.8, n_rows).astype(np.float32)
    loud = rng.lognormal(0, 0.8, n_rows).astype(np.float32)
    error = torch.from_numpy((rng.standard_normal((n_rows, n_cols)) * np.sqrt(energy)[:, None]).astype(np.float32))
    gradients = torch.from_numpy((rng.standard_normal((8, n_rows, n_cols)) * loud[:, None]).astype(np.float32))
    squares = torch.from_numpy(loud * loud)
    rows = np.linspace(0, n_rows - 1, n_rows // 8).round().astype(np.int64)

    def predicted(chosen: np.ndarray) -> float:
        part = RowErrors(rows=chosen, weights=np.zeros((len(chosen), n_cols), np.float32), errors={Q4: error[chosen]})
        return linear_kl(part, gradients[:, chosen], squares, energy, tokens=1)[Q4]

    whole = predicted(np.arange(n_rows))
    assert predicted(rows) == pytest.approx(whole, rel=0.1)  # measured SAMPLED_MEASURED
    # Scaling by the share of rows alone would follow the luck of the draw instead.
    assert predicted(np.argsort(energy * loud**2)[: n_rows // 2]) == pytest.approx(whole, rel=0.1)


def test_head_kl_is_the_divergence_of_the_softmax() -> None:
    """Independent errors of rows: the prediction is the mean of the true KL over them."""
    generator = torch.Generator().manual_seed(0)
    vocab, width, n_tokens = 50, 16, 40
    weight = torch.randn(vocab, width, generator=generator)
    hidden = torch.randn(n_tokens, width, generator=generator)
    p = (hidden @ weight.T).softmax(-1)
    predicted, measured = [], []
    for seed in range(30):
        errors = made_up(np.arange(vocab), width, seed, size=0.02)
        predicted.append(head_kl(errors, hidden, p - p * p, 1.0)[Q4])
        log_q = (hidden @ (weight + errors.errors[Q4]).T).double().log_softmax(-1)
        log_p = (hidden @ weight.T).double().log_softmax(-1)
        measured.append(float((log_p.exp() * (log_p - log_q)).sum(-1).mean()))
    assert np.mean(predicted) == pytest.approx(np.mean(measured), rel=0.1)  # measured HEAD_MEASURED


def test_head_kl_scales_with_the_rows_that_were_left_out() -> None:
    errors, hidden = made_up(np.arange(9), 4), torch.randn(5, 4)
    variance = torch.rand(5, 9)
    full = head_kl(errors, hidden, variance, 1.0)
    assert head_kl(errors, hidden, variance, 0.8)[Q8] == pytest.approx(full[Q8] / 0.8)


def test_occurrences_of_a_token_add_before_squaring() -> None:
    tokens = np.array([[5, 2, 5, 9], [2, 2, 2, 5]])
    rows = np.unique(tokens)
    errors = made_up(rows, 3)
    gradients = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(2))
    found = embedding_kl(errors, tokens, gradients)
    for quant_type, error in errors.errors.items():
        total = 0.0
        for s in range(2):
            for index, token in enumerate(rows):
                shift = sum(float(gradients[s, t] @ error[index]) for t in range(4) if tokens[s, t] == token)
                total += shift**2
        assert found[quant_type] == pytest.approx(0.5 * total / 2 / 4, rel=1e-5)


@pytest.mark.parametrize("with_factor", [False, True])
def test_row_errors_are_those_of_the_quantizer(with_factor: bool) -> None:
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((4, 256)).astype(np.float32)
    x = rng.standard_normal((600, 256)).astype(np.float32)
    factor = feedback_factor(x.T @ x / 600) if with_factor else None
    with ThreadPoolExecutor(2) as pool:
        found = row_errors(weights, np.arange(4), [Q8, Q4, QuantType.Q4_K], factor, pool)
    assert set(found.errors) == {Q8, Q4, QuantType.Q4_K}
    sizes = {t: float(e.square().mean()) for t, e in found.errors.items()}
    assert 0 < sizes[Q8] < sizes[QuantType.Q4_K] < sizes[Q4]
    plain = weights - decode(Q4, encode(Q4, weights), 256)
    assert np.allclose(found.errors[Q4].numpy(), plain, atol=1e-6) is not with_factor
