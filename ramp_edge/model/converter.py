"""Hugging Face directories become GGUF through llama.cpp's own converter, at the pinned commit, in a process of its own.

Always F16: every weight between 2^-17 and 65504 in magnitude goes from BF16 to F16 without a change (8 bits of mantissa
into 11), smaller ones move by less than 2^-25, and CPUs without BF16 instructions run the F16 reference far faster.
A weight above 65504 would become infinite, so such a model is converted again as BF16.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from ramp_edge.cache import make_cache_folder, partial_path, publish, remove_abandoned
from ramp_edge.codec.types import QuantType
from ramp_edge.errors import CacheError, ModelFileError, RampEdgeError, RuntimeToolError, UnsupportedModelError
from ramp_edge.events import EventBus
from ramp_edge.model.gguf_file import GgufTensors
from ramp_edge.model.header import check_header

CONVERTER_REVISION = 1
"""Raise it when this module calls the converter differently: cached files of the old way are then not used."""
_KEY_SUFFIXES = frozenset({".json", ".model", ".txt", ".safetensors", ".bin", ".jinja"})
_WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")
_NEEDED_MODULES = ("transformers", "sentencepiece", "safetensors", "google.protobuf")
_EXCEPTION_LINE = re.compile(r"^(?:\w+\.)*\w*(?:Error|Exception|Interrupt|Exit)\b")
_CHUNK_BYTES = 1 << 22


def convert_hf(directory: Path, *, converter_source: Path, cache: Path, events: EventBus) -> Path:
    """GGUF of the model in `directory`, from the cache where the same files were converted before.

    Raises ModelFileError (incomplete directory), UnsupportedModelError (architecture or tokenizer unknown to llama.cpp),
    RuntimeToolError (packages missing, or the converter failed) or CacheError (no room).
    """
    architectures = check_directory(directory)
    require_packages()
    key = _cache_key(directory, converter_source, events)
    target = cache / "converted" / f"{re.sub(r'[^A-Za-z0-9._-]', '_', directory.resolve().name)[:60]}-{key}.gguf"
    if _is_whole(target):
        return target
    make_cache_folder(target.parent)
    remove_abandoned(target.parent)
    partial = partial_path(target)
    try:
        with events.stage("convert the Hugging Face model"):
            _run_converter(directory, partial, converter_source, "f16", architectures)
            if name := _overflowed(partial):
                events.note(f"{name} holds weights above 65504, beyond F16: converting as BF16")
                _run_converter(directory, partial, converter_source, "bf16", architectures)
        publish(partial, target)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()
    return target


def _is_whole(path: Path) -> bool:
    """Whether an earlier conversion is there and complete; a damaged one is made again."""
    try:
        check_header(path)
    except ModelFileError:
        return False
    return True


def check_directory(directory: Path) -> list[str]:
    """The architectures that config.json names. Raises ModelFileError where the directory cannot be a model."""
    path = directory / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        hint = "give the folder that holds config.json, the tokenizer and the *.safetensors files"
        if (directory / "adapter_config.json").is_file():
            hint = "this is a LoRA adapter: merge it into its base model first (peft: merge_and_unload)"
        raise ModelFileError(f"{path}: {_os_reason(error)}", hint=hint) from error
    if not isinstance(config, dict):
        raise ModelFileError(f"{path}: not a JSON object", hint="download the model again")
    if not any(entry.suffix in _WEIGHT_SUFFIXES for entry in directory.iterdir()):
        raise ModelFileError(
            f"{directory}: config.json is there, but no *.safetensors and no *.bin", hint="download the weights too"
        )
    names = config.get("architectures")
    return [str(name) for name in names] if isinstance(names, list) else []


def require_packages() -> None:
    """Raise RuntimeToolError naming the packages of the `hf` extra that are missing."""
    missing = []
    for module in _NEEDED_MODULES:
        try:
            found = find_spec(module) is not None
        except ModuleNotFoundError:
            found = False
        if not found:
            missing.append("protobuf" if module == "google.protobuf" else module)
    if missing:
        raise RuntimeToolError(
            f"Hugging Face models need {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed",
            hint="pip install 'ramp-edge[hf]'",
        )


def _os_reason(error: Exception) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else f"not readable as JSON: {error}"


def _cache_key(directory: Path, converter_source: Path, events: EventBus) -> str:
    """16 hex digits of everything that shapes the result: names and contents of the files, and the converter."""
    files = sorted(f for f in directory.iterdir() if f.suffix in _KEY_SUFFIXES and f.is_file())
    digest = hashlib.sha256(f"{CONVERTER_REVISION} {directory.resolve().name}".encode())
    # The folder of the source is named after the hash of the archive it came from.
    digest.update(converter_source.resolve().parent.name.encode())
    digest.update((converter_source / "convert_hf_to_gguf.py").read_bytes())
    total = sum(f.stat().st_size for f in files)
    with events.stage("hash the model", total=total, unit="bytes") as stage:
        for file in files:
            digest.update(f"\0{file.name}\0{file.stat().st_size}\0".encode())
            with file.open("rb") as stream:
                while chunk := stream.read(_CHUNK_BYTES):
                    digest.update(chunk)
                    stage.advance(len(chunk))
    return digest.hexdigest()[:16]


def _run_converter(directory: Path, out: Path, source: Path, outtype: str, architectures: list[str]) -> None:
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "NO_LOCAL_GGUF", "PYTHONWARNINGS")}
    # Its own gguf-py first: the constants must match the commit. Never the network: the directory is the model.
    environment |= {"PYTHONPATH": str(source / "gguf-py"), "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    command = [sys.executable, str(source / "convert_hf_to_gguf.py"), str(directory.resolve())]
    command += ["--outfile", str(out), "--outtype", outtype]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace", check=False)
    except OSError as error:
        raise RuntimeToolError(f"the converter cannot be started: {error.strerror or error}") from error
    if done.returncode or not out.is_file():
        if os.strerror(errno.ENOSPC) in done.stderr:
            raise CacheError(f"the disk is full while {directory} is converted into {out.parent}")
        raise _explain(directory, done.stderr, done.returncode, architectures)


def _explain(directory: Path, output: str, status: int, architectures: list[str]) -> RampEdgeError:
    named = ", ".join(architectures) or "no architecture in config.json"
    if "pre-tokenizer was not recognized" in output:
        return UnsupportedModelError(
            f"{directory}: llama.cpp's converter does not know this model's BPE tokenizer ({named})",
            hint="if the tokenizer was changed, restore the base model's; else look for a GGUF of this model (F16 or BF16)",
        )
    if re.search(r"(?:Model|Architecture) \S+ (?:is )?not supported", output):
        return UnsupportedModelError(
            f"{directory}: llama.cpp's converter does not know the architecture {named}",
            hint="a newer llama.cpp may convert it: give its F16 or BF16 GGUF instead of the directory",
        )
    if status < 0:
        return RuntimeToolError(
            f"{directory}: the converter was stopped by signal {-status}",
            hint="out of memory, perhaps: convert on a larger machine and give the GGUF",
        )
    return RuntimeToolError(
        f"{directory}: llama.cpp's converter failed with {status}: {last_meaningful_line(output)}",
        hint="check that the directory is complete (config.json, tokenizer, all *.safetensors)",
    )


def last_meaningful_line(output: str) -> str:
    """The exception or ERROR line nearest the end of a program's output, else its last line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    for line in reversed(lines):
        if _EXCEPTION_LINE.match(line) or line.startswith("ERROR"):
            return line
    return lines[-1] if lines else "it said nothing"


def _overflowed(path: Path) -> str | None:
    """Name of the first F16 tensor with an infinite value, or None."""
    tensors = GgufTensors(path)
    for entry in tensors.header.tensors:
        if entry.type_id == QuantType.F16:
            halves = tensors.raw(entry.name).view(np.uint16)
            if ((halves & 0x7FFF) == 0x7C00).any():
                return entry.name
    return None
