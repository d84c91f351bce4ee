"""Models that exist to be timed: a Llama whose matrices all have one type and repeat one strip of rows.

Speed does not depend on what the weights say, so a board can make such a file itself from two small parts: the `head`
(GGUF header and norms) and the `strip`, written `repeats` times after it. A model of 130 MB travels as 600 kB.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np

from ramp_edge.codec.ggml import encode
from ramp_edge.codec.types import QuantType

STRIP_ROWS = 256
_ALIGNMENT = gguf.GGUF_DEFAULT_ALIGNMENT
_HEAD_DIM = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """Width and depth of a synthetic model; the feed-forward part is as wide as the rest, so that all rows are alike."""

    n_embd: int
    n_layer: int
    n_vocab: int

    @property
    def n_matrix_rows(self) -> int:
        """Rows of all matrices together: seven square ones a layer, and the embedding, which is the output matrix too."""
        return 7 * self.n_embd * self.n_layer + self.n_vocab


@dataclass(frozen=True, kw_only=True, slots=True)
class SyntheticModel:
    """The two parts, and what the whole file is."""

    quant_type: QuantType
    shape: Shape
    head: bytes
    strip: bytes
    repeats: int

    @property
    def file_bytes(self) -> int:
        return len(self.head) + self.repeats * len(self.strip)

    @property
    def matrix_bytes(self) -> int:
        """What a decoded token reads."""
        return self.repeats * len(self.strip)

    def write(self, path: Path) -> None:
        """The whole file, for tests and for this machine."""
        with path.open("wb") as stream:
            stream.write(self.head)
            for _ in range(self.repeats):
                stream.write(self.strip)


def synthetic_model(quant_type: QuantType, shape: Shape, work: Path, seed: int = 0) -> SyntheticModel:
    """A model of that type and shape; `work` is a folder for a file that is gone afterwards.

    Raises ValueError where rows of `n_embd` do not fit the type, or the strip does not divide the matrices.
    """
    if shape.n_embd % STRIP_ROWS or shape.n_vocab % STRIP_ROWS or shape.n_embd % _HEAD_DIM:
        raise ValueError(f"{shape}: widths must be multiples of {STRIP_ROWS}")
    rows = np.random.default_rng(seed).standard_normal((STRIP_ROWS, shape.n_embd), dtype=np.float32)
    # Activations keep their size through the layers, as in trained models; nothing overflows or vanishes.
    rows /= np.sqrt(np.float32(shape.n_embd))
    importance = np.ones(shape.n_embd, dtype=np.float32) if quant_type.needs_imatrix else None
    strip = encode(quant_type, rows, importance).tobytes()
    if len(strip) % _ALIGNMENT:
        raise ValueError(f"{quant_type.name}: a strip of {len(strip)} bytes is not a multiple of {_ALIGNMENT}")
    return SyntheticModel(
        quant_type=quant_type,
        shape=shape,
        head=_head(quant_type, shape, work / f"{quant_type.name}.head"),
        strip=strip,
        repeats=shape.n_matrix_rows // STRIP_ROWS,
    )


def _head(quant_type: QuantType, shape: Shape, path: Path) -> bytes:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(f"synthetic {quant_type.name}")
    writer.add_context_length(4096)
    writer.add_embedding_length(shape.n_embd)
    writer.add_block_count(shape.n_layer)
    writer.add_feed_forward_length(shape.n_embd)
    writer.add_head_count(shape.n_embd // _HEAD_DIM)
    writer.add_head_count_kv(shape.n_embd // _HEAD_DIM)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(_HEAD_DIM)
    writer.add_rope_freq_base(10000.0)
    # llama.cpp times tokens by their numbers: no words are needed.
    writer.add_tokenizer_model("none")
    writer.add_vocab_size(shape.n_vocab)
    ones = np.ones(shape.n_embd, dtype=np.float32)
    norms = ["output_norm.weight"]
    norms += [f"blk.{i}.{kind}_norm.weight" for i in range(shape.n_layer) for kind in ("attn", "ffn")]
    for name in norms:
        writer.add_tensor_info(name, ones.shape, ones.dtype, ones.nbytes)
    raw = gguf.GGMLQuantizationType(int(quant_type))
    row_bytes = quant_type.row_bytes(shape.n_embd)
    for name, n_rows in _matrices(shape):
        # For a quantized type the writer wants the shape of the bytes.
        written = (n_rows, row_bytes) if not quant_type.is_float else (n_rows, shape.n_embd)
        dtype = np.dtype(np.uint8) if not quant_type.is_float else np.dtype(np.float16)
        writer.add_tensor_info(name, written, dtype, n_rows * row_bytes, raw_dtype=raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    head = path.read_bytes()
    path.unlink()
    head += bytes(-len(head) % _ALIGNMENT)
    return head + ones.tobytes() * len(norms)


def _matrices(shape: Shape) -> list[tuple[str, int]]:
    kinds = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    return [("token_embd.weight", shape.n_vocab)] + [
        (f"blk.{layer}.{kind}.weight", shape.n_embd) for layer in range(shape.n_layer) for kind in kinds
    ]
