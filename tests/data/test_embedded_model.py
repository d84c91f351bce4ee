"""The embedded default model as it ships: size, widths, tokenizer, and what llama.cpp computes from it."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

_MODEL = Path(str(files("ramp_edge"))) / "data" / "ramp-edge-default-f16.gguf"
_CARD = _MODEL.with_name("MODEL_CARD.md")
_TOOLS = Path(__file__).parents[2] / "tools"
_PROSE = "The rain had stopped before morning, and the two of them walked down to the harbour without a word. "
_SAMPLES = [
    "Hello, world!",
    "  two spaces\n\nnew   para ",
    "It's we'll I'D don't 'tis",
    "café naïve Ελλάδα 日本語 🙂👩‍👩‍👧 नमस्ते",
    "x=1234567; y_2+3.14e-5",
    "\ttab\r\nCRLF\u00a0nbsp\u3000wide\u200bzero",
    "—“quoted”… ‘a’ ½ Ⅷ a\u0301",
    "   ",
]


@pytest.fixture(scope="module")
def reader() -> gguf.GGUFReader:
    return gguf.GGUFReader(_MODEL)


@pytest.fixture(scope="module")
def llama() -> Iterator[Any]:
    import llama_cpp

    model = llama_cpp.Llama(str(_MODEL), n_ctx=512, n_batch=512, logits_all=True, verbose=False, n_threads=1)
    yield model
    model.close()


def _field(reader: gguf.GGUFReader, name: str) -> Any:
    return reader.fields[name].contents()


def _rebuilt_network(reader: gguf.GGUFReader) -> Any:
    """The trainer's own network with the file's weights."""
    sys.path.insert(0, str(_TOOLS))
    try:
        from embedded.network import Network, Shape
    finally:
        sys.path.remove(str(_TOOLS))
    network = Network(Shape())
    network.load_state_dict({t.name: torch.from_numpy(np.array(t.data)).float() for t in reader.tensors})
    return network


def _rebuilt_tokenizer(reader: gguf.GGUFReader) -> Any:
    """The trainer's tokenizer from the file's tokens and merges."""
    tokenizers = pytest.importorskip("tokenizers")
    tokens = {token: i for i, token in enumerate(_field(reader, "tokenizer.ggml.tokens"))}
    merges = [tuple(merge.split(" ")) for merge in _field(reader, "tokenizer.ggml.merges")]
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(tokens, merges))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    return tokenizer


def test_it_is_small_enough_to_ship() -> None:
    assert _MODEL.stat().st_size <= 16_000_000


def test_every_type_is_legal_for_every_matrix(reader: gguf.GGUFReader) -> None:
    matrices = {tensor.name: tensor for tensor in reader.tensors if len(tensor.shape) == 2}
    assert len(matrices) == 43  # the embedding and seven per block
    assert all(int(tensor.shape[0]) % 256 == 0 for tensor in matrices.values())
    assert {tensor.tensor_type.name for tensor in matrices.values()} == {"F16"}
    narrow = {name for name, tensor in matrices.items() if int(tensor.shape[1]) % 256}
    assert narrow == {f"blk.{i}.attn_{kind}.weight" for i in range(6) for kind in "kv"}  # 2 heads of 64


def test_weights_are_finite_and_trained(reader: gguf.GGUFReader) -> None:
    for tensor in reader.tensors:
        values = np.asarray(tensor.data, dtype=np.float32)
        assert np.isfinite(values).all() and values.std() > 0, tensor.name


def test_metadata(reader: gguf.GGUFReader) -> None:
    assert _field(reader, "general.architecture") == "llama"
    assert _field(reader, "general.name") == "ramp-edge-books-6m"
    assert _field(reader, "llama.context_length") == 512
    assert "output.weight" not in {tensor.name for tensor in reader.tensors}


@pytest.mark.parametrize("text", _SAMPLES)
def test_llama_cpp_tokenizes_as_the_trainer_did(text: str, llama: Any, reader: gguf.GGUFReader) -> None:
    ids = llama.tokenize(text.encode(), add_bos=False, special=False)
    assert ids == _rebuilt_tokenizer(reader).encode(text).ids
    assert llama.detokenize(ids).decode() == text


def test_llama_cpp_computes_the_trained_network(llama: Any, reader: gguf.GGUFReader) -> None:
    ids = llama.tokenize((_PROSE * 20).encode(), add_bos=False)[:500]
    llama.reset()
    llama.eval(ids)
    theirs = torch.from_numpy(np.array(llama.scores[: len(ids)]))
    with torch.no_grad():
        ours = _rebuilt_network(reader).logits(torch.tensor([ids]))[0]
    log_p, log_q = ours.log_softmax(-1), theirs.log_softmax(-1)
    assert float((log_p.exp() * (log_p - log_q)).sum(-1).mean()) < 1e-5  # measured 1.4e-7 nats
    assert float((ours - theirs).abs().max()) < 0.1  # measured 0.0066


def test_it_has_learned_english(reader: gguf.GGUFReader, llama: Any) -> None:
    ids = torch.tensor([llama.tokenize(_PROSE.encode(), add_bos=False)])
    network = _rebuilt_network(reader)
    with torch.no_grad():
        in_order = math.exp(float(network.loss(ids)))
        reversed_order = math.exp(float(network.loss(ids.flip(1))))
    assert in_order < 100  # measured 29.5; an untrained model is near 4096
    assert reversed_order > 10 * in_order  # measured 9847


def test_llama_cpp_continues_a_text(llama: Any) -> None:
    answer = llama(_PROSE, max_tokens=24, temperature=0.0)["choices"][0]["text"]
    assert len(re.findall(r"[a-z]+", answer)) >= 10
    assert answer.isprintable() or "\n" in answer


@pytest.mark.shared_data
@pytest.mark.slow
def test_the_card_tells_the_held_out_perplexity(reader: gguf.GGUFReader, shared_data: Path) -> None:
    """Scores the held-out books again; the card's figure is in its table."""
    network, tokenizer = _rebuilt_network(reader), _rebuilt_tokenizer(reader)
    sys.path.insert(0, str(_TOOLS))
    try:
        from embedded.corpus import read_books, split_books
        from embedded.training import held_out_loss
    finally:
        sys.path.remove(str(_TOOLS))
    _, held_out = split_books(read_books(shared_data / "books.txt.xz"), seed=0)
    stream = np.concatenate([np.array([0, *tokenizer.encode(book).ids], dtype=np.uint16) for book in held_out])
    told = re.search(r"\| perplexity per token \| \**([\d.]+)\** \|", _CARD.read_text(encoding="utf-8"))
    assert told is not None
    # A third of the windows: 47.80, the whole 48.14.
    assert math.exp(held_out_loss(network, stream, 512, len(stream) // 3)) == pytest.approx(float(told[1]), rel=0.05)
