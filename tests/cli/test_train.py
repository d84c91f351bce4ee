"""`ramp-edge train` as a user runs it, on synthetic cases."""

from __future__ import annotations

import importlib.util
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("tensorboard")

from ramp_edge.allocate.policy import load_policy

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def cases(tmp_path: Path) -> Path:
    path = Path(__file__).parents[1] / "allocate" / "conftest.py"
    spec = importlib.util.spec_from_file_location("synthetic_cases", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    folder = tmp_path / "cases"
    folder.mkdir()
    for n in (5, 8):
        module._make_case(n, n).save(folder / f"{n}.npz")
    return folder


def test_a_policy_comes_with_its_record_and_a_run_goes_on(ramp_edge_cli: Cli, cases: Path, tmp_path: Path) -> None:
    words = ["train", str(cases), "-o", "p.onnx", "--folder", "run", "--rounds", "2", "--progress", "plain"]
    done = ramp_edge_cli(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "p.onnx: trained on 2 models" in done.stdout
    for who in ("policy", "outline", "teacher"):
        assert f"predicted  {who}" in done.stdout
    assert "measured" not in done.stdout
    record = load_policy(tmp_path / "p.onnx").record
    assert record["settings"]["rounds"] == 2 and "measured" not in record
    again = ramp_edge_cli(*words, "--resume", cwd=tmp_path)
    assert again.returncode == 0 and again.stdout == done.stdout
    other = ramp_edge_cli(*words, "--resume", "--seed", "1", cwd=tmp_path)
    assert other.returncode != 0 and "other settings" in other.stderr and "Traceback" not in other.stderr


def test_what_cannot_be_measured_is_told_before_training(ramp_edge_cli: Cli, cases: Path, tmp_path: Path) -> None:
    (tmp_path / "another.gguf").write_bytes(b"")
    (tmp_path / "text.txt").write_text("words")
    for words, message in (
        (["--models", "absent.gguf"], "absent.gguf: no such file"),
        (["--models", "another.gguf"], "none of 1 GGUF files is called as a case is (case 5, case 8)"),
        (["--calibration", "text.txt"], "--calibration is the text that --models are measured with"),
        (["--leave-out", "llama"], "no other family is left"),
    ):
        done = ramp_edge_cli("train", str(cases), *words, cwd=tmp_path)
        assert done.returncode == 2 and message in " ".join(done.stderr.split()), done.stderr
        assert not (tmp_path / "train").exists()
