"""The pinned runtime as data: `runtimes/llama-cpp.yaml`, checked on load. No download without a hash.

A recipe says how the tools for one kind of board are made. Recipes are data alone: another board needs no code.
"""

from __future__ import annotations

from enum import Enum
from pathlib import Path, PurePosixPath
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ramp_edge.errors import RuntimeToolError
from ramp_edge.shipped import cache_dir, shipped_dir

MANIFEST_FILE = "llama-cpp.yaml"
HOST_RECIPE = "host"
"""Name of the build for this machine; no recipe may take it."""
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
Flag = Annotated[str, Field(pattern=r"^-D[A-Za-z0-9_]+=[^\x00-\x1f]*$")]


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

    flags: tuple[Flag, ...]
    tools: tuple[Name, ...] = Field(min_length=1)


class BuiltOn(str, Enum):
    """Where a recipe's compiler runs."""

    HOST = "host"
    TARGET = "target"


class Compiler(_Strict):
    """GCC for another machine."""

    prefix: Name
    """Before gcc and g++, e.g. `aarch64-linux-gnu-`."""
    package: str = Field(pattern=r"^[a-z0-9][a-z0-9+.-]+$")
    """The Debian package that brings it."""


class Need(_Strict):
    """A program that the board must have to build for itself."""

    command: str = Field(pattern=r"^[A-Za-z0-9/][A-Za-z0-9/+._-]*$")
    """On the board's PATH, or an absolute path."""
    how: str = Field(min_length=1)
    """The command that brings it."""


class Source(_Strict):
    """What of llama.cpp is sent to a board that builds for itself."""

    skip: tuple[str, ...] = ()
    """Prefixes that stay here, unless a recipe names them."""


class Recipe(_Strict):
    """How the tools for one kind of board are made."""

    name: Name
    boards: str
    """For people: which boards these are."""
    system: Annotated[str, Field(pattern="^(linux|darwin)$")] | None
    """`uname -s` in lower case. None: this machine's own."""
    machines: tuple[Name, ...] = ()
    """The values of `uname -m` that it runs on."""
    backend: Annotated[str, Field(pattern="^(cpu|cuda|metal)$")]
    isa: tuple[Name, ...] = ()
    """What the board must have, in the device profiles' words."""
    built_on: BuiltOn
    compiler: Compiler | None = None
    """Where it is built here. None: this machine's own."""
    needs: tuple[Need, ...] = ()
    """Where the board builds it."""
    source: tuple[str, ...] = ()
    """Prefixes that the board needs although `RuntimeManifest.source` skips them."""
    flag_sets: tuple[Name, ...] = ()
    """Put before `flags`, see `RuntimeManifest.flags_of`."""
    flags: tuple[Flag, ...]
    tools: tuple[Name, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _place_fits(self) -> Recipe:
        on_target = self.built_on is BuiltOn.TARGET
        if on_target and (self.compiler or not self.needs):
            raise ValueError(f"{self.name} is built on the board: it has needs and no compiler")
        if not on_target and (self.needs or self.source):
            raise ValueError(f"{self.name} is built here: it has a compiler, no needs and no source")
        return self


class RuntimeManifest(_Strict):
    """One pinned llama.cpp."""

    package: Name
    version: str = Field(pattern=r"^\d+(\.\d+)+$")
    sdist: Sdist
    llama_cpp: LlamaCpp
    build: Build
    flag_sets: dict[Name, tuple[Flag, ...]] = Field(default_factory=dict)
    source: Source = Source()
    recipes: tuple[Recipe, ...] = ()

    @model_validator(mode="after")
    def _recipes_fit(self) -> RuntimeManifest:
        names = [recipe.name for recipe in self.recipes]
        if twice := sorted({name for name in [*names, HOST_RECIPE] if [*names, HOST_RECIPE].count(name) > 1}):
            raise ValueError(f"recipes: {', '.join(twice)} is there twice or reserved")
        for recipe in self.recipes:
            if unknown := sorted(set(recipe.flag_sets) - set(self.flag_sets)):
                raise ValueError(f"recipe {recipe.name}: no flag set {', '.join(unknown)}")
        return self

    @property
    def folder(self) -> Path:
        """Where this runtime lives in the user's cache; the hash in its name keeps versions apart."""
        return cache_dir() / "runtimes" / self.sdist.sha256[:12]

    @property
    def source_folder(self) -> Path:
        """The unpacked llama.cpp (exists once fetched, complete)."""
        return self.folder / "llama.cpp"

    def flags_of(self, recipe: Recipe) -> tuple[str, ...]:
        """CMake's flags: those of the recipe's sets, then its own."""
        if recipe.name == HOST_RECIPE:
            return recipe.flags
        # The archive has no git history for the tools to read their commit from.
        commit = f"-DLLAMA_BUILD_COMMIT={self.llama_cpp.commit}"
        return (*(flag for name in recipe.flag_sets for flag in self.flag_sets[name]), commit, *recipe.flags)


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
