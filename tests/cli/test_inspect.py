"""`ramp-edge inspect`: complete, exact, and for quantized files as well."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from ramp_edge.cli.inspect import inspect_file
from ramp_edge.errors import ModelFileError, UsageError
from ramp_edge.model.gguf_file import GgufTensors

app = typer.Typer()
app.command()(inspect_file)


def run(*args: str | Path) -> str:
    result = CliRunner().invoke(app, [str(a) for a in args], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_json_holds_every_tensor_and_adds_up(tiny_gguf: Path) -> None:
    record = json.loads(run(tiny_gguf, "--json"))
    tensors = GgufTensors(tiny_gguf)
    assert [t["name"] for t in record["tensors"]] == [t.name for t in tensors.header.tensors]
    assert record["file_bytes"] == tiny_gguf.stat().st_size
    for totals in (record["by_type"], record["by_role"]):
        assert sum(t["size_bytes"] for t in totals.values()) == record["tensor_bytes"]
        assert sum(t["weights"] for t in totals.values()) == record["weights"]
        assert sum(t["tensors"] for t in totals.values()) == len(record["tensors"])
    assert record["by_type"]["F16"]["bits_per_weight"] == 16.0
    assert record["by_role"]["ffn_down"]["tensors"] == 2
    assert record["metadata"]["tokenizer.ggml.tokens"] == {"items": 385}
    assert record["metadata"]["llama.block_count"] == 2
    assert record["tensors"][0]["kept_reason"] is None


def test_the_table_keeps_names_whole(tiny_gguf: Path) -> None:
    table = run(tiny_gguf)
    for entry in GgufTensors(tiny_gguf).header.tensors:
        assert entry.name in table
    for word in ("general.architecture", "(385 items)", "attn_output", "256 x 385", "bits a weight"):
        assert word in table


def test_a_build_folder_means_its_model(tiny_gguf: Path, tmp_path: Path) -> None:
    (tmp_path / "model.gguf").symlink_to(tiny_gguf)
    assert json.loads(run(tmp_path, "--json"))["path"] == str(tmp_path / "model.gguf")
    (tmp_path / "empty").mkdir()
    result = CliRunner().invoke(app, [str(tmp_path / "empty")])
    assert isinstance(result.exception, UsageError) and "ramp-edge build" in result.exception.hint


def test_quantized_files_need_no_permission(make_tiny_gguf: Callable[..., Path], tmp_path: Path) -> None:
    record = json.loads(run(make_tiny_gguf(tmp_path / "q.gguf", dtype="q4_0"), "--json"))
    assert record["by_type"]["Q4_0"]["bits_per_weight"] == 4.5
    assert set(record["by_type"]) == {"Q4_0", "F32"}


def test_types_that_ramp_edge_does_not_compile_are_shown(tiny_gguf: Path, tmp_path: Path) -> None:
    data = bytearray(tiny_gguf.read_bytes())
    data[data.index(b"token_embd.weight") + len(b"token_embd.weight") + 4 + 16] = 25
    path = tmp_path / "i16.gguf"
    path.write_bytes(data)
    assert json.loads(run(path, "--json"))["by_type"]["I16"]["tensors"] == 1


@pytest.mark.parametrize("sort", ["name", "size", "type"])
def test_sorting(tiny_gguf: Path, sort: str) -> None:
    rows = json.loads(run(tiny_gguf, "--json", "--sort", sort))["tensors"]
    keys = {
        "name": [r["name"] for r in rows],
        "size": [-r["size_bytes"] for r in rows],
        "type": [{"F32": 0, "F16": 1}[r["type"]] for r in rows],
    }[sort]
    assert keys == sorted(keys)


def test_names_from_the_file_are_no_markup(tiny_gguf: Path, tmp_path: Path) -> None:
    data = tiny_gguf.read_bytes().replace(b"token_embd.weight", b"[red]embd[/bold]x")
    path = tmp_path / "markup.gguf"
    path.write_bytes(data)
    assert "[red]embd[/bold]x" in run(path)


def test_mistakes_are_our_errors(tmp_path: Path) -> None:
    (tmp_path / "text.gguf").write_text("not a model, but long enough to hold a header")
    for name, words in (("text.gguf", "not a GGUF file"), ("absent.gguf", "No such file")):
        result = CliRunner().invoke(app, [str(tmp_path / name)])
        assert isinstance(result.exception, ModelFileError) and words in result.exception.message


def test_the_module_imports_nothing_heavy() -> None:
    code = (
        "import sys, ramp_edge.cli.inspect, ramp_edge.cli.runtime; "
        "heavy = {'torch', 'llama_cpp', 'transformers', 'numpy', 'gguf', 'pydantic'} & set(sys.modules); "
        "sys.exit(repr(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
