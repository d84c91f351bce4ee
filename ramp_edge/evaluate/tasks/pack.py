"""Packs items into batches for a cache that all sequences share, as llama-perplexity's --hellaswag does.

An item's shared tokens go in once, under the sequence numbers of all its choices; the rest of each choice follows
under its own number. Logits are asked for only where a scored token is predicted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ramp_edge.evaluate.tasks.encode import EncodedItem

PACK_TOKENS = 512
"""Tokens of one pack, libllama's own ubatch. More would make attention look at other items' masked tokens for nothing."""
PACK_SEQUENCES = 64
"""Sequences of one pack; libllama's limit is 256."""

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """A token whose log-likelihood is wanted."""

    row: int
    """Row of the pack whose logits predict it."""
    token: int
    item: int
    """Place of the item in the pack."""
    choice: int
    position: int
    """Its position in the choice."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pack:
    """Items to evaluate together, one row a token."""

    items: tuple[EncodedItem, ...]
    tokens: Int32
    """[n_rows]"""
    positions: Int32
    """[n_rows]"""
    sequences: tuple[range, ...]
    """[n_rows] the sequences that a row belongs to."""
    targets: tuple[Target, ...]
    """In ascending order of their rows."""

    @property
    def n_rows(self) -> int:
        return len(self.tokens)

    @property
    def n_sequences(self) -> int:
        return sum(len(item.choices) for item in self.items)


def group_items(items: list[EncodedItem]) -> list[tuple[EncodedItem, ...]]:
    """Neighbouring items that fit one pack; an item that exceeds the limits alone stays alone."""
    groups: list[tuple[EncodedItem, ...]] = []
    group: list[EncodedItem] = []
    n_tokens = n_sequences = 0
    for item in items:
        n_tokens += item.n_read
        n_sequences += len(item.choices)
        if group and (n_tokens > PACK_TOKENS or n_sequences > PACK_SEQUENCES):
            groups.append(tuple(group))
            group, n_tokens, n_sequences = [], item.n_read, len(item.choices)
        group.append(item)
    if group:
        groups.append(tuple(group))
    return groups


def build_pack(items: tuple[EncodedItem, ...]) -> Pack:
    """Lay items out row by row."""
    tokens: list[npt.NDArray[np.int32]] = []
    positions: list[npt.NDArray[np.int32]] = []
    sequences: list[range] = []
    targets: list[Target] = []
    row = first_sequence = 0
    for place, item in enumerate(items):
        n_shared, everyone = item.n_shared, range(first_sequence, first_sequence + len(item.choices))
        tokens.append(item.choices[0][:n_shared])
        positions.append(np.arange(n_shared, dtype=np.int32))
        sequences += [everyone] * n_shared
        tail_row = row + n_shared
        for choice, ids in enumerate(item.choices):
            n_tail = len(ids) - 1 - n_shared
            tokens.append(ids[n_shared:-1])
            positions.append(np.arange(n_shared, n_shared + n_tail, dtype=np.int32))
            sequences += [everyone[choice : choice + 1]] * n_tail
            for position in range(item.borders[choice], len(ids)):
                read = position - 1
                targets.append(
                    Target(
                        row=row + read if read < n_shared else tail_row + read - n_shared,
                        token=int(ids[position]),
                        item=place,
                        choice=choice,
                        position=position,
                    )
                )
            tail_row += n_tail
        row, first_sequence = tail_row, everyone.stop
    return Pack(
        items=items,
        tokens=np.concatenate(tokens),
        positions=np.concatenate(positions),
        sequences=tuple(sequences),
        targets=tuple(sorted(targets, key=lambda target: target.row)),
    )
