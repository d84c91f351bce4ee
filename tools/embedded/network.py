"""The Llama architecture in its smallest honest form, with llama.cpp's interleaved RoPE so that export is a copy."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """Widths are multiples of 256, so that every K- and IQ-type is legal for every matrix."""

    vocab_size: int = 4096
    n_embd: int = 256
    n_layer: int = 6
    n_head: int = 4
    n_head_kv: int = 2
    n_ff: int = 768
    context_length: int = 512
    rope_base: float = 10000.0
    norm_eps: float = 1e-5

    @property
    def head_dim(self) -> int:
        return self.n_embd // self.n_head


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Interleaved pairs (2i, 2i+1) of [batch, head, time, dim]."""
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)


class Block(nn.Module):
    """Pre-norm attention and gated feed-forward."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        kv = shape.n_head_kv * shape.head_dim
        self.attn_norm = nn.RMSNorm(shape.n_embd, eps=shape.norm_eps)
        self.attn_q = nn.Linear(shape.n_embd, shape.n_embd, bias=False)
        self.attn_k = nn.Linear(shape.n_embd, kv, bias=False)
        self.attn_v = nn.Linear(shape.n_embd, kv, bias=False)
        self.attn_output = nn.Linear(shape.n_embd, shape.n_embd, bias=False)
        self.ffn_norm = nn.RMSNorm(shape.n_embd, eps=shape.norm_eps)
        self.ffn_gate = nn.Linear(shape.n_embd, shape.n_ff, bias=False)
        self.ffn_up = nn.Linear(shape.n_embd, shape.n_ff, bias=False)
        self.ffn_down = nn.Linear(shape.n_ff, shape.n_embd, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, time, _ = x.shape
        s = self.shape
        h = self.attn_norm(x)
        q = self.attn_q(h).view(batch, time, s.n_head, s.head_dim).transpose(1, 2)
        k = self.attn_k(h).view(batch, time, s.n_head_kv, s.head_dim).transpose(1, 2)
        v = self.attn_v(h).view(batch, time, s.n_head_kv, s.head_dim).transpose(1, 2)
        q, k = _rotate(q, cos, sin), _rotate(k, cos, sin)
        repeats = s.n_head // s.n_head_kv
        k, v = k.repeat_interleave(repeats, 1), v.repeat_interleave(repeats, 1)
        a = F.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v, is_causal=True)
        x = x + self.attn_output(a.transpose(1, 2).reshape(batch, time, s.n_embd))
        h = self.ffn_norm(x)
        update: Tensor = self.ffn_down(F.silu(self.ffn_gate(h)) * self.ffn_up(h))
        return x + update


class Network(nn.Module):
    """Tied embedding, `n_layer` blocks, final norm. Tokens [batch, time] -> hidden [batch, time, n_embd]."""

    cos: Tensor
    sin: Tensor

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.token_embd = nn.Embedding(shape.vocab_size, shape.n_embd)
        self.blk = nn.ModuleList(Block(shape) for _ in range(shape.n_layer))
        self.output_norm = nn.RMSNorm(shape.n_embd, eps=shape.norm_eps)
        angles = torch.outer(
            torch.arange(shape.context_length).float(),
            shape.rope_base ** (-torch.arange(0, shape.head_dim, 2).float() / shape.head_dim),
        )
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)
        nn.init.normal_(self.token_embd.weight, std=0.02)
        for name, parameter in self.blk.named_parameters():
            if parameter.ndim == 2:
                scale = (2 * shape.n_layer) ** -0.5 if "output" in name or "down" in name else 1.0
                nn.init.normal_(parameter, std=scale * parameter.shape[1] ** -0.5)

    def hidden(self, tokens: Tensor) -> Tensor:
        time = tokens.shape[1]
        x = self.token_embd(tokens)
        for block in self.blk:
            x = block(x, self.cos[:time], self.sin[:time])
        normed: Tensor = self.output_norm(x)
        return normed

    def logits(self, tokens: Tensor) -> Tensor:
        """[batch, time, vocab]"""
        return F.linear(self.hidden(tokens), self.token_embd.weight)

    def loss(self, tokens: Tensor) -> Tensor:
        """Mean next-token cross-entropy, nats, of tokens [batch, time + 1]."""
        logits = self.logits(tokens[:, :-1])
        return F.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten())
