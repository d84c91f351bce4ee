"""The error table: which rows are looked at, which factors are kept, and how parts of one tensor add up."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from ramp_edge.codec.types import QuantType
from ramp_edge.model.gguf_file import open_inventory
from ramp_edge.quantize.sensitivity import embedding_kl, head_kl, linear_kl, row_errors
from ramp_edge.quantize.table import ErrorTableBuilder, FactorCache, Moments, sampled_rows
from ramp_edge.records import ModelInventory, Role, TensorInfo

TYPES = (QuantType.Q8_0, QuantType.Q4_0)
EMBEDDING = "token_embd.weight"


def tensor(n_rows: int) -> TensorInfo:
    return TensorInfo(
        name="blk.0.ffn_up.weight",
        role=Role.FFN_UP,
        layer=0,
        shape=(256, n_rows),
        source_type=QuantType.F16,
        kept_reason=None,
    )


@pytest.mark.parametrize("share", [8, 16])
@pytest.mark.parametrize("n_rows", [1, 2, 63, 64, 192, 512, 5000])
def test_sampled_rows_span_the_tensor(n_rows: int, share: int) -> None:
    rows = sampled_rows(tensor(n_rows), share)
    assert len(rows) == min(n_rows, max(512 // share, n_rows // share))
    assert rows[0] == 0
    assert rows[-1] == n_rows - 1 or n_rows == 1
    gaps = np.diff(rows)
    assert (gaps >= 1).all(), "a row is looked at twice"
    if len(gaps):
        assert gaps.max() - gaps.min() <= 1


def test_factors_are_made_once_and_few_are_kept(tiny_gguf: Path) -> None:
    loads: list[str] = []

    def load(site: str) -> np.ndarray:
        loads.append(site)
        return np.eye(256, dtype=np.float32)

    inventory = open_inventory(tiny_gguf)[0]
    cache = FactorCache(Moments(site=lambda t: None if t.role is Role.NORM else t.name, load=load), keep=2)
    a, b, c = (inventory.tensor(f"blk.0.attn_{part}.weight") for part in "qkv")
    first = cache.get(a)
    assert first is not None
    assert cache.get(a) is first
    cache.get(b)
    cache.get(a)
    assert loads == [a.name, b.name]
    cache.get(c)
    assert cache.get(a) is not first, "three factors are held"
    assert loads == [a.name, b.name, c.name, a.name]
    assert cache.get(inventory.tensor("output_norm.weight")) is None


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as threads:
        yield threads


@pytest.fixture
def parts(tiny_gguf: Path, pool: ThreadPoolExecutor) -> tuple[ModelInventory, ErrorTableBuilder]:
    inventory, tensors = open_inventory(tiny_gguf)
    builder = ErrorTableBuilder(
        inventory,
        lambda name, rows: tensors.load_tensor(name)[rows],
        {t.name: TYPES for t in inventory.quantizable},
        Moments(site=lambda _t: None, load=lambda _s: np.eye(256, dtype=np.float32)),
        pool,
    )
    return inventory, builder


def feed(inventory: ModelInventory, builder: ErrorTableBuilder, skip: str = "") -> None:
    for info in inventory.quantizable:
        if info.layer is not None and info.name != skip:
            rows = sampled_rows(info, 8)
            gradients = torch.ones(1, len(rows), info.n_cols)
            builder.linear(info.name, rows, gradients, torch.ones(info.n_rows), 4, {})


def test_a_tied_embedding_pays_for_both_of_its_jobs(
    parts: tuple[ModelInventory, ErrorTableBuilder], tiny_gguf: Path, pool: ThreadPoolExecutor
) -> None:
    inventory, builder = parts
    generator = torch.Generator().manual_seed(0)
    rows = np.array([3, 8, 20])
    hidden, variance = torch.randn(6, 256, generator=generator), torch.rand(6, 3, generator=generator)
    tokens = np.array([[8, 3, 8, 60]])
    gradients = torch.randn(1, 4, 256, generator=generator)
    feed(inventory, builder)
    builder.head(EMBEDDING, rows, hidden, variance, 0.9, {})
    builder.embedding(EMBEDDING, tokens, gradients)
    table = builder.finish()
    assert set(table.kl) == {t.name for t in inventory.quantizable}
    values = open_inventory(tiny_gguf)[1].load_tensor(EMBEDDING)
    out = head_kl(row_errors(values[rows], rows, TYPES, None, pool), hidden, variance, 0.9)
    used = np.unique(tokens)
    into = embedding_kl(row_errors(values[used], used, TYPES, None, pool), tokens, gradients)
    for quant_type in TYPES:
        assert table.kl[EMBEDDING][quant_type] == pytest.approx(out[quant_type] + into[quant_type], rel=1e-6)


def test_a_linear_layer_is_scaled_by_its_rows_energy(
    parts: tuple[ModelInventory, ErrorTableBuilder], tiny_gguf: Path, pool: ThreadPoolExecutor
) -> None:
    _, builder = parts
    name = "blk.1.ffn_down.weight"
    values = open_inventory(tiny_gguf)[1].load_tensor(name)
    rows = np.arange(0, 256, 5)
    generator = torch.Generator().manual_seed(0)
    gradients, squares = torch.randn(3, len(rows), 512, generator=generator), torch.rand(256, generator=generator)
    builder.linear(name, rows, gradients, squares, 9, {})
    wanted = linear_kl(row_errors(values[rows], rows, TYPES, None, pool), gradients, squares, (values**2).sum(1), 9)
    assert builder._kl[name] == pytest.approx(wanted, rel=1e-5)
    assert 0 < wanted[QuantType.Q8_0] < wanted[QuantType.Q4_0]


def test_rounded_activations_cost_what_the_type_makes_of_them(tiny_gguf: Path, pool: ThreadPoolExecutor) -> None:
    inventory, tensors = open_inventory(tiny_gguf)
    types = (QuantType.F16, QuantType.Q8_0, QuantType.Q4_K)
    blocks = {QuantType.F16: 0, QuantType.Q8_0: 32, QuantType.Q4_K: 256}
    kl: list[dict[QuantType, float]] = []
    for prices in ({}, {32: 1.0, 256: 5.0}):
        builder = ErrorTableBuilder(
            inventory,
            lambda name, rows: tensors.load_tensor(name)[rows],
            {t.name: types for t in inventory.quantizable},
            Moments(site=lambda _t: None, load=lambda _s: np.eye(256, dtype=np.float32)),
            pool,
            activation_block=blocks.__getitem__,
        )
        name = "blk.0.ffn_up.weight"
        info = inventory.tensor(name)
        rows = sampled_rows(info, 8)
        builder.linear(name, rows, torch.ones(1, len(rows), info.n_cols), torch.ones(info.n_rows), 4, prices)
        kl.append(builder._kl[name])
    added = {t: kl[1][t] - kl[0][t] for t in types}
    assert added == pytest.approx({QuantType.F16: 0.0, QuantType.Q8_0: 1.0, QuantType.Q4_K: 5.0}, abs=1e-6)


def test_a_tensor_without_samples_is_a_bug_with_a_name(parts: tuple[ModelInventory, ErrorTableBuilder]) -> None:
    inventory, builder = parts
    feed(inventory, builder, skip="blk.1.attn_k.weight")
    builder.embedding(EMBEDDING, np.array([[1, 2]]), torch.ones(1, 2, 256))
    with pytest.raises(AssertionError, match=r"blk\.1\.attn_k\.weight"):
        builder.finish()
