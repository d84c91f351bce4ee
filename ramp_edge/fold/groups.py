"""Which channels of a decoder may be scaled, as data: who reads them, and who makes up for it.

Scaling the columns of every matrix that reads a channel by s, and what produces the channel by 1 / s, leaves the function as it is.
A norm's weight is such a producer: it multiplies channel by channel, last. So are the rows of attn_v, since attention mixes
positions and not channels (the heads that share a key-value head share its scales), and the rows of ffn_up, since the gate only
multiplies. Converters store Gemma's 1 + w, so its norms are like all others. Norms on q and k, norms after a layer and the gate's
own rows stay as they are: they reach no matrix through multiplications alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ramp_edge.records import ModelInventory

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True)
class FoldGroup:
    """One set of channels."""

    name: str
    """The input site of its readers, e.g. `blk.3.attn_in`."""
    readers: tuple[str, ...]
    """Matrices whose columns are the channels."""
    producer: str
    """Norm weight, or matrix whose rows are the channels."""
    bias: str | None = None
    """The producer's bias, scaled with it."""
    head_dim: int = 0
    """Channels of a head where heads share a key-value head (attn_v -> attn_output), else 0."""
    sharing: int = 1
    """Heads that share a key-value head."""
    reason: str | None = None
    """Why the group cannot be folded, or None."""

    def columns(self, scales: Float32) -> Float32:
        """The producer's scales [n_producer] as the readers' columns [n_cols]."""
        if not self.head_dim or self.sharing == 1:
            return scales
        return np.repeat(scales.reshape(-1, self.head_dim), self.sharing, axis=0).reshape(-1)

    def gathered(self, values: Float32) -> Float32:
        """Sums over the readers' columns that share a scale: [n_cols] -> [n_producer]."""
        if not self.head_dim or self.sharing == 1:
            return values
        sums: Float32 = values.reshape(-1, self.sharing, self.head_dim).sum(axis=1).reshape(-1)
        return sums


def fold_groups(inventory: ModelInventory) -> tuple[FoldGroup, ...]:
    """Every group of the model, those that cannot be folded with their reason."""
    names = {t.name for t in inventory.tensors}
    hyper = inventory.hyper
    groups = []
    for layer in range(hyper.n_layer):
        block = f"blk.{layer}."
        for site, readers, producer in (
            ("attn_in", ("attn_q", "attn_k", "attn_v"), "attn_norm"),
            ("attn_out", ("attn_output",), "attn_v"),
            ("ffn_in", ("ffn_gate", "ffn_up"), "ffn_norm"),
            ("ffn_down", ("ffn_down",), "ffn_up"),
        ):
            shared = site == "attn_out"
            groups.append(
                _group(
                    block + site,
                    tuple(f"{block}{reader}.weight" for reader in readers),
                    block + producer,
                    names,
                    head_dim=hyper.head_dim_v if shared else 0,
                    sharing=hyper.n_head // hyper.n_head_kv if shared else 1,
                )
            )
    if inventory.tied_embedding:
        reason = "the output matrix is the input embedding as well, whose rows meet no norm"
        groups.append(
            FoldGroup(name="head", readers=("token_embd.weight",), producer="output_norm.weight", reason=reason)
        )
    else:
        groups.append(_group("head", ("output.weight",), "output_norm", names))
    return tuple(groups)


def _group(
    name: str, readers: tuple[str, ...], producer: str, names: set[str], head_dim: int = 0, sharing: int = 1
) -> FoldGroup:
    missing = [part for part in (*readers, f"{producer}.weight") if part not in names]
    bias = f"{producer}.bias"
    return FoldGroup(
        name=name,
        readers=tuple(r for r in readers if r in names),
        producer=f"{producer}.weight",
        bias=bias if bias in names else None,
        head_dim=head_dim,
        sharing=sharing,
        reason=f"the model has no {missing[0]}" if missing else None,
    )
