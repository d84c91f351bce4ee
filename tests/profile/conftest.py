"""Random models of several families, and what libllama says about its buffers."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
import pytest

_PROBE = """
import json, re, sys
import llama_cpp as L
lines = []
@L.llama_log_callback
def keep(level, text, data):
    lines.append(text.decode(errors="replace"))
L.llama_log_set(keep, None)
L.llama_backend_init()
path, cases = sys.argv[1], json.loads(sys.argv[2])
found = []
for ctx, kv_type, n_ubatch, n_outputs in cases:
    lines.clear()
    model = L.llama_model_load_from_file(path.encode(), L.llama_model_default_params())
    p = L.llama_context_default_params()
    p.n_ctx, p.n_ubatch, p.n_batch, p.type_k, p.type_v = ctx, n_ubatch, max(512, n_ubatch), kv_type, kv_type
    p.swa_full, p.flash_attn_type, p.n_outputs_max = False, 1, n_outputs
    context = L.llama_init_from_model(model, p)
    found.append("".join(lines))
    if context:
        L.llama_free(context)
    L.llama_model_free(model)
print(json.dumps(found))
"""
_SIZE = re.compile(r"(\S+)\s+(model|KV|compute|output) buffer size =\s+([\d.]+) MiB")


@dataclass(frozen=True)
class ReportedBuffers:
    """Sums of libllama's log lines, in MiB with two decimals each."""

    kv_mib: float
    n_kv_lines: int
    compute_mib: float
    output_mib: float
    repack_mib: float


Case = tuple[int, int, int, int]
"""Context, KV type, tokens of a batch, tokens with logits (0: all)."""
Probe = Callable[[Path, list[Case]], list[ReportedBuffers]]
LogOf = Callable[[Path, list[Case]], list[str]]


@pytest.fixture(scope="session")
def context_log() -> LogOf:
    """What libllama logs for a context, in a process of its own because its log callback is global."""

    def ask(path: Path, cases: list[Case]) -> list[str]:
        run = subprocess.run(
            [sys.executable, "-c", _PROBE, str(path), json.dumps(cases)], capture_output=True, text=True, check=False
        )
        assert run.returncode == 0, run.stderr[-2000:]
        return list(json.loads(run.stdout))

    return ask


@pytest.fixture(scope="session")
def reported_buffers(context_log: LogOf) -> Probe:
    """The buffers that libllama says it allotted."""

    def probe(path: Path, cases: list[Case]) -> list[ReportedBuffers]:
        reports = []
        for log in context_log(path, cases):
            sizes = [(where, what, float(mib)) for where, what, mib in _SIZE.findall(log)]
            kv = [mib for _, what, mib in sizes if what == "KV"]
            reports.append(
                ReportedBuffers(
                    kv_mib=sum(kv),
                    n_kv_lines=len(kv),
                    compute_mib=[mib for _, what, mib in sizes if what == "compute"][-1],
                    output_mib=[mib for _, what, mib in sizes if what == "output"][-1],
                    repack_mib=sum(mib for where, what, mib in sizes if what == "model" and "REPACK" in where),
                )
            )
        return reports

    return probe


@dataclass(frozen=True)
class Shape:
    """Widths of a random model."""

    arch: str
    n_embd: int
    n_ff: int
    n_layer: int
    n_head: int
    n_head_kv: int
    head_dim: int
    n_vocab: int
    tied: bool
    window: int = 0


SHAPES = {
    "llama-gqa-untied": Shape("llama", 256, 1024, 3, 8, 2, 32, 8000, False),
    "llama-mha-tied": Shape("llama", 384, 512, 2, 6, 6, 64, 16000, True),
    "qwen2-wide-ff": Shape("qwen2", 192, 2048, 2, 6, 2, 32, 3000, True),
    "qwen3-wide-heads": Shape("qwen3", 128, 384, 3, 8, 4, 64, 2000, True),
    "llama-odd-heads": Shape("llama", 256, 512, 2, 4, 2, 48, 2000, False),
    "gemma3-window": Shape("gemma3", 128, 512, 7, 4, 1, 64, 12000, True, 512),
}


@pytest.fixture(scope="session")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Write a random model of one of `SHAPES`, in f16 or, by name, with matrices in a quantized type (zero blocks)."""

    def write(name: str, matrix_type: str = "F16") -> Path:
        path = tmp_path_factory.mktemp("model") / f"{name}-{matrix_type}.gguf"
        _write_model(path, SHAPES[name], gguf.GGMLQuantizationType[matrix_type])
        return path

    return write


def _open_writer(path: Path, shape: Shape) -> gguf.GGUFWriter:
    writer = gguf.GGUFWriter(path, shape.arch)
    writer.add_name("random")
    writer.add_context_length(65536)
    writer.add_embedding_length(shape.n_embd)
    writer.add_block_count(shape.n_layer)
    writer.add_feed_forward_length(shape.n_ff)
    writer.add_head_count(shape.n_head)
    writer.add_head_count_kv(shape.n_head_kv)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(shape.n_vocab)
    writer.add_tokenizer_model("no_vocab")
    if shape.window:
        writer.add_sliding_window(shape.window)
    return writer


def _write_model(path: Path, shape: Shape, matrix_type: gguf.GGMLQuantizationType) -> None:
    writer = _open_writer(path, shape)
    rng = np.random.default_rng(0)

    def matrix(name: str, n_rows: int, n_cols: int) -> None:
        if matrix_type is gguf.GGMLQuantizationType.F16:
            writer.add_tensor(name, (rng.standard_normal((n_rows, n_cols)) / n_cols**0.5).astype(np.float16))
            return
        block, block_bytes = gguf.GGML_QUANT_SIZES[matrix_type]
        data = np.zeros((n_rows, n_cols // block * block_bytes), dtype=np.uint8)
        writer.add_tensor(name, data, raw_dtype=matrix_type)

    def vector(name: str, size: int) -> None:
        writer.add_tensor(name, np.ones(size, dtype=np.float32))

    q_width, kv_width = shape.n_head * shape.head_dim, shape.n_head_kv * shape.head_dim
    matrix("token_embd.weight", shape.n_vocab, shape.n_embd)
    vector("output_norm.weight", shape.n_embd)
    if not shape.tied:
        matrix("output.weight", shape.n_vocab, shape.n_embd)
    for layer in range(shape.n_layer):
        block = f"blk.{layer}."
        vector(block + "attn_norm.weight", shape.n_embd)
        vector(block + "ffn_norm.weight", shape.n_embd)
        matrix(block + "attn_q.weight", q_width, shape.n_embd)
        matrix(block + "attn_k.weight", kv_width, shape.n_embd)
        matrix(block + "attn_v.weight", kv_width, shape.n_embd)
        matrix(block + "attn_output.weight", shape.n_embd, q_width)
        matrix(block + "ffn_gate.weight", shape.n_ff, shape.n_embd)
        matrix(block + "ffn_up.weight", shape.n_ff, shape.n_embd)
        matrix(block + "ffn_down.weight", shape.n_embd, shape.n_ff)
        if shape.arch == "qwen2":
            for part, width in (("q", q_width), ("k", kv_width), ("v", kv_width)):
                vector(f"{block}attn_{part}.bias", width)
        if shape.arch in ("qwen3", "gemma3"):
            vector(block + "attn_q_norm.weight", shape.head_dim)
            vector(block + "attn_k_norm.weight", shape.head_dim)
        if shape.arch == "gemma3":
            vector(block + "post_attention_norm.weight", shape.n_embd)
            vector(block + "post_ffw_norm.weight", shape.n_embd)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
