"""Synthetic models: whole files that gguf reads and libllama runs, in every type, from two small parts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ramp_edge.codec.ggml import decode
from ramp_edge.codec.types import QUANTIZED_TYPES, QuantType
from ramp_edge.evaluate.llama import LlamaSession
from ramp_edge.model.gguf_file import open_inventory
from ramp_edge.model.synthetic import STRIP_ROWS, Shape, synthetic_model

SMALL = Shape(n_embd=256, n_layer=2, n_vocab=512)


@pytest.mark.parametrize("quant_type", [QuantType.F16, *QUANTIZED_TYPES], ids=lambda t: t.name)
def test_every_type_gives_a_whole_file(tmp_path: Path, quant_type: QuantType) -> None:
    model = synthetic_model(quant_type, SMALL, tmp_path)
    path = tmp_path / "model.gguf"
    model.write(path)
    assert list(tmp_path.iterdir()) == [path], "nothing else is left behind"
    assert path.stat().st_size == model.file_bytes
    inventory, tensors = open_inventory(path, allow_requantize=True)
    matrices = [t for t in inventory.tensors if len(t.shape) > 1]
    assert {t.source_type for t in matrices} == {quant_type}
    assert sum(t.source_bytes for t in matrices) == model.matrix_bytes
    assert inventory.tied_embedding
    last = decode(quant_type, np.asarray(tensors.raw("blk.1.ffn_down.weight")), SMALL.n_embd)
    strip = decode(quant_type, np.frombuffer(model.strip, np.uint8).reshape(STRIP_ROWS, -1), SMALL.n_embd)
    np.testing.assert_array_equal(last, strip, "the last matrix lies where the header says")
    assert 0.5 / 16 < last.std() < 2 / 16, "about 1/sqrt(256)"


def test_libllama_runs_it(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    synthetic_model(QuantType.Q4_K, SMALL, tmp_path).write(path)
    with LlamaSession(path, n_ctx=64, threads=1) as session:
        logits = session.logits(np.arange(8, dtype=np.int32), 0).copy()
    assert np.isfinite(logits).all()
    assert logits.std() > 0


def test_a_width_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="multiples of 256"):
        synthetic_model(QuantType.Q8_0, Shape(n_embd=320, n_layer=1, n_vocab=512), tmp_path)
