"""Every family from its Hugging Face directory to a verified GGUF, calibration included."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ramp_edge.build import build
from ramp_edge.events import EventBus
from ramp_edge.model.gguf_file import open_inventory
from ramp_edge.pipeline.request import BuildRequest, Effort

pytestmark = [pytest.mark.hf, pytest.mark.slow]

KL_BOUND = 0.02  # measured 0.0032 (qwen2) to 0.0067 (llama) at 5.5 bits per weight


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3", "gemma3"])
def test_build_from_a_hugging_face_directory(
    family: str, tiny_hf_model: Callable[[str], Path], converter_source: Path, tmp_path: Path, cached: Path
) -> None:
    request = BuildRequest(
        model=str(tiny_hf_model(family)),
        device="raspberry-pi-5",
        output=tmp_path / "out",
        effort=Effort.BALANCED,
        target_bpw=5.5,
        threads=2,
    )
    record = build(request, EventBus())
    emitted, tensors = open_inventory(tmp_path / "out" / "model.gguf", allow_requantize=True)
    assert emitted.architecture == {"mistral": "llama"}.get(family, family)
    assert emitted.tied_embedding == (family in ("qwen2", "qwen3", "gemma3"))
    # Both the embedding and, where there is one, the output matrix are allocated.
    allocated = {t.name for t in record.tensors if t.kept_reason is None}
    assert "token_embd.weight" in allocated
    assert ("output.weight" in allocated) == (family in ("llama", "mistral"))
    assert all(tensors.quant_type(t.name).name == t.type for t in record.tensors)
    assert record.bits_per_weight <= 5.5
    assert record.evaluation is not None and record.evaluation.divergence is not None
    assert record.evaluation.divergence.mean_kl < KL_BOUND
