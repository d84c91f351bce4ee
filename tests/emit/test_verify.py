"""The check of an emitted file finds every kind of difference, and lists all of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ramp_edge.codec.types import QuantType
from ramp_edge.emit.verify import verify_emitted
from ramp_edge.emit.write import write_gguf
from ramp_edge.errors import ArtifactMismatchError
from ramp_edge.events import EventBus

MakePlan = Callable[..., Any]
ReadBack = Callable[[Path], Any]


@pytest.fixture
def written(make_plan: MakePlan, tmp_path: Path) -> tuple[Any, Path]:
    plan, path = make_plan(QuantType.Q4_K, QuantType.Q8_0), tmp_path / "model.gguf"
    write_gguf(path, plan.layout, plan.payload, EventBus())
    return plan, path


def kept(plan: Any) -> dict[str, bytes]:
    return {k: v for k, v in plan.pairs.items() if k != "general.file_type"}


def test_a_true_file_passes(written: tuple[Any, Path], read_back: ReadBack) -> None:
    plan, path = written
    stored, metadata = read_back(path)
    verify_emitted(path, plan.layout, stored, kept(plan), metadata, plan.layout.file_bytes)


def test_every_difference_is_listed(written: tuple[Any, Path], read_back: ReadBack) -> None:
    plan, path = written
    stored, metadata = read_back(path)
    layout = plan.layout
    slots = list(layout.slots)
    # llama.cpp's way of failing: another type than asked for, in silence.
    slots[3] = dataclasses.replace(slots[3], quant_type=QuantType.Q6_K)
    slots[4] = dataclasses.replace(slots[4], shape=(7,))
    slots[5] = dataclasses.replace(slots[5], name="never.written")
    planned = dataclasses.replace(layout, slots=tuple(slots), file_bytes=layout.file_bytes + 1)
    wanted = {**kept(plan), "llama.block_count": b"other", "gone.key": b""}
    with pytest.raises(ArtifactMismatchError) as caught:
        verify_emitted(path, planned, stored, wanted, metadata, 1000)
    for words in (
        f"the file has {layout.file_bytes} bytes, the plan {layout.file_bytes + 1}",
        "the budget 1000",
        f"tensor {layout.slots[3].name!r} is ",
        "planned Q6_K",
        "[7]",
        "tensor 'never.written' is missing",
        f"tensor {layout.slots[5].name!r} was not planned",
        "metadata 'llama.block_count' was not kept",
        "metadata 'gone.key' was not kept",
    ):
        assert words in caught.value.message, words


@pytest.mark.parametrize("excess", [0, 1])
def test_the_budget_is_exact(written: tuple[Any, Path], read_back: ReadBack, excess: int) -> None:
    plan, path = written
    stored, metadata = read_back(path)
    budget = path.stat().st_size - excess
    if excess:
        with pytest.raises(ArtifactMismatchError, match=f"the budget {budget}"):
            verify_emitted(path, plan.layout, stored, kept(plan), metadata, budget)
    else:
        verify_emitted(path, plan.layout, stored, kept(plan), metadata, budget)
