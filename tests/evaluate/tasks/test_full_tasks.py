"""tools/full_tasks.py: the same prompts and borders as `ramp-edge eval --tasks`, in PyTorch's float32."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ramp_edge.codec.libllama_quantize import quantize_preset
from ramp_edge.evaluate.tasks.definitions import TASKS
from ramp_edge.evaluate.tasks.files import find_task_files
from ramp_edge.evaluate.tasks.parse import load_task
from ramp_edge.evaluate.tasks.score import score_task

TOOLS = Path(__file__).parents[3] / "tools"


def test_log_likelihoods_are_llama_cpps(embedded: Path, task_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(TOOLS))
    import full_tasks

    data = [load_task(t, find_task_files(task_folder, (t,))[t.name], limit=6) for t in TASKS.values()]
    for run in full_tasks.run_model(embedded, data, "cpu"):
        other = score_task(embedded, run.data, model_sha256="0" * 64, n_ctx=512, threads=1)
        for ours, theirs in zip(run.scores, other.scores, strict=True):
            # Measured: at most 0.0048 nats apart, of 4 to 140, and 0.0010; llama.cpp rounds activations to f16.
            assert ours.log_likelihoods == pytest.approx(theirs.log_likelihoods, abs=0.02)
            assert ours.token_means == pytest.approx(theirs.token_means, abs=0.005)


def test_a_quantized_model_is_set_beside_its_reference(
    embedded: Path,
    task_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.syspath_prepend(str(TOOLS))
    import full_tasks

    small, output = tmp_path / "Q2_K.gguf", tmp_path / "tasks.json"
    quantize_preset(embedded, small, "Q2_K")
    tasks = ["--tasks", "piqa,boolq", "--task-data", str(task_folder)]
    assert full_tasks.main([str(small), "--reference", str(embedded), *tasks, "-o", str(output)]) == 0
    assert "average        2 tasks" in capsys.readouterr().out
    (record,) = json.loads(output.read_text())
    assert record["engine"].startswith("PyTorch ")
    assert record["average"]["comparison"]["retention"]["low"] < record["average"]["comparison"]["retention"]["high"]
    assert str(tmp_path) not in output.read_text()
    assert not list(tmp_path.glob("*.part*"))
