"""What the flags of each recipe do to the real source with the real compiler: the kernels use what `isa` says and no more."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from ramp_edge.runtime.commands import configure_command, find_compilers
from ramp_edge.runtime.manifest import BuiltOn, load_manifest
from ramp_edge.runtime.recipes import recipe_named

MACROS = {
    "neon": "__ARM_NEON",
    "dotprod": "__ARM_FEATURE_DOTPROD",
    "i8mm": "__ARM_FEATURE_MATMUL_INT8",
    "sve": "__ARM_FEATURE_SVE",
    "avx2": "__AVX2__",
    "fma": "__FMA__",
    "f16c": "__F16C__",
    "avx512": "__AVX512BW__",
    "avx512_vnni": "__AVX512VNNI__",
    "avx512_bf16": "__AVX512BF16__",
    "avx_vnni": "__AVXVNNI__",
    "amx": "__AMX_INT8__",
}
"""Word of the profiles -> what the compiler defines where it may use it."""
BUILT_HERE = [recipe.name for recipe in load_manifest().recipes if recipe.built_on is BuiltOn.HOST]


@pytest.mark.parametrize("name", BUILT_HERE)
def test_kernels_use_what_the_recipe_needs_and_no_more(name: str, llama_source: Path, tmp_path: Path) -> None:
    manifest = load_manifest()
    recipe = recipe_named(name, manifest)
    assert recipe.compiler is not None
    if shutil.which(f"{recipe.compiler.prefix}g++") is None:
        pytest.skip(f"no compiler for {name}: apt-get install {recipe.compiler.package}")
    command = configure_command(
        recipe, manifest, source=str(llama_source), folder=str(tmp_path), compilers=find_compilers(recipe)
    )
    subprocess.run(command, check=True, capture_output=True)
    entries = json.loads((tmp_path / "compile_commands.json").read_text(encoding="utf-8"))
    compiled = {entry["file"]: entry["command"] for entry in entries}
    # The kernels of every type are compiled with the same flags.
    kernels = defined(compiled[str(llama_source / "ggml/src/ggml-cpu/quants.c")])
    for word, macro in MACROS.items():
        assert (macro in kernels) == (word in recipe.isa), f"{word}: {macro}"
    assert not any("-fopenmp" in line for line in compiled.values())
    links = [path.read_text(encoding="utf-8") for path in tmp_path.rglob("link.txt") if "llama-bench.dir" in str(path)]
    links += [(tmp_path / "build.ninja").read_text(encoding="utf-8")] if (tmp_path / "build.ninja").is_file() else []
    assert links and all("-static -s" in line for line in links)


def defined(command: str) -> set[str]:
    """Macros that the compiler of a compile command has with its flags."""
    compiler, *words = shlex.split(command)
    machine = [word for word in words if word.startswith("-m")]
    done = subprocess.run(
        [compiler, *machine, "-dM", "-E", "-x", "c", "/dev/null"], check=True, capture_output=True, text=True
    )
    return {line.split()[1] for line in done.stdout.splitlines()}
