"""A damaged cache costs time, never a build; one that cannot be written is named, and holds nothing half-written."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from ramp_edge.build import build
from ramp_edge.errors import CacheError
from ramp_edge.events import EventBus
from ramp_edge.pipeline import calibration
from ramp_edge.pipeline.request import EFFORTS, AllocatorChoice, BuildRequest, Effort

Make = Callable[..., BuildRequest]
Tokens = npt.NDArray[np.int32]


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cached: Path) -> Path:
    """A cache of the test's own, and text that costs no time: what the model would write is random here."""

    def random_windows(_path: Path, *, count: int, size: int, seed: int, vocab_size: int, **_: object) -> Tokens:
        return np.random.default_rng(seed).integers(0, vocab_size, (count, size)).astype(np.int32)

    effort = replace(
        EFFORTS[Effort.FAST],
        calibration_windows=3,
        fisher_sequences=2,
        evaluation_windows=1,
    )
    monkeypatch.setitem(EFFORTS, Effort.FAST, effort)
    monkeypatch.setattr(calibration, "generate_windows", random_windows)
    monkeypatch.setenv("RAMP_EDGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("text/*.npy", 0.5), ("table-*.json", 0.5), ("input.1.npy", 0.0), ("blk.1.ffn_in.moments.npy", 0.9),
        ("features-*.npy", 0.7), ("type-errors-*.npy", 0.7), ("tied_forward.moments.npy", 0.7),
    ],
)  # fmt: skip
def test_damaged_files_are_computed_again(tiny_request: Make, own_cache: Path, name: str, kept: float) -> None:
    request = tiny_request(dry_run=True, allocator=AllocatorChoice.BEST)
    first = build(request, EventBus())
    (path,) = own_cache.rglob(name)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept)])
    events = EventBus()
    assert build(request, events).tensors == first.tensors
    assert path.read_bytes() == whole
    assert len(events.warnings) == 1 and path.name.removesuffix(".npy") in events.warnings[0]


def test_a_table_without_the_embeddings_moments_is_not_trusted(
    tiny_request: Make, own_cache: Path, make_tiny_gguf: Callable[..., Path], tmp_path: Path
) -> None:
    untied = make_tiny_gguf(tmp_path / "untied.gguf", tied=False)
    request = tiny_request(model=str(untied), dry_run=True, allocator=AllocatorChoice.KNAPSACK)
    first = build(request, EventBus())
    (path,) = own_cache.rglob("embedding.moments.npy")
    path.unlink()
    assert build(request, EventBus()).tensors == first.tensors
    assert path.exists()


def test_a_cache_without_room(tiny_request: Make, own_cache: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))  # numpy sees the same short write as on a full disk
    try:
        with pytest.raises(CacheError, match=r"the disk is full or its limit reached") as caught:
            build(tiny_request(), EventBus())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(own_cache) in caught.value.message and "RAMP_EDGE_CACHE" in caught.value.hint
    assert not list(own_cache.rglob("*.partial"))


def test_a_file_in_place_of_the_cache(tiny_request: Make, own_cache: Path) -> None:
    own_cache.write_text("not a folder")
    with pytest.raises(CacheError, match=r"Not a directory|File exists") as caught:
        build(tiny_request(), EventBus())
    assert os.fspath(own_cache) in caught.value.message
