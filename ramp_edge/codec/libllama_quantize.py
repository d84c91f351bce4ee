"""llama.cpp's own quantizer, in process: what `llama-quantize` does with a stock preset.

The structures follow llama-cpp-python 0.3.36, which carries the matching C structs. The type chosen for each
tensor is read from the log of a dry run: the quantizer writes one line a tensor, with the name and both types.
"""

from __future__ import annotations

import ctypes
import os
import re
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ramp_edge.codec.libllama import captured_log, last_log_lines, libllama
from ramp_edge.codec.types import QuantType, parse_type
from ramp_edge.errors import OutputError, RuntimeToolError

STOCK_PRESETS: tuple[str, ...] = (
    "Q2_K",
    "IQ3_XXS",
    "IQ3_S",
    "IQ3_M",
    "Q3_K_S",
    "Q3_K_M",
    "Q3_K_L",
    "IQ4_XS",
    "IQ4_NL",
    "Q4_0",
    "Q4_K_S",
    "Q4_K_M",
    "Q5_K_S",
    "Q5_K_M",
    "Q6_K",
    "Q8_0",
)
"""The presets that builds are compared with, smallest first for a typical model."""

_TENSOR_LINE = re.compile(
    r"^\[\s*\d+/\s*\d+\]\s+(?P<name>\S+)\s+- \[(?P<shape>[\s\d,]+)\], type =\s*(?P<source>\S+), "
    r"size =\s*[\d.]+ MiB(?: ->\s*[\d.]+ MiB \((?P<target>\S+)\))?"
)
_EMBEDDING_NAMES = ("token_embd.weight", "output.weight")
_quantize_lock = threading.Lock()
"""One call at a time: the log is the process's, not the call's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedTensor:
    """What a preset does with one tensor."""

    name: str
    shape: tuple[int, ...]
    """ggml order; trailing ones as libllama prints them."""
    source_type: QuantType
    target_type: QuantType

    @property
    def target_bytes(self) -> int:
        """Bytes of the tensor's data in the preset's file."""
        rows = 1
        for size in self.shape[1:]:
            rows *= size
        return self.target_type.row_bytes(self.shape[0]) * rows


def plan_preset(
    source: Path,
    preset: str,
    *,
    with_imatrix: bool = True,
    token_embedding_type: QuantType | None = None,
    allow_requantize: bool = False,
) -> tuple[PlannedTensor, ...]:
    """The types that `llama-quantize` would give each tensor of `source`, in file order, nothing written.

    `with_imatrix` matters: some presets choose other types without one.
    Raises RuntimeToolError where libllama refuses or its log does not name every tensor.
    """
    imatrix = {"ramp-edge.dry-run": np.ones(1, dtype=np.float32)} if with_imatrix else None
    with captured_log() as lines:
        _call(
            source,
            Path(os.devnull),
            preset,
            imatrix=imatrix,
            token_embedding_type=token_embedding_type,
            allow_requantize=allow_requantize,
            dry_run=True,
        )
    planned = tuple(p for p in map(_parse_line, lines) if p is not None)
    announced = sum(1 for line in lines if re.match(r"^\[\s*\d+/\s*\d+\]", line))
    if not planned or announced != len(planned):
        raise RuntimeToolError(f"libllama's dry run of {preset} named {len(planned)} of {announced} tensors readably")
    return planned


def quantize_preset(
    source: Path,
    destination: Path,
    preset: str,
    *,
    imatrix: Mapping[str, npt.NDArray[np.float32]] | None = None,
    token_embedding_type: QuantType | None = None,
    allow_requantize: bool = False,
    threads: int = 0,
) -> None:
    """Write `source` quantized as the stock preset to `destination`, beside and renamed.

    `imatrix`: tensor name -> mean squared inputs, float32 [n_cols]. Entries of the embedding and the output are left
    out, as llama.cpp never weights those. Raises RuntimeToolError where libllama refuses, OutputError on a full disk.
    """
    weights = None
    if imatrix is not None:
        weights = {name: values for name, values in imatrix.items() if name not in _EMBEDDING_NAMES}
    destination.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=destination.parent, prefix=destination.name, suffix=".part")
    os.close(handle)
    temporary = Path(name)
    try:
        _call(
            source,
            temporary,
            preset,
            imatrix=weights,
            token_embedding_type=token_embedding_type,
            allow_requantize=allow_requantize,
            dry_run=False,
            threads=threads,
        )
        temporary.chmod(0o644)
        temporary.replace(destination)
    except OSError as error:
        raise OutputError(f"{destination} cannot be written: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _call(
    source: Path,
    destination: Path,
    preset: str,
    *,
    imatrix: Mapping[str, npt.NDArray[np.float32]] | None,
    token_embedding_type: QuantType | None,
    allow_requantize: bool,
    dry_run: bool,
    threads: int = 0,
) -> None:
    lib = libllama()
    file_type = getattr(lib, f"LLAMA_FTYPE_MOSTLY_{preset.upper()}", None)
    if file_type is None:
        raise RuntimeToolError(f"libllama knows no preset {preset!r}", hint=f"one of {', '.join(STOCK_PRESETS)}")
    params = lib.llama_model_quantize_default_params()
    params.ftype = file_type
    params.nthread = threads
    params.allow_requantize = allow_requantize
    params.dry_run = dry_run
    if token_embedding_type is not None:
        params.token_embedding_type = int(token_embedding_type)
    # Both must outlive the call: the structure holds bare pointers into them.
    entries, arrays = _imatrix_entries(lib, imatrix)
    if entries is not None:
        params.imatrix = ctypes.cast(entries, ctypes.POINTER(lib.llama_model_imatrix_data))
    with _quantize_lock:
        status = lib.llama_model_quantize(os.fsencode(source), os.fsencode(destination), ctypes.byref(params))
    del entries, arrays
    if status != 0:
        raise RuntimeToolError(f"libllama could not quantize {source.name} as {preset}: {last_log_lines()}")


def _imatrix_entries(
    lib: Any, imatrix: Mapping[str, npt.NDArray[np.float32]] | None
) -> tuple[Any, list[npt.NDArray[np.float32]]]:
    if imatrix is None:
        return None, []
    arrays = [np.ascontiguousarray(values, dtype=np.float32).reshape(-1) for values in imatrix.values()]
    # The zeroed last entry ends the list.
    entries = (lib.llama_model_imatrix_data * (len(arrays) + 1))()
    for entry, name, values in zip(entries, imatrix, arrays, strict=False):
        entry.name = name.encode()
        entry.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        entry.size = values.size
    return entries, arrays


def _parse_line(line: str) -> PlannedTensor | None:
    match = _TENSOR_LINE.match(line)
    if match is None:
        return None
    try:
        source = parse_type(match["source"])
        target = source if match["target"] is None else parse_type(match["target"])
    except KeyError:
        return None
    shape = tuple(int(size) for size in match["shape"].split(","))
    return PlannedTensor(name=match["name"], shape=shape, source_type=source, target_type=target)
