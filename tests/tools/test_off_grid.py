"""Moving weights off their grid: metadata and norms stay, matrices move by at most half a step, one seed is one file."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import gguf
import numpy as np
import pytest

_SCRIPT = Path(__file__).parents[2] / "tools" / "off_grid.py"


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("off_grid", _SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def quantized(make_tiny_gguf: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = make_tiny_gguf(tmp_path_factory.mktemp("grid") / "tiny-q4_0.gguf", dtype="q4_0")
    return path


def pairs(before: Path, after: Path) -> Iterator[tuple[gguf.ReaderTensor, np.ndarray, gguf.ReaderTensor, np.ndarray]]:
    old, new = gguf.GGUFReader(before), gguf.GGUFReader(after)
    for a, b in zip(old.tensors, new.tensors, strict=True):
        assert (a.name, a.shape.tolist()) == (b.name, b.shape.tolist())
        yield a, gguf.dequantize(a.data, a.tensor_type), b, gguf.dequantize(b.data, b.tensor_type)


def test_matrices_move_within_half_a_step(tool: ModuleType, quantized: Path, tmp_path: Path) -> None:
    path = tmp_path / "moved.gguf"
    tool.move_file(quantized, path, seed=0)
    matrices = 0
    for a, old, b, new in pairs(quantized, path):
        if a.tensor_type == gguf.GGMLQuantizationType.F32:
            assert b.tensor_type == gguf.GGMLQuantizationType.F32
            np.testing.assert_array_equal(new, old)
            continue
        matrices += 1
        assert b.tensor_type == gguf.GGMLQuantizationType.F16
        step = tool.grid_step(old.astype(np.float32).reshape(-1, 32))
        moved = np.abs(new.astype(np.float64) - old).reshape(-1, 32) / step[:, None]
        # F16 rounds by 2^-11 of a value, and a value is at most 8 steps of Q4_0.
        assert moved.max() < 0.5 + 8 * 2**-11 + 1e-3
        assert moved.mean() == pytest.approx(0.25, abs=0.01)  # uniform over one step
    assert matrices == 15


def test_the_old_type_has_no_advantage_left(tool: ModuleType, quantized: Path, tmp_path: Path) -> None:
    from ramp_edge.codec.ggml import round_trip
    from ramp_edge.codec.types import QuantType

    path = tmp_path / "moved.gguf"
    tool.move_file(quantized, path, seed=0)
    _, old, _, new = next(p for p in pairs(quantized, path) if p[0].name == "blk.0.ffn_up.weight")
    errors = []
    for values in (old, new):
        rows = np.ascontiguousarray(values, dtype=np.float32)
        errors.append(float(np.square(rows - round_trip(QuantType.Q4_0, rows)).mean() / np.square(rows).mean()))
    # On its grid a tensor survives its own type nearly unharmed; moved, it pays what any other tensor pays.
    assert errors[0] < 1e-5  # measured ON_GRID
    assert errors[1] > 3e-3  # measured OFF_GRID


def test_metadata_is_kept(tool: ModuleType, quantized: Path, tmp_path: Path) -> None:
    path = tmp_path / "moved.gguf"
    tool.move_file(quantized, path, seed=0)
    old, new = gguf.GGUFReader(quantized).fields, gguf.GGUFReader(path).fields
    for name, field in old.items():
        if not name.startswith("GGUF.") and name != "general.file_type":
            assert new[name].types == field.types
            assert new[name].contents() == field.contents()
    assert new["general.file_type"].contents() == gguf.LlamaFileType.MOSTLY_F16


def test_one_seed_is_one_file(tool: ModuleType, quantized: Path, tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a.gguf", "b.gguf", "c.gguf")]
    for path, seed in zip(paths, (5, 5, 6), strict=True):
        assert tool.main([str(quantized), "-o", str(path), "--seed", str(seed)]) == 0
    first, again, other = (path.read_bytes() for path in paths)
    assert first == again
    assert first != other
    assert len(list(tmp_path.iterdir())) == 3


def test_a_constant_block_stays(tool: ModuleType) -> None:
    values = np.full((2, 64), 0.5, dtype=np.float32)
    values[1, 32:] = np.arange(32)
    assert tool.grid_step(values.reshape(-1, 32)).tolist() == [0, 0, 0, 1]
    moved = tool.move(values, np.random.default_rng(0))
    np.testing.assert_array_equal(moved[0], values[0])
    assert 0 < np.abs(moved[1, 32:] - values[1, 32:]).max() <= 0.5


def test_a_missing_file_is_named(tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        tool.main([str(tmp_path / "none.gguf"), "-o", str(tmp_path / "out.gguf")])
    assert "none.gguf is not a file" in capsys.readouterr().err
