"""The binding to libggml's own quantizers, taken from the llama.cpp build inside llama-cpp-python.

ctypes releases the interpreter lock during each call, so plain threads run codecs in parallel.
"""

from __future__ import annotations

import ctypes
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ramp_edge.codec.types import QuantType
from ramp_edge.errors import RuntimeToolError

Float32 = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]


class _TypeTraits(ctypes.Structure):
    """Mirrors `struct ggml_type_traits` of ggml.h."""

    _fields_ = (
        ("type_name", ctypes.c_char_p),
        ("blck_size", ctypes.c_int64),
        ("blck_size_interleave", ctypes.c_int64),
        ("type_size", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", ctypes.c_void_p),
        ("from_float_ref", ctypes.c_void_p),
    )


_TO_FLOAT = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL:
    spec = find_spec("llama_cpp")
    if spec is None or spec.origin is None:
        raise RuntimeToolError(
            "llama-cpp-python is not installed, so there is no libggml to quantize with",
            hint="pip install llama-cpp-python==0.3.36",
        )
    folder = Path(spec.origin).parent / "lib"
    candidates = [folder / n for n in ("libggml-base.so", "libggml-base.dylib", "ggml-base.dll")]
    path = next((p for p in candidates if p.exists()), None)
    if path is None:
        raise RuntimeToolError(
            f"no libggml-base in {folder}",
            hint="reinstall it: pip install --force-reinstall llama-cpp-python==0.3.36",
        )
    library = ctypes.CDLL(str(path))
    library.ggml_quantize_init.argtypes = [ctypes.c_int]
    library.ggml_quantize_init.restype = None
    library.ggml_quantize_chunk.argtypes = [
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_void_p,
        ctypes.c_int64,
        ctypes.c_int64,
        ctypes.c_int64,
        ctypes.c_void_p,
    ]
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_get_type_traits.argtypes = [ctypes.c_int]
    library.ggml_get_type_traits.restype = ctypes.POINTER(_TypeTraits)
    return library


@cache
def _decoder(quant_type: QuantType) -> ctypes._CFunctionType:
    library = _library()
    # IQ types build their grids on first use; that is not thread-safe unless asked for beforehand.
    library.ggml_quantize_init(int(quant_type))
    traits = library.ggml_get_type_traits(int(quant_type)).contents
    if traits.blck_size != quant_type.block_size or traits.type_size != quant_type.block_bytes:
        raise RuntimeToolError(
            f"libggml says a block of {quant_type.name} is {traits.blck_size} weights in {traits.type_size} bytes, "
            f"the type table says {quant_type.block_size} in {quant_type.block_bytes}",
            hint="install the pinned pair: llama-cpp-python==0.3.36 and gguf>=0.19",
        )
    return _TO_FLOAT(traits.to_float)


def encode(quant_type: QuantType, rows: Float32, importance: Float32 | None = None) -> Bytes:
    """Quantize float32 `rows` [n_rows, n_cols] with ggml's own codec -> uint8 [n_rows, row_bytes].

    `importance` [n_cols] weighs the squared error of each column, as llama.cpp's importance matrix does.
    """
    if rows.ndim != 2 or rows.dtype != np.float32:
        raise ValueError(f"encode needs a float32 matrix, got {rows.dtype} of shape {rows.shape}")
    n_rows, n_cols = rows.shape
    row_bytes = quant_type.row_bytes(n_cols)
    if quant_type is QuantType.F32:
        return np.ascontiguousarray(rows).view(np.uint8).reshape(n_rows, row_bytes)
    if quant_type is QuantType.F16:
        return rows.astype(np.float16).view(np.uint8).reshape(n_rows, row_bytes)
    if quant_type is QuantType.BF16:
        bits = np.ascontiguousarray(rows).view(np.uint32)
        # Round to nearest even, as ggml does.
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        return rounded.astype(np.uint16).view(np.uint8).reshape(n_rows, row_bytes)
    if importance is None and quant_type.needs_imatrix:
        raise ValueError(f"{quant_type.name} cannot be quantized without an importance matrix")
    source = np.ascontiguousarray(rows)
    weights = None if importance is None else np.ascontiguousarray(importance, dtype=np.float32)
    if weights is not None and weights.shape != (n_cols,):
        raise ValueError(f"importance has shape {weights.shape}, the rows have {n_cols} columns")
    out = np.empty((n_rows, row_bytes), dtype=np.uint8)
    _decoder(quant_type)
    written = _library().ggml_quantize_chunk(
        int(quant_type),
        source.ctypes.data,
        out.ctypes.data,
        0,
        n_rows,
        n_cols,
        None if weights is None else weights.ctypes.data,
    )
    if written != out.nbytes:
        raise RuntimeToolError(f"libggml wrote {written} bytes of {quant_type.name} where {out.nbytes} were due")
    return out


def decode(quant_type: QuantType, data: Bytes, n_cols: int) -> Float32:
    """Dequantize uint8 [n_rows, row_bytes] -> float32 [n_rows, n_cols]."""
    n_rows = data.shape[0]
    if data.shape != (n_rows, quant_type.row_bytes(n_cols)):
        raise ValueError(f"{quant_type.name} rows of {n_cols} weights cannot have shape {data.shape}")
    if quant_type is QuantType.F32:
        return np.ascontiguousarray(data).view(np.float32).reshape(n_rows, n_cols)
    if quant_type is QuantType.F16:
        return np.ascontiguousarray(data).view(np.float16).reshape(n_rows, n_cols).astype(np.float32)
    if quant_type is QuantType.BF16:
        halves = np.ascontiguousarray(data).view(np.uint16).astype(np.uint32)
        return (halves << 16).view(np.float32).reshape(n_rows, n_cols)
    source = np.ascontiguousarray(data)
    out = np.empty((n_rows, n_cols), dtype=np.float32)
    _decoder(quant_type)(source.ctypes.data, out.ctypes.data, out.size)
    return out


def round_trip(quant_type: QuantType, rows: Float32, importance: Float32 | None = None) -> Float32:
    """What `rows` become after quantizing and dequantizing, float32 [n_rows, n_cols]."""
    return decode(quant_type, encode(quant_type, rows, importance), rows.shape[1])
