"""Decoders of three families in their smallest honest form, with llama.cpp's RoPE so that export is a copy.

Llama turns neighbouring pairs of a head, Qwen3 and Gemma 3 its halves. Qwen3 and Gemma 3 normalise q and k; Gemma 3 has norms after both
branches too, GELU, embeddings times sqrt(n_embd), and another RoPE base in five of six layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FAMILIES = ("llama", "qwen3", "gemma3")
LOCAL_ROPE_BASE = 10000.0
"""Of Gemma 3's sliding-window layers."""
GLOBAL_EVERY = 6
"""Gemma 3: every sixth layer sees the whole context; the window here is the context, so that masks never differ."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """The defaults are the embedded model's: widths are multiples of 256, so that every K- and IQ-type is legal for every matrix."""

    vocab_size: int = 4096
    n_embd: int = 256
    n_layer: int = 6
    n_head: int = 4
    n_head_kv: int = 2
    n_ff: int = 768
    context_length: int = 512
    rope_base: float = 10000.0
    norm_eps: float = 1e-5
    family: str = "llama"
    tied: bool = True
    key_length: int = 0
    """Width of a head; 0: n_embd / n_head."""

    @property
    def head_dim(self) -> int:
        return self.key_length or self.n_embd // self.n_head

    @property
    def gemma(self) -> bool:
        """Post-norms, GELU, scaled embedding."""
        return self.family == "gemma3"

    def layer_rope_base(self, layer: int) -> float:
        """RoPE base of one layer."""
        return LOCAL_ROPE_BASE if self.gemma and layer % GLOBAL_EVERY < GLOBAL_EVERY - 1 else self.rope_base


def _rotate(x: Tensor, cos: Tensor, sin: Tensor, *, halves: bool) -> Tensor:
    """Interleaved pairs (2i, 2i+1) or the two halves of [batch, head, time, dim]."""
    if halves:
        a, b = x.chunk(2, dim=-1)
        return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)


class Block(nn.Module):
    """Pre-norm attention and gated feed-forward. Parts that a family lacks are identities."""

    cos: Tensor
    sin: Tensor

    def __init__(self, shape: Shape, layer: int) -> None:
        super().__init__()
        self.shape = shape
        q = shape.n_head * shape.head_dim
        kv = shape.n_head_kv * shape.head_dim
        self.attn_norm = nn.RMSNorm(shape.n_embd, eps=shape.norm_eps)
        self.attn_q = nn.Linear(shape.n_embd, q, bias=False)
        self.attn_k = nn.Linear(shape.n_embd, kv, bias=False)
        self.attn_v = nn.Linear(shape.n_embd, kv, bias=False)
        self.attn_output = nn.Linear(q, shape.n_embd, bias=False)
        self.ffn_norm = nn.RMSNorm(shape.n_embd, eps=shape.norm_eps)
        self.ffn_gate = nn.Linear(shape.n_embd, shape.n_ff, bias=False)
        self.ffn_up = nn.Linear(shape.n_embd, shape.n_ff, bias=False)
        self.ffn_down = nn.Linear(shape.n_ff, shape.n_embd, bias=False)
        heads = nn.Identity if shape.family == "llama" else partial(nn.RMSNorm, shape.head_dim, eps=shape.norm_eps)
        post = partial(nn.RMSNorm, shape.n_embd, eps=shape.norm_eps) if shape.gemma else nn.Identity
        self.attn_q_norm, self.attn_k_norm = heads(), heads()
        self.post_attention_norm, self.post_ffw_norm = post(), post()
        angles = torch.outer(
            torch.arange(shape.context_length).float(),
            shape.layer_rope_base(layer) ** (-torch.arange(0, shape.head_dim, 2).float() / shape.head_dim),
        )
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, time, _ = x.shape
        s = self.shape
        cos, sin, halves = self.cos[:time], self.sin[:time], s.family != "llama"
        h = self.attn_norm(x)
        q = self.attn_q_norm(self.attn_q(h).view(batch, time, s.n_head, s.head_dim)).transpose(1, 2)
        k = self.attn_k_norm(self.attn_k(h).view(batch, time, s.n_head_kv, s.head_dim)).transpose(1, 2)
        v = self.attn_v(h).view(batch, time, s.n_head_kv, s.head_dim).transpose(1, 2)
        q, k = _rotate(q, cos, sin, halves=halves), _rotate(k, cos, sin, halves=halves)
        repeats = s.n_head // s.n_head_kv
        k, v = k.repeat_interleave(repeats, 1), v.repeat_interleave(repeats, 1)
        a = F.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v, is_causal=True)
        x = x + self.post_attention_norm(self.attn_output(a.transpose(1, 2).flatten(2)))
        h = self.ffn_norm(x)
        gate = self.ffn_gate(h)
        gate = F.gelu(gate, approximate="tanh") if s.gemma else F.silu(gate)
        update: Tensor = self.post_ffw_norm(self.ffn_down(gate * self.ffn_up(h)))
        return x + update


class Network(nn.Module):
    """Embedding, `n_layer` blocks, final norm, output matrix where it is not the embedding. Tokens [batch, time]."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.token_embd = nn.Embedding(shape.vocab_size, shape.n_embd)
        self.blk = nn.ModuleList(Block(shape, layer) for layer in range(shape.n_layer))
        self.output_norm = nn.RMSNorm(shape.n_embd, eps=shape.norm_eps)
        self.output = None if shape.tied else nn.Linear(shape.n_embd, shape.vocab_size, bias=False)
        nn.init.normal_(self.token_embd.weight, std=0.02)
        for name, parameter in self.blk.named_parameters():
            if parameter.ndim == 2:
                scale = (2 * shape.n_layer) ** -0.5 if "output" in name or "down" in name else 1.0
                nn.init.normal_(parameter, std=scale * parameter.shape[1] ** -0.5)
        if self.output is not None:
            nn.init.normal_(self.output.weight, std=0.02)

    def hidden(self, tokens: Tensor) -> Tensor:
        """[batch, time, n_embd]"""
        x = self.token_embd(tokens)
        if self.shape.gemma:
            x = x * self.shape.n_embd**0.5
        for block in self.blk:
            x = block(x)
        normed: Tensor = self.output_norm(x)
        return normed

    def logits(self, tokens: Tensor) -> Tensor:
        """[batch, time, vocab]"""
        head = self.token_embd if self.output is None else self.output
        return F.linear(self.hidden(tokens), head.weight)

    def loss(self, tokens: Tensor) -> Tensor:
        """Mean next-token cross-entropy, nats, of tokens [batch, time + 1]."""
        logits = self.logits(tokens[:, :-1])
        return F.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten())
