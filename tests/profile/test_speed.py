"""The speed model's arithmetic, against hand-computed figures and two published ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from ramp_edge.codec.types import QuantType
from ramp_edge.errors import ProfileError
from ramp_edge.model.gguf_file import open_inventory
from ramp_edge.profile.load import load_target
from ramp_edge.profile.speed import (
    as_run,
    attention_macs,
    context_seconds,
    decode_seconds,
    kv_read_bytes,
    seconds_per_byte,
    tensor_seconds,
)
from ramp_edge.records import DeviceTarget


def test_tensor_seconds_are_bytes_over_reached_bandwidth(random_model: Callable[..., Path]) -> None:
    inventory, _ = open_inventory(random_model("llama-gqa-untied"))
    target = load_target("raspberry-pi-5")
    up = inventory.tensor("blk.0.ffn_up.weight")
    expected_s = up.n_elements * 4.5 / 8 / (11.7e9 * 0.94)
    assert tensor_seconds(up, QuantType.Q4_K, target, tied=False) == pytest.approx(expected_s)
    embedding = inventory.tensor("token_embd.weight")
    whole_s = tensor_seconds(embedding, QuantType.Q8_0, target, tied=True)
    one_row_s = tensor_seconds(embedding, QuantType.Q8_0, target, tied=False)
    assert whole_s == pytest.approx(one_row_s * embedding.n_rows)


def test_decode_seconds_sum_weights_cache_and_overhead(random_model: Callable[..., Path]) -> None:
    inventory, _ = open_inventory(random_model("gemma3-window"))
    target = load_target("raspberry-pi-5")
    types = {t.name: QuantType.Q8_0 for t in inventory.quantizable}
    empty_s = decode_seconds(inventory, types, target, ctx_used=0, kv_type=QuantType.F16)
    used_s = decode_seconds(inventory, types, target, ctx_used=4096, kv_type=QuantType.F16)
    # One full layer reads 4096 tokens, six sliding ones 512; 1 KV head x 64, K and V, 2 bytes.
    assert kv_read_bytes(inventory, 4096, QuantType.F16) == (4096 + 6 * 512) * 2 * 64 * 2
    assert used_s - empty_s == pytest.approx((4096 + 6 * 512) * 256 / 11.7e9)
    weights_s = sum((t.n_elements * 8.5 / 8 if t.quantizable else t.source_bytes) / 11.7e9 for t in inventory.tensors)
    assert empty_s == pytest.approx(weights_s + 0.5e-3)


def test_unlisted_type_is_refused_and_floats_stream_like_f16() -> None:
    target = load_target("raspberry-pi-5")
    assert seconds_per_byte(QuantType.F32, target) == seconds_per_byte(QuantType.F16, target)
    with pytest.raises(ProfileError, match="IQ1_S"):
        seconds_per_byte(QuantType.IQ1_S, target)


@pytest.mark.parametrize(
    ("device", "model_bytes", "kind", "published_tok_s"),
    [
        # Published figures that the profile was not fitted to on this very row; within a third.
        ("raspberry-pi-5", 4.9e9, QuantType.Q4_K, 2.0),
        ("apple-m4-16gb", 3.83e9, QuantType.Q4_0, 24.0),
        ("x86-avx512-32gb", 4.6e9, QuantType.Q4_0, 11.25),
    ],
)
def test_profiles_agree_with_published_speeds(
    device: str, model_bytes: float, kind: QuantType, published_tok_s: float
) -> None:
    target = load_target(device)
    tok_s = 1 / (model_bytes * seconds_per_byte(kind, target) + target.token_overhead_s)
    assert published_tok_s / 1.33 < tok_s < published_tok_s * 1.33


def test_more_bandwidth_is_faster(random_model: Callable[..., Path]) -> None:
    inventory, _ = open_inventory(random_model("qwen2-wide-ff"))
    slow = load_target("raspberry-pi-5")
    fast = dataclasses.replace(slow, bandwidth_effective_bytes_s=2 * slow.bandwidth_effective_bytes_s)
    slow_s, fast_s = (decode_seconds(inventory, {}, t, ctx_used=100, kv_type=QuantType.F16) for t in (slow, fast))
    assert slow_s - slow.token_overhead_s == pytest.approx(2 * (fast_s - fast.token_overhead_s))


@pytest.mark.parametrize("tied", [True, False])
def test_rows_of_the_output_matrix_cost_beside_their_bytes(
    make_tiny_gguf: Callable[..., Path], tmp_path: Path, tied: bool
) -> None:
    inventory, _ = open_inventory(make_tiny_gguf(tmp_path / "model.gguf", tied=tied))
    types = {t.name: QuantType.Q8_0 for t in inventory.quantizable}
    plain = load_target("raspberry-pi-5")
    q8_0 = dataclasses.replace(plain.types[QuantType.Q8_0], output_row_s=1e-6)
    rows = dataclasses.replace(plain, types={**plain.types, QuantType.Q8_0: q8_0})
    one, other = (decode_seconds(inventory, types, t, ctx_used=0, kv_type=QuantType.F16) for t in (plain, rows))
    assert other - one == pytest.approx(inventory.hyper.vocab_size * 1e-6), "once, whatever else has as many rows"
    cached = dataclasses.replace(q8_0, decode_efficiency_in_cache=1.0)
    inside = as_run(dataclasses.replace(rows, cache_bytes=10**9, types={QuantType.Q8_0: cached}), 10**9)
    assert inside.types[QuantType.Q8_0].output_row_s == 0.0


def test_a_model_within_the_cache_has_its_own_figures(random_model: Callable[..., Path]) -> None:
    inventory, _ = open_inventory(random_model("qwen2-wide-ff"))
    types = {t.name: QuantType.Q4_0 for t in inventory.quantizable}
    plain = load_target("raspberry-pi-5")
    q4_0 = dataclasses.replace(plain.types[QuantType.Q4_0], decode_efficiency_in_cache=0.5)
    board = dataclasses.replace(
        plain,
        bandwidth_in_cache_bytes_s=2 * plain.bandwidth_effective_bytes_s,
        layer_overhead_s=1e-3,
        layer_overhead_in_cache_s=1e-4,
        types={**plain.types, QuantType.Q4_0: q4_0},
    )

    def seconds(cache_bytes: int) -> float:
        target = dataclasses.replace(board, cache_bytes=cache_bytes)
        return decode_seconds(inventory, types, target, ctx_used=0, kv_type=QuantType.F16)

    assert seconds(0) == pytest.approx(
        decode_seconds(inventory, types, plain, ctx_used=0, kv_type=QuantType.F16) + inventory.hyper.n_layer * 1e-3
    )
    inside = as_run(dataclasses.replace(board, cache_bytes=10**9), 10**9)
    assert seconds_per_byte(QuantType.Q4_0, inside) == pytest.approx(1 / (plain.bandwidth_effective_bytes_s))
    assert seconds_per_byte(QuantType.Q8_0, inside) == pytest.approx(1 / (2 * plain.bandwidth_effective_bytes_s))
    expected_s = sum(
        t.n_elements * 4.5 / 8 * seconds_per_byte(QuantType.Q4_0, inside)
        if t.quantizable
        else t.source_bytes * seconds_per_byte(QuantType.F32, inside)
        for t in inventory.tensors
    )
    assert seconds(10**9) == pytest.approx(expected_s + plain.token_overhead_s + inventory.hyper.n_layer * 1e-4)
    assert as_run(board, 10**9) is board, "no cache, no other figures"


def test_every_query_head_computes_with_what_heads_share(random_model: Callable[..., Path]) -> None:
    inventory, _ = open_inventory(random_model("gemma3-window"))
    hyper = inventory.hyper
    assert hyper.n_head > hyper.n_head_kv, "else nothing is shared"
    positions = 4096 + 6 * 512
    assert attention_macs(inventory, 4096) == positions * hyper.n_head * 2 * 64
    plain = load_target("raspberry-pi-5")
    slower = {QuantType.F16: 2e9, QuantType.Q8_0: 1e9}
    board = dataclasses.replace(plain, attention_macs_s=slower, bandwidth_in_cache_bytes_s=1e12)

    def seconds(target: DeviceTarget, kv_type: QuantType, weight_bytes: int = 10**9) -> float:
        return context_seconds(inventory, target, ctx_used=4096, kv_type=kv_type, weight_bytes=weight_bytes)

    macs, read_s = attention_macs(inventory, 4096), kv_read_bytes(inventory, 4096, QuantType.F16) / 11.7e9
    assert seconds(plain, QuantType.F16) == pytest.approx(read_s), "bytes alone where nobody measured"
    assert seconds(board, QuantType.F16) == pytest.approx(macs / 2e9 + read_s)
    assert seconds(board, QuantType.Q8_0) > seconds(board, QuantType.F16), "fewer bytes, slower all the same"
    read_s = kv_read_bytes(inventory, 4096, QuantType.Q4_0) / 11.7e9
    assert seconds(board, QuantType.Q4_0) == pytest.approx(macs / 1e9 + read_s), "not listed: as slow as the slowest"
    cached = dataclasses.replace(board, cache_bytes=10**9)
    assert seconds(cached, QuantType.F16, weight_bytes=10**6) == pytest.approx(macs / 2e9), "the cache holds them"
    just_full = 10**9 - kv_read_bytes(inventory, 4096, QuantType.F16) + 1
    assert seconds(cached, QuantType.F16, weight_bytes=just_full) > macs / 2e9, "or all but one byte"
