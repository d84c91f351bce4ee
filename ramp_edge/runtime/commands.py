"""The command lines that build a recipe's tools, here or on a board, and the compilers that they name."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass

from ramp_edge.errors import RuntimeToolError
from ramp_edge.runtime.manifest import Recipe, RuntimeManifest


@dataclass(frozen=True, kw_only=True, slots=True)
class Compilers:
    """A C and a C++ compiler for the same machine."""

    c: str
    cxx: str

    @property
    def flags(self) -> tuple[str, ...]:
        return (f"-DCMAKE_C_COMPILER={self.c}", f"-DCMAKE_CXX_COMPILER={self.cxx}")


def configure_command(
    recipe: Recipe,
    manifest: RuntimeManifest,
    *,
    source: str,
    folder: str,
    cmake: str = "cmake",
    generator: str | None = None,
    compilers: Compilers | None = None,
) -> tuple[str, ...]:
    """Make the build folder `folder` for the unpacked `source`."""
    chosen = ("-G", generator) if generator else ()
    flags = (*(compilers.flags if compilers else ()), *manifest.flags_of(recipe))
    return (cmake, "-S", source, "-B", folder, *chosen, *flags)


def compile_command(recipe: Recipe, *, folder: str, jobs: int | str, cmake: str = "cmake") -> tuple[str, ...]:
    """Compile the tools in a folder that `configure_command` made; they appear in its `bin`.

    `jobs`: how many compilers at once, or a word that stands for it.
    """
    return (cmake, "--build", folder, "-j", str(jobs), "--target", *recipe.tools)


def find_compilers(recipe: Recipe) -> Compilers | None:
    """The recipe's compilers on this machine; None where it takes whatever CMake finds.

    Raises RuntimeToolError naming the package that brings them.
    """
    if recipe.compiler is None:
        return None
    prefix = recipe.compiler.prefix
    if shutil.which(f"{prefix}gcc") and shutil.which(f"{prefix}g++"):
        return named_compilers(recipe)
    # Not every system gives its own compiler the long name as well.
    if shutil.which("gcc") and shutil.which("g++") and _machine_of("g++") in recipe.machines:
        return Compilers(c="gcc", cxx="g++")
    raise RuntimeToolError(
        f"{prefix}g++ is not on the PATH; {recipe.name} is compiled with it",
        hint=f"on Debian and Ubuntu: sudo apt install {recipe.compiler.package}",
    )


def named_compilers(recipe: Recipe) -> Compilers | None:
    """The compilers by the names that the recipe gives them, wherever they are."""
    if recipe.compiler is None:
        return None
    return Compilers(c=f"{recipe.compiler.prefix}gcc", cxx=f"{recipe.compiler.prefix}g++")


def _machine_of(compiler: str) -> str:
    done = subprocess.run([compiler, "-dumpmachine"], capture_output=True, text=True, check=False)
    return done.stdout.split("-")[0].strip()
