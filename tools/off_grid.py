#!/usr/bin/env python3
"""Move the weights of an already quantized GGUF off their grid and store them as F16.

Public small models often exist only as quantized files. Quantizing such a file again flatters the types it was
stored in, since its values already lie on their grid. Here every block of 32 weights gets uniform noise as wide as
one step of its own grid, so that no type has an advantage; the model that comes out is the f16 reference of the
measurements, and every figure made from it says "moved off its grid".

    python tools/off_grid.py SmolLM2-135M.Q4_1.gguf -o smollm2-moved-f16.gguf

The same seed gives the same file.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter

Float32 = npt.NDArray[np.float32]
BLOCK = 32
SMALLEST_GAP = 1e-3
"""Gaps under this share of a block's range are rounding, not grid steps."""
FILE_TYPE_F16 = 1
_OWN_KEYS = ("general.architecture", "general.file_type", "general.quantization_version")


def grid_step(blocks: Float32) -> Float32:
    """Smallest real gap between a block's values: float32 [n_blocks, BLOCK] -> [n_blocks]; 0 for a constant block."""
    ordered = np.sort(blocks, axis=1)
    gaps = np.diff(ordered, axis=1)
    spread = ordered[:, -1] - ordered[:, 0]
    real = np.where(gaps > SMALLEST_GAP * np.maximum(spread, 1e-12)[:, None], gaps, np.inf)
    step = real.min(axis=1)
    return np.where(np.isfinite(step), step, 0).astype(np.float32)


def move(values: Float32, rng: np.random.Generator) -> Float32:
    """Add uniform noise of one grid step to every block; the shape is kept."""
    blocks = values.reshape(-1, BLOCK)
    noise = rng.random(blocks.shape, dtype=np.float32) - 0.5
    return (blocks + noise * grid_step(blocks)[:, None]).reshape(values.shape)


def move_file(source: Path, destination: Path, *, seed: int) -> None:
    """Write `destination` with all metadata of `source`, norms and vectors as they were and matrices moved, as F16."""
    reader = GGUFReader(source)
    rng = np.random.default_rng(seed)
    temporary = destination.with_name(destination.name + ".part")
    writer = GGUFWriter(temporary, reader.fields["general.architecture"].contents())
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key in _OWN_KEYS:
            continue
        sub_type = field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None
        writer.add_key_value(key, field.contents(), field.types[0], sub_type=sub_type)
    writer.add_file_type(FILE_TYPE_F16)
    for tensor in reader.tensors:
        values = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        if tensor.tensor_type == GGMLQuantizationType.F32 or len(tensor.shape) == 1:
            writer.add_tensor(tensor.name, values)
        else:
            writer.add_tensor(tensor.name, move(values, rng).astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    temporary.replace(destination)


def main(argv: list[str] | None = None) -> int:
    """Command line entry."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="a quantized GGUF")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the F16 GGUF to write")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    if not options.source.is_file():
        parser.error(f"{options.source} is not a file")
    move_file(options.source, options.output, seed=options.seed)
    print(f"{options.output}: {options.output.stat().st_size:,} bytes", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
