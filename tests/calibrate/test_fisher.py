"""Fisher samples against transformers' own gradients, and predicted KL against measured KL."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch.nn import functional as F

from ramp_edge.calibrate import fisher
from ramp_edge.calibrate.decoder import DecoderModel
from ramp_edge.calibrate.fisher import EmbeddingSamples, FisherSamples, HeadSamples, Samples, fisher_pass
from ramp_edge.calibrate.moments import moments_pass
from ramp_edge.calibrate.store import EMBEDDING_SITE, TIED_SITE, CalibrationSettings, CalibrationStore
from ramp_edge.events import EventBus
from ramp_edge.records import TensorInfo

Tokens = npt.NDArray[np.int32]
N_SEQUENCES, LENGTH = 5, 48
"""Longer than Gemma's window of 32; five sequences do not divide evenly into batches."""
_HF_PARTS = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


class ExactStore(CalibrationStore):
    """Keeps hidden states in float32, so that only the mathematics is compared."""

    def save_hidden(self, name: str, hidden: torch.Tensor) -> None:
        self.save(name, hidden.numpy())

    def load_hidden(self, name: str) -> torch.Tensor:
        return torch.from_numpy(self.load_float(name))


def every_row(tensor: TensorInfo) -> npt.NDArray[np.int64]:
    return np.arange(tensor.n_rows, dtype=np.int64)


def run(
    model: DecoderModel,
    tokens: Tokens,
    store: CalibrationStore,
    rows: Callable[[TensorInfo], npt.NDArray[np.int64]] = every_row,
) -> dict[str, Samples]:
    """Both passes; samples by tensor name, `embedding` for the embedding's."""
    settings = CalibrationSettings(
        n_sequences=len(tokens),
        sequence_tokens=tokens.shape[1],
        fisher_sequences=len(tokens),
        fisher_tokens=tokens.shape[1],
    )
    found: dict[str, Samples] = {}

    def consume(samples: Samples) -> None:
        found["embedding" if isinstance(samples, EmbeddingSamples) else samples.name] = samples

    moments_pass(model, tokens, settings, store, EventBus())
    fisher_pass(model, tokens, settings, store, rows, consume, EventBus())
    return found


@dataclass(frozen=True)
class Truth:
    """transformers' answers, by Hugging Face parameter name."""

    gradients: dict[str, torch.Tensor]
    """[n_sequences, n_rows, n_cols]"""
    row_squares: dict[str, torch.Tensor]
    """[n_rows]"""
    hidden: torch.Tensor
    probabilities: torch.Tensor


def transformers_gradients(directory: Path, tokens: Tokens, labels: torch.Tensor) -> Truth:
    """d(sum of the labels' log-probabilities)/dW of each sequence, from an independent model in float32."""
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager"
    )
    if "llama" in str(model.config.model_type):  # kept in float32 on disk, in F16 in the GGUF
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.data = parameter.data.half().float()
    squares: dict[str, torch.Tensor] = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and "layers" in name:

            def keep(_m: Any, _i: Any, grads: Any, name: str = name) -> None:
                squares[name] = squares.get(name, torch.zeros(())) + grads[0].square().sum((0, 1))

            module.register_full_backward_hook(keep)
    gradients: dict[str, list[torch.Tensor]] = {}
    hidden, probabilities = [], []
    for s in range(len(tokens)):
        model.zero_grad()
        out = model(torch.from_numpy(tokens[s : s + 1]).long(), output_hidden_states=True)
        log_p = out.logits[0].log_softmax(-1)
        log_p.gather(1, labels[s].unsqueeze(1)).sum().backward()
        hidden.append(out.hidden_states[-1][0].detach())
        probabilities.append(log_p.detach().exp())
        for name, parameter in model.named_parameters():
            gradients.setdefault(name, []).append(parameter.grad.clone())
    return Truth(
        gradients={name: torch.stack(parts) for name, parts in gradients.items()},
        row_squares=squares,
        hidden=torch.stack(hidden),
        probabilities=torch.stack(probabilities),
    )


def interleave(rows: torch.Tensor, n_heads: int) -> torch.Tensor:
    """Hugging Face's order of q and k rows (halves of a head) to Llama GGUF's (neighbouring pairs); rows on axis -2."""
    lead, n_cols = rows.shape[:-2], rows.shape[-1]
    return rows.reshape(*lead, n_heads, 2, -1, n_cols).transpose(-2, -3).reshape(rows.shape)


def relative_error(ours: torch.Tensor, truth: torch.Tensor) -> float:
    return float((ours - truth).norm() / truth.norm())


@pytest.fixture
def fixed_labels(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], torch.Tensor]:
    """Replaces the sampling of labels by a fixed list, so that two programs can be compared."""

    def fix(vocab: int) -> torch.Tensor:
        labels = torch.randint(vocab, (N_SEQUENCES, LENGTH), generator=torch.Generator().manual_seed(3))
        rest = list(labels.flatten())
        monkeypatch.setattr(fisher, "_sample_labels", lambda p, _u: torch.stack([rest.pop(0) for _ in range(len(p))]))
        return labels

    return fix


@pytest.mark.hf
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gemma3"])
def test_samples_equal_transformers_gradients(
    family: str,
    tiny_hf_model: Callable[[str], Path],
    converted: Callable[[str], Path],
    fixed_labels: Callable[[int], torch.Tensor],
    tmp_path: Path,
    decoders: Any,
) -> None:
    model = decoders.open(converted(family))
    hyper = model.inventory.hyper
    tokens = decoders.tokens(model, N_SEQUENCES, LENGTH)
    labels = fixed_labels(hyper.vocab_size)
    truth = transformers_gradients(tiny_hf_model(family), tokens, labels)
    store = ExactStore(tmp_path)
    found = run(model, tokens, store)

    linear = [s for s in found.values() if isinstance(s, FisherSamples)]
    assert len(linear) == 7 * hyper.n_layer
    for samples in linear:
        _, index, part, _ = samples.name.split(".")
        hf_name = f"model.layers.{index}.{_HF_PARTS[part]}"
        wanted, squares = truth.gradients[hf_name + ".weight"], truth.row_squares[hf_name]
        if family == "llama" and part in ("attn_q", "attn_k"):
            heads = hyper.n_head if part == "attn_q" else hyper.n_head_kv
            wanted, squares = interleave(wanted, heads), interleave(squares.unsqueeze(1), heads).squeeze(1)
        assert samples.tokens_per_sequence == LENGTH
        assert relative_error(samples.gradients, wanted) < 1e-4, samples.name  # measured 2e-6 at most
        assert relative_error(samples.row_gradient_sq, squares) < 1e-4, samples.name

    head = found[model.head_name]
    assert isinstance(head, HeadSamples)
    assert head.coverage == pytest.approx(1.0, abs=1e-5)
    p = truth.probabilities.flatten(0, 1)
    torch.testing.assert_close(head.hidden, truth.hidden.flatten(0, 1), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(head.variance, p - p * p, rtol=1e-3, atol=1e-6)

    embedding = found["embedding"]
    assert isinstance(embedding, EmbeddingSamples)
    ours = torch.zeros(N_SEQUENCES, hyper.vocab_size, hyper.n_embd)
    for s in range(N_SEQUENCES):
        ours[s].index_add_(0, torch.from_numpy(embedding.tokens[s]), embedding.gradients[s])
    if model.inventory.tied_embedding:
        one_hot = F.one_hot(labels, hyper.vocab_size)
        ours += torch.einsum("stv,ste->sve", one_hot - truth.probabilities, truth.hidden)
    assert relative_error(ours, truth.gradients["model.embed_tokens.weight"]) < 1e-4
    as_input = embedding.gradients.flatten(0, 1)
    as_input = as_input.T @ as_input / len(as_input)
    if model.inventory.tied_embedding:
        states = truth.hidden.flatten(0, 1)
        both = (1.0 - p.square().sum(1).mean()) * states.T @ states / len(states) + as_input
        assert relative_error(torch.from_numpy(store.moments(TIED_SITE)), both) < 1e-3
    else:
        assert not store.has(f"{TIED_SITE}.moments")
    assert relative_error(torch.from_numpy(store.moments(EMBEDDING_SITE)), as_input) < 1e-5


def test_stored_half_precision_costs_little(
    tiny_gguf: Path, tmp_path: Path, fixed_labels: Callable[[int], torch.Tensor], decoders: Any
) -> None:
    model = decoders.open(tiny_gguf)
    tokens = decoders.tokens(model, N_SEQUENCES, LENGTH)
    fixed_labels(model.inventory.hyper.vocab_size)
    exact = run(model, tokens, ExactStore(tmp_path / "a"))
    fixed_labels(model.inventory.hyper.vocab_size)
    stored = run(model, tokens, CalibrationStore(tmp_path / "b"))
    worst = 0.0
    for name, samples in exact.items():
        if isinstance(samples, FisherSamples):
            other = stored[name]
            assert isinstance(other, FisherSamples)
            worst = max(worst, relative_error(other.gradients, samples.gradients))
    print("worst", worst)
    assert 0.0 < worst < 0.05


def test_row_subset_is_a_subset(tiny_gguf: Path, tmp_path: Path, decoders: Any) -> None:
    model = decoders.open(tiny_gguf)
    tokens = decoders.tokens(model, N_SEQUENCES, LENGTH)
    rows = np.array([0, 3, 17, 127], dtype=np.int64)
    whole, some = (
        run(model, tokens, ExactStore(tmp_path / "a")),
        run(model, tokens, ExactStore(tmp_path / "b"), lambda _t: rows),
    )
    for name, samples in some.items():
        if isinstance(samples, FisherSamples):
            other = whole[name]
            assert isinstance(other, FisherSamples)
            assert samples.gradients.shape == (N_SEQUENCES, len(rows), model.inventory.tensor(name).n_cols)
            torch.testing.assert_close(samples.gradients, other.gradients[:, torch.from_numpy(rows)])
            torch.testing.assert_close(samples.row_gradient_sq, other.row_gradient_sq)


def test_labels_follow_the_softmax() -> None:
    p = torch.tensor([[0.5, 0.0, 0.3, 0.2], [0.0, 0.0, 0.0, 1.0], [1.0, 0.0, 0.0, 0.0]])
    uniform = torch.rand(30_000, generator=torch.Generator().manual_seed(0))
    counts = torch.bincount(fisher._sample_labels(p[:1].expand(len(uniform), -1), uniform), minlength=4)
    torch.testing.assert_close(counts / len(uniform), p[0], rtol=0.0, atol=0.01)
    ends = torch.tensor([0.0, 0.0])
    assert fisher._sample_labels(p[1:], ends).tolist() == [3, 0]
    assert fisher._sample_labels(p[1:], 1.0 - ends).tolist() == [3, 3]


def measured_kl(model: DecoderModel, tokens: Tokens, name: str, error: torch.Tensor) -> float:
    """Mean KL per token of adding `error` to one tensor."""
    inner = model._load

    def shifted(wanted: str, first_row: int = 0, last_row: int | None = None) -> npt.NDArray[np.float32]:
        values = inner(wanted, first_row, last_row)
        return values + error.numpy()[first_row:last_row] if wanted == name else values

    other = DecoderModel(model.inventory, model.facts, shifted, torch.float32)
    before = model.logits(tokens).double().log_softmax(-1)
    after = other.logits(tokens).double().log_softmax(-1)
    return float((before.exp() * (before - after)).sum(-1).mean())


@pytest.mark.slow
def test_predicted_kl_is_the_measured_one(make_tiny_gguf: Any, tmp_path: Path, decoders: Any) -> None:
    """KL per token = 1/2 mean_s <E, G_s>^2 / T for one small error in one tensor; rows add up where errors are random."""
    model = decoders.open(make_tiny_gguf(tmp_path / "untied.gguf", tied=False, seed=4))
    n, time = 240, 32
    tokens = decoders.tokens(model, n, time, seed=5)
    found = run(model, tokens, CalibrationStore(tmp_path / "store"))
    ratios = {}
    for name in ("blk.0.attn_q.weight", "blk.0.attn_v.weight", "blk.1.ffn_down.weight", "blk.0.ffn_up.weight"):
        samples = found[name]
        assert isinstance(samples, FisherSamples)
        weight = model.as_tensor(name, None)
        generator = torch.Generator().manual_seed(len(ratios))
        error = 0.02 * weight.std() * torch.randn(weight.shape, generator=generator)
        per_row = torch.einsum("src,rc->sr", samples.gradients, error)
        truth = measured_kl(model, tokens, name, error)
        whole = 0.5 * float(per_row.sum(1).square().mean()) / time
        by_row = 0.5 * float(per_row.square().sum(1).mean()) / time
        ratios[name] = (whole / truth, by_row / truth)
    head = found["output.weight"]
    assert isinstance(head, HeadSamples)
    weight = model.as_tensor("output.weight", None)
    error = 0.01 * weight.std() * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    shift = head.hidden @ error[torch.from_numpy(head.rows)].T
    predicted = 0.5 * float((head.variance * shift.square()).sum(1).mean()) / head.coverage
    ratios["output.weight"] = (predicted / measured_kl(model, tokens, "output.weight", error),) * 2
    print(ratios)
    for whole, by_row in ratios.values():
        assert 0.6 < whole < 1.6, ratios
        assert 0.6 < by_row < 1.6, ratios
