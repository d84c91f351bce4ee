"""Fold groups as data: who reads a channel, who makes up for it, and why not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ramp_edge.fold.groups import FoldGroup, fold_groups
from ramp_edge.model.gguf_file import open_inventory


def by_name(path: Path) -> dict[str, FoldGroup]:
    return {g.name: g for g in fold_groups(open_inventory(path)[0])}


def test_a_tied_head_is_named_with_its_reason(tiny_gguf: Path) -> None:
    groups = by_name(tiny_gguf)
    assert len(groups) == 2 * 4 + 1
    assert [name for name, g in groups.items() if g.reason is not None] == ["head"]
    assert "input embedding" in (groups["head"].reason or "")


def test_an_untied_head_folds(make_tiny_gguf: Callable[..., Path], tmp_path: Path) -> None:
    head = by_name(make_tiny_gguf(tmp_path / "untied.gguf", tied=False))["head"]
    assert head.reason is None
    assert (head.producer, head.readers) == ("output_norm.weight", ("output.weight",))


def test_readers_and_producers(tiny_gguf: Path) -> None:
    groups = by_name(tiny_gguf)
    attn_in, attn_out = groups["blk.1.attn_in"], groups["blk.1.attn_out"]
    assert attn_in.readers == tuple(f"blk.1.attn_{part}.weight" for part in "qkv")
    assert attn_in.producer == "blk.1.attn_norm.weight"
    assert (attn_out.producer, attn_out.sharing, attn_out.head_dim) == ("blk.1.attn_v.weight", 2, 64)
    assert groups["blk.0.ffn_down"].producer == "blk.0.ffn_up.weight"


@pytest.mark.hf
def test_a_bias_goes_with_its_rows(converted: Callable[[str], Path]) -> None:
    groups = by_name(converted("qwen2"))
    assert groups["blk.0.attn_out"].bias == "blk.0.attn_v.bias"
    assert groups["blk.0.attn_in"].bias is None


def test_heads_that_share_keys_share_scales() -> None:
    group = FoldGroup(name="blk.0.attn_out", readers=("o",), producer="v", head_dim=2, sharing=3)
    scales = np.array([1, 2, 3, 4], np.float32)
    columns = group.columns(scales)
    assert columns.tolist() == [1, 2, 1, 2, 1, 2, 3, 4, 3, 4, 3, 4]
    values = np.arange(12, dtype=np.float32)
    # `gathered` is the transpose of `columns`.
    assert float(group.gathered(values) @ scales) == float(values @ columns)
