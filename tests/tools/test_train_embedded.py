"""The trainer of the embedded model: tokenizer, a run of a few steps, resuming, the export."""

from __future__ import annotations

import importlib.util
import lzma
import math
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

gguf = pytest.importorskip("gguf")
pytest.importorskip("tokenizers")

_SCRIPT = Path(__file__).parents[2] / "tools" / "train_embedded.py"
_SAMPLES = ["Plain words.", "  spaces \n\n\tand tabs\r\n", "café Ελλάδα 日本語 🙂", "it's 1234 _x+y", "\x00\x7f\u200b"]
_VOCAB, _STEP_TOKENS = 300, 512


@pytest.fixture(scope="module")
def tool() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("train_embedded", _SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    path, n_threads = list(sys.path), torch.get_num_threads()
    spec.loader.exec_module(module)
    yield module
    sys.path[:] = path
    torch.set_num_threads(n_threads)


def _text(n_words: int, seed: int) -> str:
    """Words that follow each other by rule more often than not, so that there is something to learn."""
    sentence = "the board reads a page of numbers and writes the next one while rain falls on stones"
    words = sentence.split()
    rng = np.random.default_rng(seed)
    at, out = 0, []
    for jump in rng.random(n_words) < 0.1:
        at = int(rng.integers(len(words))) if jump else (at + 1) % len(words)
        out.append(words[at] + ("\n" if len(out) % 12 == 11 else ""))
    return " ".join(out)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five documents, xz-packed and separated by NUL lines."""
    path = tmp_path_factory.mktemp("text") / "books.txt.xz"
    documents = [_text(400 if seed == 4 else 4000, seed) for seed in range(5)]
    path.write_bytes(lzma.compress("\n\0\n".join(documents).encode()))
    return path


def _arguments(tool: ModuleType, text: Path, folder: Path, steps: int, *more: str) -> Namespace:
    paths = f"--text {text} --work-dir {folder} -o {folder / 'model.gguf'}"
    budget = f"--tokens {steps * _STEP_TOKENS} --batch-tokens {_STEP_TOKENS} --threads 1 --save-seconds 0"
    shape = f"--vocab-size {_VOCAB} --layers 1 --context 64"
    args: Namespace = tool.parse([*f"{paths} {budget} {shape}".split(), *more])
    return args


def _tensors(path: Path) -> dict[str, Any]:
    return {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}


@pytest.fixture(scope="module")
def run(tool: ModuleType, text: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """(work directory, figures) of an unbroken run of 40 steps."""
    folder = tmp_path_factory.mktemp("run")
    return folder, tool.train(_arguments(tool, text, folder, 40))


def test_tokenizer_round_trips_any_text(tool: ModuleType, run: tuple[Path, dict[str, Any]]) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(run[0] / "tokenizer.json"))
    assert tokenizer.get_vocab_size() == _VOCAB
    assert tokenizer.token_to_id("<|endoftext|>") == 0
    for sample in _SAMPLES:
        assert tokenizer.decode(tokenizer.encode(sample).ids) == sample


def test_held_out_documents_are_whole_and_unseen(
    tool: ModuleType, text: Path, run: tuple[Path, dict[str, Any]]
) -> None:
    from embedded.corpus import read_books, split_books
    from tokenizers import Tokenizer

    books = read_books(text)
    train, held_out = split_books(books, seed=0)
    assert len(books) == 5 and sorted(train + held_out) == sorted(books)
    assert held_out == [books[4]]  # the only document that is shorter than the giants
    tokenizer = Tokenizer.from_file(str(run[0] / "tokenizer.json"))
    assert tokenizer.decode(np.load(run[0] / "held_out.npy").tolist()) == held_out[0]
    assert tokenizer.decode(np.load(run[0] / "train.npy").tolist()) == "".join(train)


def test_a_lone_document_gives_its_tail(tool: ModuleType) -> None:
    from embedded.corpus import split_books

    (train,), (held_out,) = split_books(["a" * 980 + "b" * 20], seed=0)
    assert (train, held_out) == ("a" * 980, "b" * 20)


def test_loss_falls_below_unigram(run: tuple[Path, dict[str, Any]]) -> None:
    figures = run[1]
    assert figures["steps"] == 40 and figures["tokens_seen"] == 40 * _STEP_TOKENS
    first = figures["curve"][0][1]
    assert first == pytest.approx(_VOCAB, rel=0.5)  # an untrained model knows little more than the vocabulary's size
    # Measured 5.8 with a unigram of 17.2.
    assert figures["held_out_perplexity"] < 0.7 * figures["unigram_perplexity"] < first
    bits = math.log2(figures["held_out_perplexity"]) * figures["held_out_tokens"]
    assert figures["bits_per_byte"] == pytest.approx(bits / _held_out_bytes(run[0]))


def test_a_short_text_gives_a_small_vocabulary(tool: ModuleType, text: Path, tmp_path: Path) -> None:
    tool.train(_arguments(tool, text, tmp_path, 1, "--vocab-size", "400"))
    reader = gguf.GGUFReader(tmp_path / "model.gguf")
    n_tokens = len(reader.fields["tokenizer.ggml.tokens"].contents())
    assert 257 < n_tokens < 400  # the text's few words run out of merges
    assert n_tokens == int(_tensors(tmp_path / "model.gguf")["token_embd.weight"].shape[1])
    assert n_tokens == reader.fields["llama.vocab_size"].contents()


def _held_out_bytes(folder: Path) -> int:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return len(tokenizer.decode(np.load(folder / "held_out.npy").tolist()).encode())


def test_export_reads_back(run: tuple[Path, dict[str, Any]]) -> None:
    reader = gguf.GGUFReader(run[0] / "model.gguf")
    shapes = {tensor.name: tuple(int(n) for n in tensor.shape) for tensor in reader.tensors}
    block = {"attn_norm": (256,), "attn_q": (256, 256), "attn_k": (256, 128), "attn_v": (256, 128)}
    block |= {"attn_output": (256, 256), "ffn_norm": (256,)}
    block |= {"ffn_gate": (256, 768), "ffn_up": (256, 768), "ffn_down": (768, 256)}
    expected = {f"blk.0.{name}.weight": shape for name, shape in block.items()}
    assert shapes == expected | {"token_embd.weight": (256, _VOCAB), "output_norm.weight": (256,)}
    kinds = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert all(kind == ("F32" if "norm" in name else "F16") for name, kind in kinds.items())

    fields = {name: field.contents() for name, field in reader.fields.items()}
    assert fields["general.architecture"] == "llama" and fields["general.license"] == "apache-2.0"
    assert fields["llama.context_length"] == 64 and fields["llama.block_count"] == 1
    assert fields["tokenizer.ggml.model"] == "gpt2" and fields["tokenizer.ggml.pre"] == "gpt-2"
    assert len(fields["tokenizer.ggml.tokens"]) == _VOCAB
    assert len(fields["tokenizer.ggml.merges"]) == _VOCAB - 257
    assert fields["tokenizer.ggml.bos_token_id"] == fields["tokenizer.ggml.eos_token_id"] == 0


def test_an_interrupted_run_ends_as_an_unbroken_one(
    tool: ModuleType, text: Path, run: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = sys.modules["embedded.training"].Trainer
    step = trainer._step

    def step_until_cut(self: Any, done: float) -> float:
        if self.progress.step == 17:
            raise KeyboardInterrupt
        return float(step(self, done))

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "_step", step_until_cut)
        with pytest.raises(KeyboardInterrupt):
            tool.train(_arguments(tool, text, tmp_path, 40))
    assert (tmp_path / "early.gguf").exists() and not (tmp_path / "model.gguf").exists()
    figures = tool.train(_arguments(tool, text, tmp_path, 40, "--resume"))
    assert figures["curve"] == run[1]["curve"]
    unbroken, resumed = _tensors(run[0] / "model.gguf"), _tensors(tmp_path / "model.gguf")
    for name, tensor in unbroken.items():
        np.testing.assert_array_equal(resumed[name].data, tensor.data, err_msg=name)


def test_a_work_directory_of_another_text_is_refused(
    tool: ModuleType, text: Path, run: tuple[Path, dict[str, Any]]
) -> None:
    with pytest.raises(ValueError, match="another text, vocabulary or seed"):
        tool.train(_arguments(tool, text, run[0], 1, "--seed", "1"))


def test_a_budget_is_required(tool: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        tool.parse(["--text", "a.txt", "--work-dir", "w", "-o", "m.gguf"])
    assert "--minutes or --tokens" in capsys.readouterr().err
