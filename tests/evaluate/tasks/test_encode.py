"""The border between context and continuation, cuts, and how items are packed."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from ramp_edge.errors import TaskDataError
from ramp_edge.evaluate.llama import LlamaVocabulary, Tokens, as_tokens
from ramp_edge.evaluate.tasks.encode import EncodedItem, encode_item, split_white_space
from ramp_edge.evaluate.tasks.pack import PACK_SEQUENCES, PACK_TOKENS, build_pack, group_items
from ramp_edge.evaluate.tasks.records import TaskItem

BOS = 9999


def item(contexts: tuple[str, ...], continuations: tuple[str, ...], index: int = 0) -> TaskItem:
    return TaskItem(
        index=index,
        line=7,
        contexts=contexts,
        continuations=continuations,
        n_characters=tuple(len(text) - 1 for text in continuations),
        gold=0,
    )


def letters(text: str) -> Tokens:
    """One token a character: borders can be read off the text."""
    return as_tokens([ord(letter) for letter in text])


def encode(one: TaskItem, *, bos: int | None = None, n_ctx: int = 100) -> EncodedItem:
    return encode_item(one, letters, bos=bos, n_ctx=n_ctx, path=Path("piqa.jsonl"))


def spelled(ids: Tokens) -> str:
    return "".join("^" if token == BOS else chr(token) for token in ids)


@pytest.mark.parametrize(
    ("context", "moved"), [("abc", ("abc", " d")), ("abc ", ("abc", "  d")), ("abc\n \t", ("abc", "\n \t d"))]
)
def test_white_space_moves_to_the_continuation(context: str, moved: tuple[str, str]) -> None:
    assert split_white_space(context, " d") == moved
    encoded = encode(item((context, context), (" d", " ef")))
    assert encoded.borders == (3, 3)
    assert [spelled(ids) for ids in encoded.choices] == [context + " d", context + " ef"]


def test_shared_tokens_stop_before_the_shortest_choice_s_last() -> None:
    encoded = encode(item(("ab", "ab"), (" no", " now")), bos=BOS)
    assert encoded.borders == (3, 3)
    assert encoded.n_shared == 5  # ^ a b space n: the o of " no" is never read, only predicted
    assert encoded.n_read == 5 + 0 + 1


def test_a_border_that_the_tokenizer_merges_away_still_scores_a_token() -> None:
    def merging(text: str) -> Tokens:
        return as_tokens([1, 2, 3] if text == "ab" else [1, 2, len(text)])

    encoded = encode_item(item(("ab", "ab"), (" c", " de")), merging, bos=None, n_ctx=10, path=Path("x"))
    assert encoded.borders == (2, 2)


def test_a_long_context_loses_its_beginning_and_keeps_bos() -> None:
    one = item(("abcdefgh", "abcdefgh"), (" i", " jkl"))
    without = encode(one, n_ctx=8)
    assert [spelled(ids) for ids in without.choices] == ["bcdefgh i", "defgh jkl"]
    assert [spelled(ids[border:]) for ids, border in zip(without.choices, without.borders, strict=True)] == [
        " i",
        " jkl",
    ]
    assert without.cut
    assert all(len(ids) - 1 == 8 for ids in without.choices)
    begun = encode(one, bos=BOS, n_ctx=8)
    assert [spelled(ids) for ids in begun.choices] == ["^cdefgh i", "^efgh jkl"]
    assert [spelled(ids[border:]) for ids, border in zip(begun.choices, begun.borders, strict=True)] == [" i", " jkl"]
    assert not encode(one, n_ctx=12).cut


def test_a_choice_may_be_longer_than_its_context_but_not_than_the_model_s() -> None:
    one = item(("ab", "ab"), (" " + "c" * 9, " d"))
    assert encode(one, n_ctx=20).borders == (2, 2)
    # All of the context but its last token is lost.
    assert spelled(encode(one, n_ctx=10).choices[0]) == "b " + "c" * 9
    with pytest.raises(TaskDataError, match=r"piqa\.jsonl, line 7: a choice has 10 tokens, the context only 9"):
        encode(one, n_ctx=9)


def test_the_embedded_tokenizer_keeps_the_border(embedded: Path) -> None:
    with LlamaVocabulary(embedded) as vocabulary:

        def tokenize(text: str) -> Tokens:
            return vocabulary.tokenize(text, add_special=False)

        one = item(("The river ran down to the",) * 2, (" harbour", " sea."))
        encoded = encode_item(one, tokenize, bos=None, n_ctx=512, path=Path("x"))
        for ids, border, continuation in zip(encoded.choices, encoded.borders, one.continuations, strict=True):
            assert ids[border:].tolist() == tokenize(continuation).tolist()


def random_items(n: int, seed: int = 0) -> list[EncodedItem]:
    rng = np.random.default_rng(seed)
    items = []
    for index in range(n):
        context = "".join(rng.choice(list("abc"), rng.integers(1, 60)))
        continuations = tuple(" " + "".join(rng.choice(list("abc"), rng.integers(1, 40))) for _ in range(4))
        items.append(encode(item((context,) * 4, continuations, index), bos=BOS, n_ctx=200))
    return items


def test_packs_hold_every_item_once_and_keep_the_limits() -> None:
    items = random_items(300)
    groups = group_items(items)
    assert [one.index for group in groups for one in group] == list(range(300))
    for group in groups:
        assert len(group) == 1 or sum(one.n_read for one in group) <= PACK_TOKENS
        assert len(group) == 1 or sum(len(one.choices) for one in group) <= PACK_SEQUENCES
    for left, right in itertools.pairwise(groups):
        assert sum(one.n_read for one in (*left, right[0])) > PACK_TOKENS or len(left) * 4 + 4 > PACK_SEQUENCES


def test_rows_of_a_pack_spell_every_choice() -> None:
    items = tuple(random_items(5, seed=1))
    pack = build_pack(items)
    assert pack.n_rows == sum(one.n_read for one in items) == len(pack.sequences)
    sequence = 0
    for place, one in enumerate(items):
        for choice, ids in enumerate(one.choices):
            rows = [row for row in range(pack.n_rows) if sequence in pack.sequences[row]]
            assert pack.tokens[rows].tolist() == ids[:-1].tolist()
            assert pack.positions[rows].tolist() == list(range(len(ids) - 1))
            wanted = [t for t in pack.targets if (t.item, t.choice) == (place, choice)]
            assert sorted(t.position for t in wanted) == list(range(one.borders[choice], len(ids)))
            for target in wanted:
                assert target.token == ids[target.position]
                assert target.row == rows[target.position - 1]
            sequence += 1
    assert sequence == pack.n_sequences
    assert [t.row for t in pack.targets] == sorted(t.row for t in pack.targets)
