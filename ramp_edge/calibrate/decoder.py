"""A torch forward pass of Llama-family decoders, layer by layer, straight from GGUF tensors.

Why not transformers: the pass works on the very tensors that will be quantized, under their GGUF names, holds one layer in
memory, and its taps hand out each linear layer's input and output. Equality with libllama's logits is tested
per family. Linear layers run in bfloat16 where the CPU multiplies it natively (3x float32 on Zen 4); the residual stream,
norms and softmax stay in float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from ramp_edge.errors import UnsupportedModelError
from ramp_edge.records import ArchitectureFacts, Hyperparameters, ModelInventory

Float32 = npt.NDArray[np.float32]
Tap = Callable[[str, Tensor, Tensor], None]
"""Called with (tensor name, input [batch, time, n_cols], output [batch, time, n_rows]) of each linear layer. What it adds to the
output in place is what the block goes on with."""


class TensorLoader(Protocol):
    """Values of a tensor, float32 [n_rows, n_cols], whole or a range of rows."""

    def __call__(self, name: str, first_row: int = 0, last_row: int | None = None) -> Float32: ...


LINEAR_PARTS = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
"""Linear layers of a block, all of them tapped."""
_NORM_PARTS = ("attn_norm", "ffn_norm", "attn_q_norm", "attn_k_norm", "post_attention_norm", "post_ffw_norm")
_BLOCK_PARTS = {f"{part}.{kind}" for part in LINEAR_PARTS for kind in ("weight", "bias")} | {
    f"{part}.weight" for part in _NORM_PARTS
}
_OTHER_TENSORS = {"token_embd.weight", "output.weight", "output_norm.weight", "rope_freqs.weight"}


def check_known_tensors(inventory: ModelInventory) -> None:
    """Raise UnsupportedModelError naming tensors that the forward pass would silently leave out."""
    unknown = [
        t.name
        for t in inventory.tensors
        if (t.name not in _OTHER_TENSORS if t.layer is None else t.name.split(".", 2)[2] not in _BLOCK_PARTS)
    ]
    if unknown:
        raise UnsupportedModelError(
            f"{inventory.path.name}: {len(unknown)} tensors that a {inventory.architecture} decoder does not have "
            f"in ramp-edge: {', '.join(unknown[:4])}{', ...' if len(unknown) > 4 else ''}",
            hint="the model is a variant that ramp-edge cannot run backwards yet",
        )


@lru_cache(maxsize=1)
def fast_dtype() -> torch.dtype:
    """bfloat16 where the CPU has instructions for it, else float32."""
    capabilities = torch.backends.cpu.get_cpu_capability()
    native = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    return torch.bfloat16 if native and "AVX512" in capabilities else torch.float32


def attention_scale(hyper: Hyperparameters, facts: ArchitectureFacts) -> float:
    """Factor on q k^T. Gemma 3 27B, known by its 62 blocks, has its own (llama.cpp src/models/gemma3.cpp)."""
    width = hyper.n_embd // hyper.n_head if facts.name == "gemma3" and hyper.n_layer == 62 else hyper.head_dim_k
    return 1.0 / math.sqrt(width)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMS norm over the last axis in float32."""
    return F.rms_norm(x, (x.shape[-1],), weight, eps)


def rope_table(hyper: Hyperparameters, *, local: bool, time: int, factors: Tensor | None) -> tuple[Tensor, Tensor]:
    """(cos, sin), each [time, rope_dim / 2]. `factors` divide the frequencies (Llama 3's rope_freqs)."""
    base = hyper.rope_base_swa if local else hyper.rope_base
    scale = 1.0 if local else hyper.rope_scaling_factor
    frequencies = base ** (-torch.arange(0, hyper.rope_dim, 2, dtype=torch.float64) / hyper.rope_dim) / scale
    if factors is not None:
        frequencies = frequencies / factors.double().flatten()
    angles = torch.outer(torch.arange(time, dtype=torch.float64), frequencies)
    return angles.cos().float(), angles.sin().float()


def apply_rope(x: Tensor, cos: Tensor, sin: Tensor, *, neox: bool) -> Tensor:
    """Turn the first rope_dim entries of each head of x [batch, head, time, head_dim]."""
    width = 2 * cos.shape[-1]
    turned, rest = x[..., :width], x[..., width:]
    if neox:
        a, b = turned.chunk(2, dim=-1)
        out = torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)
    else:
        a, b = turned[..., 0::2], turned[..., 1::2]
        out = torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1).flatten(-2)
    return out if not rest.shape[-1] else torch.cat((out, rest), dim=-1)


class Layer:
    """One block: its weights in the compute type, its norms in float32."""

    def __init__(self, model: DecoderModel, index: int) -> None:
        self._hyper, self._facts, self._index = model.inventory.hyper, model.facts, index
        self._rope_factors, self._scale = model.rope_factors, attention_scale(self._hyper, self._facts)
        prefix = f"blk.{index}."
        self._names = {
            t.name.removeprefix(prefix): t.name for t in model.inventory.tensors if t.name.startswith(prefix)
        }
        self._values = {
            short: model.as_tensor(name, model.dtype if short.endswith("weight") and "norm" not in short else None)
            for short, name in self._names.items()
        }
        self._dtype = model.dtype

    def weight(self, name: str) -> Tensor:
        """A matrix of the block by its GGUF name, [n_rows, n_cols] in the compute type."""
        return self._values[name.split(".", 2)[2]]

    def _linear(self, part: str, x: Tensor, tap: Tap | None) -> Tensor:
        y = F.linear(x, self._values[f"{part}.weight"]).float()
        if tap is not None:
            tap(self._names[f"{part}.weight"], x, y)
        bias = self._values.get(f"{part}.bias")
        return y if bias is None else y + bias.flatten()

    def _norm(self, part: str, x: Tensor) -> Tensor:
        weight = self._values.get(f"{part}.weight")
        return x if weight is None else rms_norm(x, weight.flatten(), self._hyper.norm_eps)

    def _heads(self, part: str, x: Tensor, n_heads: int, tap: Tap | None) -> Tensor:
        y = self._linear(part, x, tap)
        y = y.view(*y.shape[:2], n_heads, -1)
        return self._norm(f"{part}_norm", y).transpose(1, 2)  # [batch, head, time, head_dim]

    def _attention(self, x: Tensor, tap: Tap | None) -> Tensor:
        hyper = self._hyper
        time = x.shape[1]
        local = hyper.swa_layers[self._index]
        cos, sin = rope_table(hyper, local=local, time=time, factors=self._rope_factors)
        q = apply_rope(self._heads("attn_q", x, hyper.n_head, tap), cos, sin, neox=self._facts.rope_neox)
        k = apply_rope(self._heads("attn_k", x, hyper.n_head_kv, tap), cos, sin, neox=self._facts.rope_neox)
        v = self._linear("attn_v", x, tap)
        v = v.view(*v.shape[:2], hyper.n_head_kv, -1).transpose(1, 2)
        groups = hyper.n_head // hyper.n_head_kv
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        q, k, v = (value.to(self._dtype) for value in (q, k, v))
        if local and time > hyper.sliding_window:
            position = torch.arange(time)
            distance = position[:, None] - position[None, :]
            seen = (distance >= 0) & (distance < hyper.sliding_window)
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=self._scale)
        else:
            out = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=self._scale)
        out = out.transpose(1, 2).flatten(2)  # [batch, time, n_head * head_dim_v]
        return self._linear("attn_output", out.to(self._dtype), tap)

    def forward(self, hidden: Tensor, tap: Tap | None = None) -> Tensor:
        """hidden float32 [batch, time, n_embd] -> the same shape."""
        attended = self._attention(self._norm("attn_norm", hidden).to(self._dtype), tap)
        hidden = hidden + (self._norm("post_attention_norm", attended) if self._facts.post_norms else attended)
        x = self._norm("ffn_norm", hidden).to(self._dtype)
        gate, up = self._linear("ffn_gate", x, tap), self._linear("ffn_up", x, tap)
        gate = F.gelu(gate, approximate="tanh") if self._facts.gelu else F.silu(gate)
        out = self._linear("ffn_down", (gate * up).to(self._dtype), tap)
        return hidden + (self._norm("post_ffw_norm", out) if self._facts.post_norms else out)


class DecoderModel:
    """Loads layers on demand; keeps nothing but the final norm."""

    def __init__(
        self,
        inventory: ModelInventory,
        facts: ArchitectureFacts,
        load_tensor: TensorLoader,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.inventory, self.facts, self._load = inventory, facts, load_tensor
        check_known_tensors(inventory)
        self.dtype = dtype or fast_dtype()
        names = {t.name for t in inventory.tensors}
        self.rope_factors = self.as_tensor("rope_freqs.weight", None) if "rope_freqs.weight" in names else None
        self.head_name = "token_embd.weight" if inventory.tied_embedding else "output.weight"
        self.output_norm = self.as_tensor("output_norm.weight", None).flatten()

    def as_tensor(self, name: str, dtype: torch.dtype | None) -> Tensor:
        """[n_rows, n_cols] in `dtype` (None: float32)."""
        values = torch.from_numpy(np.array(self._load(name)))
        return values if dtype is None else values.to(dtype)

    @property
    def embedding_scale(self) -> float:
        """Factor on embedding rows (Gemma: sqrt(n_embd))."""
        return float(self.inventory.hyper.n_embd) ** 0.5 if self.facts.scaled_embedding else 1.0

    def embed(self, tokens: npt.NDArray[np.int32]) -> Tensor:
        """tokens [batch, time] -> float32 [batch, time, n_embd]; reads only the rows in use."""
        unique, places = np.unique(tokens, return_inverse=True)
        rows = np.concatenate([self._load("token_embd.weight", int(i), int(i) + 1) for i in unique])
        return torch.from_numpy(rows)[torch.from_numpy(places.reshape(tokens.shape))] * self.embedding_scale

    def layer(self, index: int) -> Layer:
        """Weights of block `index`, freshly loaded."""
        return Layer(self, index)

    def final_norm(self, hidden: Tensor) -> Tensor:
        """The output head's input."""
        return rms_norm(hidden, self.output_norm, self.inventory.hyper.norm_eps)

    def head(self) -> Tensor:
        """The output matrix [vocab, n_embd] in the compute type, loaded in strips so that no float32 copy exists."""
        n_rows = self.inventory.tensor(self.head_name).n_rows
        strips = [
            torch.from_numpy(np.array(self._load(self.head_name, start, start + 8192))).to(self.dtype)
            for start in range(0, n_rows, 8192)
        ]
        return torch.cat(strips)

    @torch.no_grad()
    def logits(self, tokens: npt.NDArray[np.int32]) -> Tensor:
        """float32 [batch, time, vocab]; for tests and small batches."""
        hidden = self.embed(tokens)
        for index in range(self.inventory.hyper.n_layer):
            hidden = self.layer(index).forward(hidden)
        return F.linear(self.final_norm(hidden).to(self.dtype), self.head()).float()
