"""Which types a tensor may take, and that each refusal names its reason."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from ramp_edge.allocate.choices import legal_types
from ramp_edge.codec.types import QuantType
from ramp_edge.errors import InfeasibleBudgetError
from ramp_edge.records import DeviceTarget, Role, TensorInfo, TypeSupport

MIXED = (QuantType.Q8_0, QuantType.Q4_K, QuantType.IQ3_XXS, QuantType.IQ3_S, QuantType.IQ4_NL, QuantType.F16)


def device(types: Iterable[QuantType]) -> DeviceTarget:
    support = TypeSupport(
        decode_efficiency=1.0,
        decode_efficiency_in_cache=None,
        output_row_s=0.0,
        prefill_efficiency=1.0,
        repacks=False,
        source="test",
        measured=False,
    )
    return DeviceTarget(
        name="bench",
        title="Bench",
        memory_total_bytes=1 << 33,
        memory_usable_bytes=1 << 32,
        bandwidth_peak_bytes_s=2e10,
        bandwidth_effective_bytes_s=1e10,
        cores=4,
        decode_threads=4,
        isa=("neon",),
        backend="cpu",
        target_bpw=4.5,
        max_bpw=8.5,
        types=dict.fromkeys(types, support),
        default_ctx=2048,
        default_kv_type=QuantType.F16,
        profile_path=Path("bench.yaml"),
        measured=False,
    )


def tensor(
    n_cols: int = 512, role: Role = Role.FFN_DOWN, source_type: QuantType = QuantType.F16, name: str = "blk.0.x.weight"
) -> TensorInfo:
    return TensorInfo(name=name, role=role, layer=0, shape=(n_cols, 100), source_type=source_type, kept_reason=None)


def test_everything_legal_is_kept_smallest_first() -> None:
    legal = legal_types(tensor(), device(MIXED), has_moments=True)
    assert set(legal.types) == set(MIXED)
    assert not legal.illegal
    assert [t.bits_per_weight for t in legal.types] == sorted(t.bits_per_weight for t in MIXED)


def test_sizes_are_those_of_whole_rows() -> None:
    legal = legal_types(tensor(), device(MIXED), has_moments=True)
    assert legal.size_bytes(QuantType.Q8_0) == 512 // 32 * 34 * 100
    assert legal.size_bytes(QuantType.Q4_K) == 512 // 256 * 144 * 100
    assert legal.size_bytes(QuantType.F16) == 512 * 2 * 100


def test_rows_that_a_block_does_not_divide() -> None:
    legal = legal_types(tensor(576), device(MIXED), has_moments=True)
    assert set(legal.types) == {QuantType.Q8_0, QuantType.IQ4_NL, QuantType.F16}
    assert legal.illegal[QuantType.Q4_K] == "rows of 576 do not divide into blocks of 256"


def test_codebook_types_need_an_importance_matrix() -> None:
    legal = legal_types(tensor(), device(MIXED), has_moments=False)
    assert set(legal.illegal) == {QuantType.IQ3_XXS}
    assert "importance matrix" in legal.illegal[QuantType.IQ3_XXS]


def test_codebook_types_are_not_for_embeddings() -> None:
    legal = legal_types(tensor(role=Role.TOKEN_EMBD), device(MIXED), has_moments=True)
    assert set(legal.illegal) == {QuantType.IQ3_XXS}
    assert "embedding" in legal.illegal[QuantType.IQ3_XXS]


def test_the_user_s_restriction_is_named() -> None:
    legal = legal_types(tensor(), device(MIXED), has_moments=True, allowed=[QuantType.Q8_0])
    assert legal.types == (QuantType.Q8_0,)
    assert set(legal.illegal.values()) == {"excluded by --types"}


def test_no_type_is_larger_than_its_source() -> None:
    legal = legal_types(tensor(source_type=QuantType.Q4_K), device(MIXED), has_moments=True)
    assert {QuantType.Q8_0, QuantType.F16} == set(legal.illegal)
    assert legal.illegal[QuantType.F16] == "larger than the source's Q4_K"


def test_bfloat16_does_not_become_float16() -> None:
    legal = legal_types(tensor(source_type=QuantType.BF16), device(MIXED), has_moments=True)
    assert set(legal.illegal) == {QuantType.F16}
    assert "range" in legal.illegal[QuantType.F16]


def test_nothing_legal_names_the_tensor_and_every_reason() -> None:
    target = device([QuantType.Q4_K, QuantType.IQ3_XXS])
    with pytest.raises(InfeasibleBudgetError) as caught:
        legal_types(tensor(100, name="blk.7.odd.weight"), target, has_moments=True)
    for part in ("blk.7.odd.weight", "100 x 100", "bench", "Q4_K: rows of 100", "IQ3_XXS: rows of 100"):
        assert part in caught.value.message
    assert "--types" in caught.value.hint
