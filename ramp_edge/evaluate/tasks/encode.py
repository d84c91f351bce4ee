"""Token ids of an item's choices, and which of them are scored.

The border between context and continuation is the harness' (lm_eval/api/model.py, `_encode_pair`): white space at
the context's end moves to the continuation; context + continuation are tokenized together, and what follows as many
tokens as the context alone has is the continuation. Too long a sequence loses its beginning. Unlike the harness'
default, the model's begin-of-text token is used where its file asks for one, and it survives such a cut.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ramp_edge.errors import TaskDataError
from ramp_edge.evaluate.llama import Tokens, as_tokens
from ramp_edge.evaluate.tasks.records import TaskItem

Tokenize = Callable[[str], Tokens]
"""Text to token ids without special tokens, int32 [n]."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedItem:
    """An item as the model reads it. The last token of a choice is only predicted, never read."""

    index: int
    choices: tuple[Tokens, ...]
    """Whole token sequences, int32 [n_tokens] each."""
    borders: tuple[int, ...]
    """For each choice, the position of its first continuation token."""
    n_shared: int
    """Leading tokens that all choices have in common, fewer than the shortest has."""
    cut: bool

    @property
    def n_read(self) -> int:
        """Tokens to evaluate when the shared ones are evaluated once."""
        return self.n_shared + sum(len(ids) - 1 - self.n_shared for ids in self.choices)


def split_white_space(context: str, continuation: str) -> tuple[str, str]:
    """The pair with white space at the context's end moved to the continuation's beginning."""
    bare = context.rstrip()
    return bare, context[len(bare) :] + continuation


def encode_item(item: TaskItem, tokenize: Tokenize, *, bos: int | None, n_ctx: int, path: Path) -> EncodedItem:
    """Tokenize an item for a context of `n_ctx` tokens; `path` is its file, for errors.

    Raises TaskDataError where a continuation alone does not fit.
    """
    start = [] if bos is None else [bos]
    # Items mostly have one context for all choices.
    context_lengths: dict[str, int] = {}
    choices: list[Tokens] = []
    borders: list[int] = []
    cut = False
    for context, continuation in zip(item.contexts, item.continuations, strict=True):
        bare, rest = split_white_space(context, continuation)
        if bare not in context_lengths:
            context_lengths[bare] = len(start) + len(tokenize(bare))
        ids = np.concatenate([as_tokens(start), tokenize(bare + rest)])
        # A tokenizer may merge the border away: at least the last token is scored.
        border = max(1, min(context_lengths[bare], len(ids) - 1))
        excess = len(ids) - 1 - n_ctx
        if excess > 0:
            # n_ctx tokens are read, and the continuation's first one needs something before it.
            if border - excess < 1:
                raise TaskDataError(
                    f"{path}, line {item.line}: a choice has {len(ids) - border} tokens, the context only {n_ctx}",
                    hint="give a larger --ctx, a model with a longer context, or leave this task out",
                )
            ids = np.concatenate([as_tokens(start), ids[excess + len(start) :]])
            border -= excess
            cut = True
        choices.append(ids)
        borders.append(border)
    return EncodedItem(
        index=item.index, choices=tuple(choices), borders=tuple(borders), n_shared=_shared_prefix(choices), cut=cut
    )


def _shared_prefix(choices: list[Tokens]) -> int:
    shortest = min(len(ids) for ids in choices)
    table = np.stack([ids[: shortest - 1] for ids in choices])  # [n_choices, shortest - 1]
    differs = (table != table[0]).any(axis=0)
    return int(differs.argmax()) if differs.any() else shortest - 1
