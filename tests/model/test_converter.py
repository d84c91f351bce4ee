"""What can go wrong between a Hugging Face directory and a GGUF; the converter is played by small scripts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ramp_edge.errors import CacheError, ModelFileError, RampEdgeError, RuntimeToolError, UnsupportedModelError
from ramp_edge.events import EventBus
from ramp_edge.model import converter
from ramp_edge.model.converter import convert_hf, last_meaningful_line


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    folder = tmp_path / "My Model!"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"architectures": ["NovelForCausalLM"]}))
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


@pytest.fixture(autouse=True)
def packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests run without the `hf` extra too."""
    monkeypatch.setattr(converter, "_NEEDED_MODULES", ("json",))


def source(tmp_path: Path, script: str) -> Path:
    """A llama.cpp folder whose converter is `script`; it finds --outfile in `out` and --outtype in `kind`."""
    folder = tmp_path / "abc123" / "llama.cpp"
    folder.mkdir(parents=True, exist_ok=True)
    head = "import sys, os, shutil\nout = sys.argv[sys.argv.index('--outfile') + 1]\n"
    head += "kind = sys.argv[sys.argv.index('--outtype') + 1]\n"
    (folder / "convert_hf_to_gguf.py").write_text(head + script)
    return folder


def convert(directory: Path, tmp_path: Path, script: str) -> Path:
    return convert_hf(directory, converter_source=source(tmp_path, script), cache=tmp_path / "cache", events=EventBus())


@pytest.mark.parametrize(
    ("script", "error", "words"),
    [
        (
            "sys.exit('NotImplementedError: BPE pre-tokenizer was not recognized - update get_vocab_base_pre()')",
            UnsupportedModelError,
            r"does not know this model's BPE tokenizer \(NovelForCausalLM\)",
        ),
        (
            "print('ERROR:hf-to-gguf:Model NovelForCausalLM is not supported', file=sys.stderr); sys.exit(1)",
            UnsupportedModelError,
            "does not know the architecture NovelForCausalLM",
        ),
        (
            "print('INFO:loading'); raise KeyError('rope_theta')",
            RuntimeToolError,
            "failed with 1: KeyError: 'rope_theta'",
        ),
        ("open(out, 'wb').write(b'half'); os.kill(os.getpid(), 9)", RuntimeToolError, "stopped by signal 9"),
        ("sys.exit(0)", RuntimeToolError, "failed with 0: it said nothing"),
        (
            "open(out, 'wb').write(b'half'); raise OSError(28, os.strerror(28))",
            CacheError,
            "the disk is full while .*My Model",
        ),
    ],
)
def test_failures_are_explained_and_leave_nothing(
    directory: Path, tmp_path: Path, script: str, error: type[RampEdgeError], words: str
) -> None:
    with pytest.raises(error, match=words) as caught:
        convert(directory, tmp_path, script)
    assert "My Model!" in caught.value.message and caught.value.hint
    assert list((tmp_path / "cache" / "converted").iterdir()) == []


def test_the_cache_is_keyed_by_contents_and_converter(directory: Path, tmp_path: Path, tiny_gguf: Path) -> None:
    script = f"shutil.copyfile({str(tiny_gguf)!r}, out)"
    first = convert(directory, tmp_path, script)
    assert first.name.startswith("My_Model_-")
    assert convert(directory, tmp_path, script) == first
    (directory / "model.safetensors").write_bytes(b"weighty")
    second = convert(directory, tmp_path, script)
    assert second != first
    assert convert(directory, tmp_path, script + "\n# changed") not in (first, second)
    renamed = directory.rename(directory.with_name("other"))
    assert convert(renamed, tmp_path, script).name.startswith("other-")


def test_a_damaged_conversion_is_made_again(directory: Path, tmp_path: Path, tiny_gguf: Path) -> None:
    script = f"shutil.copyfile({str(tiny_gguf)!r}, out)"
    path = convert(directory, tmp_path, script)
    whole = path.read_bytes()
    for damage in (b"", whole[:-100_000]):
        path.write_bytes(damage)
        assert convert(directory, tmp_path, script) == path
        assert path.read_bytes() == whole


def test_a_file_in_place_of_the_cache(directory: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").touch()
    with pytest.raises(CacheError, match=r"cache/converted: Not a directory") as caught:
        convert(directory, tmp_path, "sys.exit(0)")
    assert "RAMP_EDGE_CACHE" in caught.value.hint


def test_the_converter_sees_its_own_gguf_and_no_network(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_gguf: Path
) -> None:
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    script = f"""
assert os.environ["PYTHONPATH"].endswith("gguf-py") and "elsewhere" not in os.environ["PYTHONPATH"]
assert os.environ["HF_HUB_OFFLINE"] == os.environ["TRANSFORMERS_OFFLINE"] == "1"
shutil.copyfile({str(tiny_gguf)!r}, out)
"""
    assert convert(directory, tmp_path, script).is_file()


def test_weights_beyond_float16_are_converted_as_bfloat16(
    directory: Path, tmp_path: Path, tiny_gguf: Path, make_tiny_gguf: Callable[..., Path]
) -> None:
    def overflow(weights: dict[str, np.ndarray]) -> None:
        weights["blk.0.ffn_up.weight"][0, 0] = np.inf

    half = make_tiny_gguf(tmp_path / "half.gguf", edit=overflow)
    script = f"shutil.copyfile({str(half)!r} if kind == 'f16' else {str(tiny_gguf)!r}, out)"
    assert convert(directory, tmp_path, script).read_bytes() == tiny_gguf.read_bytes()


@pytest.mark.parametrize(
    ("change", "words", "hint"),
    [
        (lambda d: (d / "config.json").unlink(), "No such file", "folder that holds config.json"),
        (lambda d: (d / "config.json").write_text("{not json"), "not readable as JSON", "config.json"),
        (lambda d: (d / "config.json").write_bytes(b"\xff\xfe\x00"), "not readable as JSON", "config.json"),
        (lambda d: (d / "config.json").write_text("[1]"), "not a JSON object", "download"),
        (lambda d: (d / "model.safetensors").unlink(), "no \\*.safetensors", "weights"),
        (
            lambda d: ((d / "config.json").unlink(), (d / "adapter_config.json").touch()),
            "No such file",
            "merge it into its base model",
        ),
    ],
)
def test_incomplete_directories_are_named(
    directory: Path, tmp_path: Path, change: object, words: str, hint: str
) -> None:
    change(directory)  # type: ignore[operator]
    with pytest.raises(ModelFileError, match=words) as caught:
        convert(directory, tmp_path, "sys.exit(0)")
    assert hint in caught.value.hint


def test_missing_packages_are_named_with_the_command(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(converter, "_NEEDED_MODULES", ("json", "absent_package", "google.absent"))
    with pytest.raises(RuntimeToolError, match=r"need absent_package, google\.absent, which are not") as caught:
        convert(directory, tmp_path, "sys.exit(0)")
    assert caught.value.hint == "pip install 'ramp-edge[hf]'"


@pytest.mark.parametrize(
    ("output", "line"),
    [
        ("", "it said nothing"),
        ("a\nb\n\n", "b"),
        (
            "Traceback\n  File x\nsafetensors.SafetensorError: header too large\nwarning: later\n",
            "safetensors.SafetensorError: header too large",
        ),
        ("ERROR:hf-to-gguf:bad\nINFO: bye", "ERROR:hf-to-gguf:bad"),
    ],
)
def test_the_last_meaningful_line(output: str, line: str) -> None:
    assert last_meaningful_line(output) == line


@pytest.mark.hf
def test_the_real_converter_explains_itself(tiny_hf_model: object, converter_source: Path, tmp_path: Path) -> None:
    good = tiny_hf_model("llama")  # type: ignore[operator]

    def variant(name: str, change: object) -> Path:
        folder = shutil.copytree(good, tmp_path / name)
        change(folder)  # type: ignore[operator]
        return folder

    def rename(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "architectures": ["NovelForCausalLM"]}))

    def run(folder: Path) -> None:
        convert_hf(folder, converter_source=converter_source, cache=tmp_path / "cache", events=EventBus())

    with pytest.raises(UnsupportedModelError, match="architecture NovelForCausalLM"):
        run(variant("novel", rename))
    with pytest.raises(RuntimeToolError, match=r"failed with 1: ValueError: Could not read complete metadata"):
        run(
            variant("cut", lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:50]))
        )
