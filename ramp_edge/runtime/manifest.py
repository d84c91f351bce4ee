"""The pinned runtime as data: `runtimes/llama-cpp.yaml`, checked on load. No download without a hash."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ramp_edge.errors import RuntimeToolError
from ramp_edge.shipped import cache_dir, shipped_dir

MANIFEST_FILE = "llama-cpp.yaml"
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Sdist(_Strict):
    """The archive on PyPI."""

    file: Name
    size_bytes: int = Field(gt=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class LlamaCpp(_Strict):
    """llama.cpp inside the archive."""

    commit: str = Field(pattern=r"^[0-9a-f]{7,40}$")
    folder: str
    """Its folder within the archive."""
    skip: tuple[str, ...] = ()
    """Prefixes below `folder` that are not unpacked."""


class Build(_Strict):
    """How the host tools are built."""

    flags: tuple[str, ...]
    tools: tuple[Name, ...] = Field(min_length=1)


class RuntimeManifest(_Strict):
    """One pinned llama.cpp."""

    package: Name
    version: str = Field(pattern=r"^\d+(\.\d+)+$")
    sdist: Sdist
    llama_cpp: LlamaCpp
    build: Build

    @property
    def folder(self) -> Path:
        """Where this runtime lives in the user's cache; the hash in its name keeps versions apart."""
        return cache_dir() / "runtimes" / self.sdist.sha256[:12]

    @property
    def source_folder(self) -> Path:
        """The unpacked llama.cpp (exists once fetched, complete)."""
        return self.folder / "llama.cpp"


def load_manifest(path: Path | None = None) -> RuntimeManifest:
    """The shipped manifest, or the one at `path`. Raises RuntimeToolError naming the file and every wrong field."""
    path = path or shipped_dir("runtimes") / MANIFEST_FILE
    try:
        manifest = RuntimeManifest.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RuntimeToolError(f"{path}: cannot be read: {error}", hint="reinstall ramp-edge") from error
    except ValidationError as error:
        fields = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors())
        raise RuntimeToolError(f"{path}: {fields}", hint="reinstall ramp-edge") from error
    if ".." in PurePosixPath(manifest.llama_cpp.folder).parts:
        raise RuntimeToolError(f"{path}: llama_cpp.folder leaves the archive: {manifest.llama_cpp.folder}")
    return manifest
