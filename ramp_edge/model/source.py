"""Whatever the user names as a model becomes the path of a GGUF."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

from ramp_edge.errors import ModelFileError, RuntimeToolError
from ramp_edge.events import EventBus
from ramp_edge.model.converter import convert_hf, require_packages

EMBEDDED_MODEL = "ramp-edge-default-f16.gguf"
_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")
_HUB_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]


def resolve_model(spec: str | None, *, fetch_converter: Callable[[], Path], cache: Path, events: EventBus) -> Path:
    """Path of a GGUF for `spec`: None (the embedded default), a file, a Hugging Face directory, or a hub id.

    `fetch_converter` gives llama.cpp's source and is called only where something must be converted. Raises
    ModelFileError where there is no such model, and what `convert_hf` raises.
    """
    if spec is None:
        return _embedded()
    path = Path(spec).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        return _convert_directory(path, fetch_converter, cache, events)
    if _HUB_ID.match(spec) and path.suffix != ".gguf":
        return _convert_directory(_download(spec, events), fetch_converter, cache, events)
    raise ModelFileError(
        f"{spec}: no such file or directory" + ("" if "/" in spec else ", and not a hub id (org/name)"),
        hint="give a GGUF, a Hugging Face directory, a hub id, or nothing for the embedded default",
    )


def _embedded() -> Path:
    path = Path(str(files("ramp_edge"))) / "data" / EMBEDDED_MODEL
    if not path.is_file():
        raise ModelFileError(
            f"this installation lacks its embedded model {path}", hint="reinstall ramp-edge, or name a model"
        )
    return path


def _convert_directory(directory: Path, fetch_converter: Callable[[], Path], cache: Path, events: EventBus) -> Path:
    if not (directory / "config.json").exists() and not (directory / "adapter_config.json").exists():
        inside = sorted(directory.glob("*.gguf"))
        if inside:
            raise ModelFileError(
                f"{directory} is a folder with {len(inside)} GGUF file{'s' if len(inside) > 1 else ''}, not a Hugging Face model",
                hint=f"name the file, for example {inside[0]}",
            )
        raise ModelFileError(
            f"{directory}: no config.json in this folder",
            hint="give the folder that holds config.json, the tokenizer and the *.safetensors files",
        )
    # Said before the converter is fetched: 77 MB for nothing would be rude.
    require_packages()
    return convert_hf(directory, converter_source=fetch_converter(), cache=cache, events=events)


def _download(repo_id: str, events: EventBus) -> Path:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
    except ImportError as error:
        raise RuntimeToolError(
            f"{repo_id}: not a path on this machine, and downloading it from the hub needs huggingface_hub",
            hint="pip install 'ramp-edge[hf]'",
        ) from error
    try:
        with events.stage(f"download {repo_id}"):
            return Path(snapshot_download(repo_id, allow_patterns=_HUB_FILES))
    except GatedRepoError as error:
        raise ModelFileError(
            f"{repo_id}: this model asks for its licence to be accepted first",
            hint=f"accept it on https://huggingface.co/{repo_id}, then: hf auth login",
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelFileError(
            f"{repo_id}: neither a path on this machine nor a public model of the Hugging Face hub",
            hint="check the spelling; a private model needs: hf auth login",
        ) from error
    except Exception as error:  # the hub's client lets errors of several HTTP libraries through
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelFileError(
            f"{repo_id}: no such path on this machine, and the Hugging Face hub could not be reached: {reason}",
            hint="check the network, or download the model elsewhere and give its directory",
        ) from error
