"""Tiny models for every test: a GGUF that libllama runs, and Hugging Face directories of each family."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, Protocol

import gguf
import hypothesis
import numpy as np
import numpy.typing as npt
import pytest
from gguf.quants import quantize

from ramp_edge.errors import RuntimeToolError
from ramp_edge.events import EventBus
from ramp_edge.runtime.built import BuiltRuntime

# A busy machine is no failure: properties hold or do not, however long an example takes.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

N_EMBD, N_FF, N_LAYER, N_HEAD, N_HEAD_KV, CONTEXT = 256, 512, 2, 4, 2, 512
ARM_RECIPE = "aarch64-dotprod"
"""The one that `.ci/run` builds."""
HF_FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma3")
_SENTENCES = (
    "the small board reads a page of words and writes the next one while it waits for rain and light in a quiet room "
    "every morning the children walk along the river where old boats carry stones sand and apples to the market town "
    "a model keeps what it learned in numbers that fit within the memory of the board and loses little of their meaning"
)
_WORDS = _SENTENCES.split()


class TinyGgufMaker(Protocol):
    """Writes a tiny Llama and returns its path."""

    def __call__(
        self, path: Path, *, tied: bool = ..., dtype: str = ..., seed: int = ..., n_layer: int = ..., n_ff: int = ...,
        edit: Callable[[dict[str, npt.NDArray[np.float32]]], None] | None = ...,
    ) -> Path: ...  # fmt: skip


def generated_text(n_words: int, seed: int = 0) -> str:
    """Sentences of common words in random order, the same for the same seed."""
    rng = np.random.default_rng(seed)
    words = rng.choice(_WORDS, n_words)
    sentences = (" ".join(words[at : at + 12]) for at in range(0, n_words, 12))
    return "\n".join(sentence.capitalize() + "." for sentence in sentences)


def _byte_letters() -> dict[int, str]:
    """GPT-2's letters for bytes: printable ones stand for themselves, the others for letters from U+0100 on."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters = {byte: chr(byte) for byte in plain}
    letters.update({b: chr(0x100 + i) for i, b in enumerate(b for b in range(256) if b not in plain)})
    return letters


def _byte_vocabulary(n_merges: int = 128) -> tuple[list[str], list[str]]:
    """(tokens, merges) of a byte-level BPE learned from the words above."""
    letters = _byte_letters()
    words = [[letters[b] for b in f" {word}".encode()] for word in _WORDS]
    tokens, merges = [letters[b] for b in range(256)], []
    while len(merges) < n_merges:
        pairs = Counter(pair for word in words for pair in itertools.pairwise(word))
        first, second = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(f"{first} {second}")
        tokens.append(first + second)
        for word in words:
            at = 0
            while at < len(word) - 1:
                if (word[at], word[at + 1]) == (first, second):
                    word[at : at + 2] = [first + second]
                at += 1
    return [*tokens, "<|endoftext|>"], merges


def _tiny_weights(
    rng: np.random.Generator, n_vocab: int, n_layer: int, n_ff: int, tied: bool
) -> dict[str, npt.NDArray[np.float32]]:
    n_kv = N_EMBD // N_HEAD * N_HEAD_KV

    def matrix(n_rows: int, n_cols: int, gain: float = 1.0) -> npt.NDArray[np.float32]:
        # A few columns are louder than the rest, as in trained models, so that importance and feedback matter.
        loud = np.exp(0.4 * rng.standard_normal(n_cols))
        return (rng.standard_normal((n_rows, n_cols)) * loud * gain / np.sqrt(n_cols)).astype(np.float32)

    def norm() -> npt.NDArray[np.float32]:
        return (1.0 + 0.1 * rng.standard_normal(N_EMBD)).astype(np.float32)

    weights = {"token_embd.weight": matrix(n_vocab, N_EMBD, 3.0), "output_norm.weight": norm()}
    if not tied:
        weights["output.weight"] = matrix(n_vocab, N_EMBD, 3.0)
    for layer in range(n_layer):
        p = f"blk.{layer}."
        weights |= {p + "attn_norm.weight": norm(), p + "ffn_norm.weight": norm()}
        weights |= {p + "attn_q.weight": matrix(N_EMBD, N_EMBD), p + "attn_k.weight": matrix(n_kv, N_EMBD)}
        weights |= {p + "attn_v.weight": matrix(n_kv, N_EMBD), p + "attn_output.weight": matrix(N_EMBD, N_EMBD)}
        weights |= {p + "ffn_gate.weight": matrix(n_ff, N_EMBD), p + "ffn_up.weight": matrix(n_ff, N_EMBD)}
        weights[p + "ffn_down.weight"] = matrix(N_EMBD, n_ff)
    return weights


def _write_tiny_gguf(
    path: Path,
    *,
    tied: bool = True,
    dtype: str = "f16",
    seed: int = 0,
    n_layer: int = N_LAYER,
    n_ff: int = N_FF,
    edit: Callable[[dict[str, npt.NDArray[np.float32]]], None] | None = None,
) -> Path:
    """A Llama of random weights. `dtype` is the type of every matrix; `edit` changes the float32 weights in place."""
    kind = gguf.GGMLQuantizationType[dtype.upper()]
    tokens, merges = _byte_vocabulary()
    weights = _tiny_weights(np.random.default_rng(seed), len(tokens), n_layer, n_ff, tied)
    for name in ("token_embd.weight", "output.weight"):
        if name in weights:
            weights[name][-1] *= 0.1  # the end token is never the likeliest, so that generation goes on
    if edit is not None:
        edit(weights)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(f"tiny {seed}")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16 if dtype == "f16" else gguf.LlamaFileType.ALL_F32)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(N_EMBD)
    writer.add_block_count(n_layer)
    writer.add_feed_forward_length(n_ff)
    writer.add_head_count(N_HEAD)
    writer.add_head_count_kv(N_HEAD_KV)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(N_EMBD // N_HEAD)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.NORMAL] * (len(tokens) - 1) + [gguf.TokenType.CONTROL])
    writer.add_token_merges(merges)
    writer.add_bos_token_id(len(tokens) - 1)
    writer.add_eos_token_id(len(tokens) - 1)
    writer.add_add_bos_token(False)
    for name, values in weights.items():
        wanted = kind if values.ndim > 1 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(name, quantize(values, wanted), raw_dtype=wanted)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="session")
def make_tiny_gguf() -> TinyGgufMaker:
    """The factory of tiny GGUFs."""
    return _write_tiny_gguf


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny F16 Llama with a tied embedding; read-only, so that no test changes it for another."""
    path = _write_tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny-f16.gguf")
    path.chmod(0o444)
    return path


def run_ramp_edge(*args: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own, with nothing of the caller's ramp-edge or CI variables."""
    script = "import sys; sys.argv[0] = 'ramp-edge'; from ramp_edge.cli.main import main; main()"
    foreign = ("RAMP_EDGE_", "GITHUB_")
    base = {k: v for k, v in os.environ.items() if not k.startswith(foreign) or k == "RAMP_EDGE_CACHE"}
    return subprocess.run(
        [sys.executable, "-c", script, *map(str, args)],
        capture_output=True, text=True, check=False, cwd=cwd, env={**base, "RAMP_EDGE_PROGRESS": "off", **environment},
    )  # fmt: skip


@pytest.fixture(scope="session")
def ramp_edge_cli() -> Callable[..., subprocess.CompletedProcess[str]]:
    """`run_ramp_edge`, for every folder of tests."""
    return run_ramp_edge


@pytest.fixture(scope="session")
def tiny_build(tiny_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a real build of the tiny model; read-only for tests."""
    folder = tmp_path_factory.mktemp("tiny-build")
    done = run_ramp_edge(
        "build", tiny_gguf, "--device", "raspberry-pi-5", "--effort", "fast", "-o", folder / "out", cwd=folder
    )
    assert done.returncode == 0, done.stderr
    return folder / "out"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Quick tests first: a plain mistake shows within the first minute, whatever the random order."""
    items.sort(key=lambda item: any(item.get_closest_marker(name) for name in ("slow", "hf", "arm", "browser")))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With RAMP_EDGE_NO_SKIPS a missing tool fails; only text that is not part of the project may be absent."""
    report = yield
    if report.skipped and os.environ.get("RAMP_EDGE_NO_SKIPS") and item.get_closest_marker("shared_data") is None:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome, report.longrepr = "failed", f"{item.nodeid} may not be skipped here: {reason}"
    return report


@pytest.fixture(scope="session")
def llama_bin() -> Path:
    """The folder of llama.cpp's own tools: RAMP_EDGE_LLAMA_BIN, or what `ramp-edge runtime build` left in the cache."""
    from ramp_edge.runtime.build import host_tools
    from ramp_edge.runtime.manifest import load_manifest

    named = os.environ.get("RAMP_EDGE_LLAMA_BIN")
    folder = Path(named) if named else host_tools(load_manifest())
    if folder is None:
        pytest.skip("llama.cpp's tools are not built: run `ramp-edge runtime build --host` or set RAMP_EDGE_LLAMA_BIN")
    return folder


@pytest.fixture(scope="session")
def llama_source() -> Path:
    """The unpacked llama.cpp of the pinned archive."""
    from ramp_edge.runtime.manifest import load_manifest

    folder = load_manifest().source_folder
    if not folder.is_dir():
        pytest.skip("llama.cpp's source is not here: run `ramp-edge runtime fetch`")
    return folder


@pytest.fixture(scope="session")
def arm_tools() -> BuiltRuntime:
    """llama.cpp's tools for an aarch64 board; run them through `qemu_aarch64`."""
    from ramp_edge.runtime.built import ready_runtime
    from ramp_edge.runtime.recipes import recipe_named

    built = ready_runtime(recipe_named(ARM_RECIPE))
    if built is None:
        pytest.skip(f"the tools for ARM boards are not built: run `ramp-edge runtime build {ARM_RECIPE}`")
    return built


@pytest.fixture(scope="session")
def qemu_aarch64() -> str:
    """The program that runs aarch64 programs here."""
    found = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
    if found is None:
        pytest.skip("nothing here runs aarch64 programs: apt-get install qemu-user-static")
    return found


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of evaluation text that is not part of the project."""
    folder = Path(os.environ.get("RAMP_EDGE_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no evaluation text in {folder}; set RAMP_EDGE_SHARED_DATA")
    return folder


def _hf_config(family: str, n_vocab: int) -> Any:
    import transformers

    common: dict[str, Any] = {
        "vocab_size": n_vocab,
        "hidden_size": N_EMBD,
        "intermediate_size": N_FF,
        "num_hidden_layers": N_LAYER,
        "num_attention_heads": N_HEAD,
        "num_key_value_heads": N_HEAD_KV,
        "max_position_embeddings": CONTEXT,
        "initializer_range": 0.06,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    if family == "llama":
        return transformers.LlamaConfig(**common, tie_word_embeddings=False)
    if family == "mistral":
        return transformers.MistralConfig(**common, tie_word_embeddings=False, sliding_window=None)
    if family == "qwen2":
        return transformers.Qwen2Config(**common, tie_word_embeddings=True)
    if family == "qwen3":
        return transformers.Qwen3Config(**common, head_dim=128, tie_word_embeddings=True)
    # Seven layers: five with the window, one without, and one of the next round.
    return transformers.Gemma3TextConfig(
        **{**common, "num_hidden_layers": 7},
        head_dim=64,
        query_pre_attn_scalar=64,
        sliding_window=32,
    )


_HF_DTYPES = {"llama": "float32", "mistral": "float16", "qwen2": "bfloat16", "qwen3": "bfloat16", "gemma3": "bfloat16"}


def _write_hf_model(family: str, directory: Path) -> Path:
    import sentencepiece
    import torch
    import transformers

    text = directory / "text.txt"
    text.write_text(generated_text(3000), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(text),
        model_prefix=str(directory / "tokenizer"),
        model_type="bpe",
        vocab_size=384,
        byte_fallback=True,
        pad_id=0,
        bos_id=1,
        eos_id=2,
        unk_id=3,
        minloglevel=2,
    )
    for left_over in ("text.txt", "tokenizer.vocab"):
        (directory / left_over).unlink()
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    (directory / "tokenizer_config.json").write_text(json.dumps(special))
    config = _hf_config(family, sentencepiece.SentencePieceProcessor(str(directory / "tokenizer.model")).vocab_size())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = transformers.AutoModelForCausalLM.from_config(config)
        for name, parameter in model.named_parameters():
            # Fresh norms are one and fresh biases zero: a mistake in either would not show.
            if "norm" in name or name.endswith("bias"):
                parameter.data.add_(0.1 * torch.randn_like(parameter))
            # The padding token's row starts as zeros: norms would multiply what follows it without bound.
            if "embed_tokens" in name:
                parameter.data[0] = 0.06 * torch.randn_like(parameter[0])
    model.to(getattr(torch, _HF_DTYPES[family])).save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def tiny_hf_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """family -> directory of a random Hugging Face model with a sentencepiece tokenizer; built once each."""
    pytest.importorskip("transformers")
    pytest.importorskip("sentencepiece")
    made: dict[str, Path] = {}

    def make(family: str) -> Path:
        if family not in made:
            made[family] = _write_hf_model(family, tmp_path_factory.mktemp(f"hf-{family}"))
        return made[family]

    return make


@pytest.fixture(scope="session")
def converter_source() -> Path:
    """The fetched llama.cpp source; tests skip by name where neither a local archive nor the network has it."""
    from ramp_edge.runtime.fetch import fetch_source

    try:
        return fetch_source(EventBus())
    except RuntimeToolError as error:
        pytest.skip(f"no llama.cpp source: {error.message}")


@pytest.fixture(scope="session")
def converted(
    tiny_hf_model: Callable[[str], Path], converter_source: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """family -> GGUF converted from its tiny Hugging Face directory; converted once each."""
    from ramp_edge.model.converter import convert_hf

    cache = tmp_path_factory.mktemp("converted")

    def convert(family: str) -> Path:
        return convert_hf(tiny_hf_model(family), converter_source=converter_source, cache=cache, events=EventBus())

    return convert
