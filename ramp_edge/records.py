"""Frozen records that the stages hand to each other; no behaviour beyond derived values.

Shapes follow ggml: `n_cols` is ne[0] (the length of a row, the input width of a linear layer) and
`n_rows` everything else. Bytes are bytes, never MB; rates are per second.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ramp_edge.codec.types import QuantType


class Role(str, Enum):
    """What a tensor does in the network; drives legality, cost and the read-per-token model."""

    TOKEN_EMBD = "token_embd"
    OUTPUT = "output"
    ATTN_Q = "attn_q"
    ATTN_K = "attn_k"
    ATTN_V = "attn_v"
    ATTN_OUTPUT = "attn_output"
    FFN_GATE = "ffn_gate"
    FFN_UP = "ffn_up"
    FFN_DOWN = "ffn_down"
    NORM = "norm"
    BIAS = "bias"
    OTHER = "other"


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorInfo:
    """One tensor of the source model."""

    name: str
    """GGUF name, e.g. `blk.3.ffn_down.weight`."""
    role: Role
    layer: int | None
    """Block index, or None outside the blocks."""
    shape: tuple[int, ...]
    """ggml order: shape[0] is the row length."""
    source_type: QuantType
    kept_reason: str | None
    """None where the tensor may be quantized; else why it stays as it is (1-D, norm, ...)."""

    @property
    def n_cols(self) -> int:
        return self.shape[0]

    @property
    def n_rows(self) -> int:
        rows = 1
        for size in self.shape[1:]:
            rows *= size
        return rows

    @property
    def n_elements(self) -> int:
        return self.n_cols * self.n_rows

    @property
    def source_bytes(self) -> int:
        return self.source_type.row_bytes(self.n_cols) * self.n_rows

    @property
    def quantizable(self) -> bool:
        return self.kept_reason is None


@dataclass(frozen=True, kw_only=True, slots=True)
class ArchitectureFacts:
    """How a family's decoder differs from plain Llama. Norms on q and k, biases and untied heads show in the tensors."""

    name: str
    rope_neox: bool
    """True where RoPE turns the halves of a head, False where it turns neighbouring pairs."""
    gelu: bool = False
    """GELU (tanh) gates the feed-forward instead of SiLU."""
    scaled_embedding: bool = False
    """Embeddings are multiplied by sqrt(n_embd)."""
    post_norms: bool = False
    """Norms after attention and feed-forward, before the residual sum."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Hyperparameters:
    """What the budget and the forward pass need to know, read from the GGUF metadata."""

    context_length: int
    n_layer: int
    n_embd: int
    n_ff: int
    n_head: int
    n_head_kv: int
    head_dim_k: int
    head_dim_v: int
    vocab_size: int
    norm_eps: float
    rope_base: float
    rope_dim: int
    rope_scaling_factor: float
    """1.0 where no linear scaling is stored."""
    sliding_window: int
    """Tokens seen by a sliding-window layer; 0 where the model has none."""
    swa_layers: tuple[bool, ...]
    """For each block, whether it uses the sliding window."""
    rope_base_swa: float
    """RoPE base of the sliding-window layers (Gemma 3: 10000)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelInventory:
    """A source model, opened and checked, nothing loaded."""

    path: Path
    """The GGUF that everything reads from (converted first where the user gave an HF directory)."""
    display_name: str
    architecture: str
    hyper: Hyperparameters
    tensors: tuple[TensorInfo, ...]
    """In file order."""
    tied_embedding: bool
    sha256: str
    file_bytes: int

    @property
    def n_params(self) -> int:
        return sum(t.n_elements for t in self.tensors)

    @property
    def quantizable(self) -> tuple[TensorInfo, ...]:
        return tuple(t for t in self.tensors if t.quantizable)

    def tensor(self, name: str) -> TensorInfo:
        for tensor in self.tensors:
            if tensor.name == name:
                return tensor
        raise KeyError(name)


@dataclass(frozen=True, kw_only=True, slots=True)
class TypeSupport:
    """How a device runs one type."""

    decode_efficiency: float
    """Achieved bandwidth in decode relative to Q8_0 on the same device (1.0)."""
    decode_efficiency_in_cache: float | None
    """The same for a model that fits in the last cache; None: as above."""
    output_row_s: float
    """Seconds that a row of the output matrix costs beside its bytes, in a model beyond the last cache."""
    prefill_efficiency: float
    """Prefill tokens/s relative to Q8_0 on the same device (1.0)."""
    repacks: bool
    """True where the CPU backend keeps a second, repacked copy (unless mmap is off)."""
    source: str
    measured: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceTarget:
    """A device profile, resolved: what the compiler needs of a board."""

    name: str
    title: str
    memory_total_bytes: int
    memory_usable_bytes: int
    bandwidth_peak_bytes_s: float
    bandwidth_effective_bytes_s: float
    """What llama.cpp's decode reaches with Q8_0."""
    cores: int
    decode_threads: int
    isa: tuple[str, ...]
    backend: str
    """cpu, cuda or metal."""
    target_bpw: float
    max_bpw: float
    types: dict[QuantType, TypeSupport]
    default_ctx: int
    default_kv_type: QuantType
    profile_path: Path
    measured: bool
    """True only where every speed figure was measured on the board."""
    token_overhead_s: float = 0.0
    """Fixed seconds per decoded token (launches, sampling)."""
    layer_overhead_s: float = 0.0
    """Seconds per layer and decoded token beside reading weights: small operations, threads that wait for each other."""
    layer_overhead_in_cache_s: float = 0.0
    """The same for a model that fits in the last cache."""
    bandwidth_in_cache_bytes_s: float | None = None
    """What decode reaches with Q8_0 of a model that fits in the last cache; None: as beyond it."""
    cache_bytes: int = 0
    """The last cache; 0 where it is not known."""
    attention_macs_s: dict[QuantType, float] = field(default_factory=dict)
    """Multiply-adds of query heads with cached keys and values per second in decode, by type of the KV cache; empty where it is not known."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryLine:
    """One line of the resident-memory budget."""

    name: str
    """weights, kv_cache, compute_buffer, repack_copy, tied_copy, output_buffer"""
    size_bytes: int
    detail: str
    """How the number came about, in words and factors."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryBudget:
    """Resident memory of one allocation on one device, line by line."""

    lines: tuple[MemoryLine, ...]
    usable_bytes: int

    @property
    def total_bytes(self) -> int:
        return sum(line.size_bytes for line in self.lines)

    @property
    def free_bytes(self) -> int:
        return self.usable_bytes - self.total_bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Allocation:
    """A type for every quantizable tensor."""

    origin: str
    """Who proposed it: `knapsack`, `preset:Q4_K_M`, `uniform:Q8_0`, ..."""
    types: dict[str, QuantType]
    """Tensor name -> type, for exactly the quantizable tensors."""
    predicted_kl: float | None = None
    """Sum of the error table's entries, nats per token; None without a table."""
    folded: bool = False
    """Whether the file is made of the folded model."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputHead:
    """The matrix that turns final hidden states into logits, unquantized: `output.weight` or the tied embedding."""

    rows: npt.NDArray[np.uint8]
    """Raw bytes, [n_vocab, row_bytes], a view of the model file."""
    quant_type: QuantType
    """F32, F16 or BF16."""
    softcap: float
    """Logits are capped as cap * tanh(logit / cap); 0 where the model has none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ErrorTable:
    """Predicted KL (nats per token) of putting one tensor into one type, everything else at full precision."""

    kl: dict[str, dict[QuantType, float]]
    """Tensor name -> type -> KL."""

    def to_plain(self) -> dict[str, dict[str, float]]:
        """For JSON, types by their names."""
        return {name: {t.name: kl for t, kl in row.items()} for name, row in self.kl.items()}

    @classmethod
    def from_plain(cls, data: Mapping[str, Mapping[str, float]]) -> ErrorTable:
        """The reverse. Raises KeyError for a type that does not exist."""
        return cls(kl={name: {QuantType[t]: float(kl) for t, kl in row.items()} for name, row in data.items()})


TUNED_ORIGIN = "tuned"
"""`Allocation.origin` of a plan that --tune found."""


def comparable_origins(measured: Collection[tuple[str, bool]]) -> set[str]:
    """Of plans that were measured, as (origin, folded): the origins to tell by what folding is worth, those measured in both kinds.

    An allocator whose plan was measured in one kind alone would give that kind one try more.
    """
    return {origin for origin, folded in measured if folded} & {origin for origin, folded in measured if not folded}


def plan_label(origin: str, *, folded: bool) -> str:
    """How progress, summary and records call a plan."""
    return f"{origin}, folded" if folded else origin


NOISE_SCALE = 0.5
"""Factor on the first feature, the logarithm of a KL: dividing by it gives that back."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFeatures:
    """The policy's features of every quantizable tensor, in execution order (`calibrate/features.py` defines them)."""

    names: tuple[str, ...]
    values: npt.NDArray[np.float32]
    """[n_tensors, 11]"""
    rounding_kl: npt.NDArray[np.float64]
    """[n_tensors]: KL per token of plain 4-bit rounding under error feedback; the first feature is its logarithm a weight, centred"""
    types: tuple[QuantType, ...]
    relative_kl: npt.NDArray[np.float64]
    """[n_tensors, n_types]: KL of each type over that of the plain 4-bit rounding; NaN where it is not legal."""

    def foreseen(self) -> ErrorTable:
        """Predicted KL of every tensor in its legal types, from forward passes alone."""
        kl = self.rounding_kl[:, None] * self.relative_kl
        return ErrorTable(
            kl={
                name: {t: float(value) for t, value in zip(self.types, row, strict=True) if np.isfinite(value)}
                for name, row in zip(self.names, kl, strict=True)
            }
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Perplexity:
    """exp(mean negative log-likelihood) over scored tokens, as llama-perplexity defines it."""

    value: float
    std_error: float
    n_tokens: int
    n_windows: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Divergence:
    """KL divergence to the reference over scored positions, nats per token, as llama-perplexity defines it."""

    mean_kl: float
    std_error: float
    median_kl: float
    p99_kl: float
    top_token_agreement: float
    """Share of positions where both models rank the same token first, 0..1."""
    n_tokens: int


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationResult:
    """One model on one text."""

    label: str
    file_bytes: int
    perplexity: Perplexity
    divergence: Divergence | None
    """None for the reference itself."""
    seconds: float

    @property
    def mean_kl(self) -> float | None:
        """Mean KL to the reference; None for the reference itself."""
        return None if self.divergence is None else self.divergence.mean_kl
