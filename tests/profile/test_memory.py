"""The memory model against libllama, and its own arithmetic."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Callable
from pathlib import Path

import pytest

import ramp_edge
from ramp_edge.codec.types import QuantType
from ramp_edge.model.gguf_file import open_inventory
from ramp_edge.profile.advice import what_would_fit
from ramp_edge.profile.load import load_target
from ramp_edge.profile.memory import (
    SERVER_OUTPUTS,
    compute_buffer_bytes,
    kv_cache_bytes,
    kv_cells,
    memory_budget,
    pad_cells,
)
from ramp_edge.records import DeviceTarget, MemoryBudget, ModelInventory

MIB = 1 << 20
SHAPE_NAMES = ("llama-gqa-untied", "llama-mha-tied", "qwen2-wide-ff", "qwen3-wide-heads", "gemma3-window")
# (context, type, batch, tokens with logits or None): padding, both sides of the window, quantized caches, a server.
CASES = [
    (512, QuantType.F16, 512, None),
    (700, QuantType.F16, 256, None),
    (1024, QuantType.Q8_0, 512, None),
    (2048, QuantType.Q4_0, 128, None),
    (4096, QuantType.F16, 512, None),
    (32768, QuantType.Q8_0, 512, None),
    (512, QuantType.F16, 512, SERVER_OUTPUTS),
    (8192, QuantType.Q8_0, 512, SERVER_OUTPUTS),
    (2048, QuantType.Q4_0, 128, 4),
]
# Measured over 27 settings of each: -3.1 % (llama-mha-tied, 4096) to +27 % (qwen3-wide-heads, 5.5 MiB) with all logits;
# over 6 settings with the logits of 1 or 4 tokens -5.8 % (Gemma 3 270M, 5.7 MiB) to +25 % (qwen3-wide-heads, 4.0 MiB).
MOST_UNDER, MOST_OVER = 0.07, 0.30
EMBEDDED = Path(ramp_edge.__file__).parent / "data" / "ramp-edge-default-f16.gguf"


def inventory_of(path: Path) -> ModelInventory:
    return open_inventory(path, allow_requantize=True)[0]


@pytest.mark.parametrize("name", SHAPE_NAMES)
def test_kv_exact_and_compute_near_what_libllama_reports(
    name: str, random_model: Callable[..., Path], reported_buffers: Callable[..., list]
) -> None:
    check_against_libllama(random_model(name), reported_buffers)


@pytest.mark.skipif(not EMBEDDED.is_file(), reason="this checkout has no ramp_edge/data/ramp-edge-default-f16.gguf")
def test_kv_exact_and_compute_near_on_the_embedded_model(reported_buffers: Callable[..., list]) -> None:
    check_against_libllama(EMBEDDED, reported_buffers)


def check_against_libllama(path: Path, reported_buffers: Callable[..., list]) -> None:
    hyper = inventory_of(path).hyper
    reports = reported_buffers(path, [(ctx, int(kind), batch, n_out or 0) for ctx, kind, batch, n_out in CASES])
    for (ctx, kind, batch, n_out), report in zip(CASES, reports, strict=True):
        # Each log line is rounded to 0.01 MiB.
        kv_mib = kv_cache_bytes(hyper, ctx, kind, batch) / MIB
        assert kv_mib == pytest.approx(report.kv_mib, abs=0.0051 * report.n_kv_lines + 1e-9), (ctx, kind)
        assert 4 * hyper.vocab_size / MIB == pytest.approx(report.output_mib, abs=0.0051)
        compute_mib = compute_buffer_bytes(hyper, ctx, batch, n_out) / MIB
        assert compute_mib >= (1 - MOST_UNDER) * report.compute_mib, (ctx, kind, batch, n_out)
        assert compute_mib <= (1 + MOST_OVER) * report.compute_mib, (ctx, kind, batch, n_out)


def test_cache_types_that_libllama_refuses_are_refused(
    random_model: Callable[..., Path], context_log: Callable[..., list[str]]
) -> None:
    # Two heads of 48: the row of 96 divides by a block of 32, the head does not.
    path = random_model("llama-odd-heads")
    inventory = inventory_of(path)
    logs = context_log(path, [(512, int(kind), 512, 0) for kind in (QuantType.Q8_0, QuantType.F16)])
    assert ["does not divide n_embd_head_k=48" in log for log in logs] == [True, False]
    with pytest.raises(ValueError, match="block of 32 does not divide the 48 columns of a K head"):
        kv_cache_bytes(inventory.hyper, 512, QuantType.Q8_0)
    assert kv_cache_bytes(inventory.hyper, 512, QuantType.F16) == 512 * 2 * 2 * 96 * 2
    tight = with_memory(load_target("raspberry-pi-5"), 40 * MIB)
    advice = what_would_fit(inventory, tight, 8 * MIB, 65536, QuantType.F16)
    assert advice
    assert not any("--kv-type" in line for line in advice)


@pytest.mark.skipif(
    platform.machine() != "x86_64" or " avx2 " not in Path("/proc/cpuinfo").read_text(), reason="needs AVX2 on Linux"
)
@pytest.mark.parametrize("name", ["llama-gqa-untied", "llama-mha-tied"])
def test_repacked_bytes_are_what_libllama_reports(
    name: str, random_model: Callable[..., Path], reported_buffers: Callable[..., list]
) -> None:
    path = random_model(name, "Q4_0")
    budget = memory_budget(
        inventory_of(path),
        {},
        load_target("x86-avx2-16gb"),
        ctx=512,
        kv_type=QuantType.F16,
        count_mapped_originals=True,
    )
    copies = sum(line.size_bytes for line in budget.lines if line.name in ("repack_copy", "tied_copy"))
    report = reported_buffers(path, [(512, int(QuantType.F16), 512, 0)])[0]
    assert copies / MIB == pytest.approx(report.repack_mib, abs=0.0051)
    assert copies > 0


def test_known_kv_size_of_a_large_model(random_model: Callable[..., Path]) -> None:
    # 32 layers, 8 KV heads x 128, 4096 tokens, f16: 32 * 4096 * (1024 + 1024) * 2 B = 512 MiB.
    hyper = dataclasses.replace(
        inventory_of(random_model("llama-gqa-untied")).hyper,
        n_layer=32,
        n_head_kv=8,
        head_dim_k=128,
        head_dim_v=128,
        swa_layers=(False,) * 32,
    )
    assert kv_cache_bytes(hyper, 4096, QuantType.F16) == 512 * MIB
    assert kv_cache_bytes(hyper, 4096, QuantType.Q8_0) == 512 * MIB * 34 // 64
    assert kv_cache_bytes(hyper, 4000, QuantType.F16) == 500 * MIB + 12 * MIB
    assert (pad_cells(1), pad_cells(256), pad_cells(257)) == (256, 256, 512)


def test_sliding_window_cache_stops_growing(random_model: Callable[..., Path]) -> None:
    hyper = inventory_of(random_model("gemma3-window")).hyper
    assert sum(hyper.swa_layers) == 6
    assert kv_cells(hyper, 512) == (512, 512)
    assert kv_cells(hyper, 32768) == (32768, 1024)
    assert kv_cells(hyper, 32768, 128) == (32768, 768)


def lines_of(budget: MemoryBudget) -> dict[str, int]:
    return {line.name: line.size_bytes for line in budget.lines}


def test_lines_add_up_and_follow_the_device(random_model: Callable[..., Path]) -> None:
    inventory = inventory_of(random_model("llama-mha-tied"))
    types = {t.name: QuantType.Q4_0 for t in inventory.quantizable}
    budgets = {
        name: memory_budget(inventory, types, load_target(name), ctx=1024, kv_type=QuantType.F16)
        for name in ("raspberry-pi-4", "raspberry-pi-5", "jetson-orin")
    }
    weights = sum(t.n_elements * 18 // 32 if t.quantizable else t.source_bytes for t in inventory.tensors)
    embedding = inventory.tensor("token_embd.weight").n_elements * 18 // 32
    for name, budget in budgets.items():
        lines = lines_of(budget)
        assert lines["weights"] == weights
        assert sum(lines.values()) == budget.total_bytes
        assert budget.free_bytes == budget.usable_bytes - budget.total_bytes
        assert lines["repack_copy"] == 0
        # Pi 4: no repacking; Pi 5: repacked head beside the plain look-up; CUDA: a copy on the GPU.
        assert lines["tied_copy"] == (0 if name == "raspberry-pi-4" else embedding)
    mapped = memory_budget(
        inventory, types, load_target("raspberry-pi-5"), ctx=1024, kv_type=QuantType.F16, count_mapped_originals=True
    )
    assert lines_of(mapped)["repack_copy"] == sum(
        t.n_elements * 18 // 32 for t in inventory.quantizable if t.name != "token_embd.weight"
    )


def test_rows_that_are_repacked_follow_the_cpu(random_model: Callable[..., Path]) -> None:
    inventory = inventory_of(random_model("llama-mha-tied"))
    # ggml-cpu/repack.cpp: Q4_0 in groups of 4 rows on ARM, of 8 on x86; Q4_K in groups of 8 everywhere.
    embedding = dataclasses.replace(inventory.tensor("token_embd.weight"), shape=(512, 16004))
    inventory = dataclasses.replace(inventory, tensors=(embedding,))

    def tied_copy(device: str, kind: QuantType) -> int:
        budget = memory_budget(inventory, {embedding.name: kind}, load_target(device), ctx=512, kv_type=QuantType.F16)
        return lines_of(budget)["tied_copy"]

    assert tied_copy("raspberry-pi-5", QuantType.Q4_0) == 16004 * 512 * 18 // 32
    assert tied_copy("raspberry-pi-5", QuantType.Q4_K) == 0
    assert tied_copy("x86-avx2-16gb", QuantType.Q4_0) == 0
    assert tied_copy("raspberry-pi-4", QuantType.Q4_0) == 0


def test_metal_shares_the_mapped_file(random_model: Callable[..., Path]) -> None:
    inventory = inventory_of(random_model("llama-mha-tied"))
    budget = memory_budget(inventory, {}, load_target("apple-m1-8gb"), ctx=512, kv_type=QuantType.F16)
    line = next(line for line in budget.lines if line.name == "tied_copy")
    assert line.size_bytes == 0
    assert "with --no-mmap it is loaded twice, 12.3 MB more" in line.detail


def test_a_server_reserves_fewer_logits(random_model: Callable[..., Path]) -> None:
    inventory, target = inventory_of(random_model("llama-mha-tied")), load_target("raspberry-pi-4")
    batch, server = (
        lines_of(memory_budget(inventory, {}, target, ctx=512, kv_type=QuantType.F16, n_outputs=n))
        for n in (None, SERVER_OUTPUTS)
    )
    # libllama reports 35.5 and 5.5 MiB.
    assert server["compute_buffer"] < batch["compute_buffer"] / 5
    assert {k: v for k, v in server.items() if k != "compute_buffer"} == {
        k: v for k, v in batch.items() if k != "compute_buffer"
    }


def with_memory(target: DeviceTarget, usable_bytes: int) -> DeviceTarget:
    return dataclasses.replace(target, memory_usable_bytes=usable_bytes)


def test_advice_names_the_excess_and_what_fits(random_model: Callable[..., Path]) -> None:
    inventory = inventory_of(random_model("llama-mha-tied"))
    hyper, ctx, weights = inventory.hyper, 32768, 8 * MIB
    target = load_target("raspberry-pi-5")

    def need(at_ctx: int, kind: QuantType) -> int:
        return (
            weights + kv_cache_bytes(hyper, at_ctx, kind) + compute_buffer_bytes(hyper, at_ctx) + 4 * hyper.vocab_size
        )

    exact = with_memory(target, need(ctx, QuantType.F16))
    assert what_would_fit(inventory, exact, weights, ctx, QuantType.F16) == []
    tight = with_memory(target, need(8192, QuantType.F16))
    advice = " | ".join(what_would_fit(inventory, tight, weights, ctx, QuantType.F16))
    assert advice.split(" over: ")[0].endswith("MB")
    assert "--ctx 8192" in advice
    roomy = with_memory(target, need(ctx, QuantType.Q8_0))
    assert "With --kv-type q8_0 it fits at 32768 tokens" in " | ".join(
        what_would_fit(inventory, roomy, weights, ctx, QuantType.F16)
    )
    assert "llama-server --parallel 1" not in advice
    little = with_memory(target, need(ctx, QuantType.F16) - MIB)
    at_run_time = what_would_fit(inventory, little, weights, ctx, QuantType.F16)[-1]
    # Settings of llama.cpp's tools that build does not have must not read like its options.
    assert at_run_time.startswith("llama.cpp's tools would run it with --ubatch-size 256")
    assert "llama-server --parallel 1" in at_run_time
    assert "memory.usable in a profile of your own" in at_run_time
    assert all(line.endswith(".") for line in what_would_fit(inventory, little, weights, ctx, QuantType.F16))
    hopeless = what_would_fit(inventory, with_memory(target, 45 * MIB), 60 * MIB, 512, QuantType.F16)
    assert "bits per weight" in hopeless[-1]
    nothing = what_would_fit(inventory, with_memory(target, 2 * MIB), weights, 512, QuantType.F16)
    assert "smaller model" in nothing[-1]
