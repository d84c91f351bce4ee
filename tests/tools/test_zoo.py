"""The zoo's families: what is trained is what llama.cpp runs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("tokenizers")

TOOLS = Path(__file__).parents[2] / "tools"


@pytest.fixture(autouse=True)
def tools_path(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(TOOLS))
    yield
    for name in [n for n in sys.modules if n.split(".")[0] in ("embedded", "zoo")]:
        del sys.modules[name]


@pytest.mark.parametrize(("family", "tied"), [("llama", False), ("qwen3", True), ("gemma3", True)])
def test_network_and_libllama_agree(family: str, tied: bool, tmp_path: Path) -> None:
    from embedded.corpus import train_tokenizer
    from embedded.export import export
    from embedded.network import Network, Shape

    from ramp_edge.evaluate.llama import LlamaSession

    tokenizer = train_tokenizer(["the board reads a page of numbers and writes the next one while rain falls"], 300)
    torch.manual_seed(0)
    # Seven layers: Gemma's sixth has another RoPE base.
    shape = Shape(
        vocab_size=tokenizer.get_vocab_size(), n_embd=96, n_layer=7, n_head=4, n_head_kv=2, key_length=32, n_ff=128,
        context_length=64, rope_base=1e6, family=family, tied=tied,
    )  # fmt: skip
    network = Network(shape)
    for parameter in network.parameters():
        if parameter.ndim == 1:
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    path = tmp_path / "model.gguf"
    export(network, tokenizer, path, name="test", description="a test")
    tokens = np.random.default_rng(0).integers(0, shape.vocab_size, 48).astype(np.int32)
    with torch.no_grad():
        own = network.logits(torch.from_numpy(tokens[None].astype(np.int64)))[0].numpy()
    with LlamaSession(path, n_ctx=64, threads=1) as session:
        theirs = session.logits(tokens, 0).copy()
    # Weights travel as float16: measured 0.002 at a spread of 0.25.
    assert np.abs(own - theirs).max() < 0.02 * own.std() + 0.004
    assert own.std() > 0.05


def test_the_zoo_is_as_varied_as_it_says() -> None:
    from zoo.shapes import ZOO

    assert len(ZOO) >= 8 and {s.family for s in ZOO.values()} == {"llama", "qwen3", "gemma3"}
    assert {s.tied for s in ZOO.values()} == {True, False}
    assert {s.n_embd % 256 == 0 for s in ZOO.values()} == {True, False}
    assert min(s.n_layer for s in ZOO.values()) == 4 and max(s.n_layer for s in ZOO.values()) == 30
    for name, shape in ZOO.items():
        assert name.startswith(f"{shape.family}-{shape.n_embd}x{shape.n_layer}")
        assert name.endswith("untied") != shape.tied
        assert shape.n_head % shape.n_head_kv == 0 and shape.n_embd % 32 == shape.n_ff % 32 == 0
