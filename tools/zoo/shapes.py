"""The small models that the policy learns on: families, ties, widths and depths that real models differ in.

Widths with and without 256-column blocks matter most: they decide which types are legal.
"""

from __future__ import annotations

from embedded.network import Shape

VOCABULARY = 4096
_CONTEXT = 256


def _shape(family: str, n_embd: int, n_layer: int, n_ff: int, heads: tuple[int, int, int], *, tied: bool) -> Shape:
    """`heads`: (query heads, key-value heads, width of a head)."""
    return Shape(
        vocab_size=VOCABULARY,
        n_embd=n_embd,
        n_layer=n_layer,
        n_head=heads[0],
        n_head_kv=heads[1],
        key_length=heads[2],
        n_ff=n_ff,
        context_length=_CONTEXT,
        rope_base=1e6 if family == "gemma3" else 1e4,
        family=family,
        tied=tied,
    )


ZOO: dict[str, Shape] = {
    "llama-256x4-untied": _shape("llama", 256, 4, 1024, (4, 2, 64), tied=False),
    "qwen3-256x8": _shape("qwen3", 256, 8, 768, (4, 2, 64), tied=True),
    "gemma3-256x6": _shape("gemma3", 256, 6, 1024, (4, 1, 64), tied=True),
    "llama-192x12": _shape("llama", 192, 12, 512, (3, 3, 64), tied=True),
    "qwen3-160x16-untied": _shape("qwen3", 160, 16, 480, (4, 2, 64), tied=False),
    "gemma3-128x18": _shape("gemma3", 128, 18, 512, (2, 1, 64), tied=True),
    "llama-96x30": _shape("llama", 96, 30, 256, (3, 1, 32), tied=True),
    "qwen3-320x5": _shape("qwen3", 320, 5, 1024, (4, 4, 64), tied=True),
}
"""Name -> shape, those that differ most first."""
