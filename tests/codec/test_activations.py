"""The activations' formats, held against libggml's own table of the CPU backend."""

from __future__ import annotations

import ctypes
from importlib.util import find_spec
from pathlib import Path

import pytest

from ramp_edge.codec.activations import ACTIVATION_BLOCKS, activation_block
from ramp_edge.codec.types import FLOAT_TYPES, QUANTIZED_TYPES, QuantType

Q8_1, Q8_K = 9, 15  # ggml.h; of activations only
BLOCK_OF = {QuantType.Q8_0: 32, Q8_1: 32, Q8_K: 256, QuantType.F16: 0, QuantType.F32: 0, QuantType.BF16: 0}


class CpuTraits(ctypes.Structure):
    """Mirrors `struct ggml_type_traits_cpu` of ggml-cpu.h."""

    _fields_ = (
        ("from_float", ctypes.c_void_p),
        ("vec_dot", ctypes.c_void_p),
        ("vec_dot_type", ctypes.c_int),
        ("nrows", ctypes.c_int64),
    )


@pytest.fixture(scope="module")
def cpu() -> ctypes.CDLL:
    spec = find_spec("llama_cpp")
    assert spec is not None and spec.origin is not None
    folder = Path(spec.origin).parent / "lib"
    path = next(p for p in (folder / "libggml-cpu.so", folder / "libggml-cpu.dylib") if p.exists())
    library = ctypes.CDLL(str(path))
    library.ggml_get_type_traits_cpu.restype = ctypes.POINTER(CpuTraits)
    return library


@pytest.mark.parametrize("quant_type", QuantType, ids=lambda t: t.name)
def test_the_cpu_backend_rounds_as_its_table_says(cpu: ctypes.CDLL, quant_type: QuantType) -> None:
    traits = cpu.ggml_get_type_traits_cpu(int(quant_type)).contents
    assert activation_block(quant_type, "cpu") == BLOCK_OF[traits.vec_dot_type]


def test_cuda_shares_scales_among_32_and_metal_rounds_nothing() -> None:
    for quant_type in QUANTIZED_TYPES:
        assert activation_block(quant_type, "cuda") == 32
        assert activation_block(quant_type, "metal") == 0
        assert activation_block(quant_type, "cpu") in ACTIVATION_BLOCKS
    assert not any(activation_block(t, backend) for t in FLOAT_TYPES for backend in ("cpu", "cuda", "metal"))
