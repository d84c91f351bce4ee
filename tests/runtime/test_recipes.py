"""The recipe of a board: never one that needs more than the board has, the most capable of those that remain."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ramp_edge.errors import RuntimeToolError
from ramp_edge.profile.load import list_profiles
from ramp_edge.runtime.manifest import BuiltOn, Recipe, RuntimeManifest, load_manifest
from ramp_edge.runtime.recipes import host_recipe, recipe_for, recipe_named

MANIFEST = load_manifest()
WORDS = sorted({word for recipe in MANIFEST.recipes for word in recipe.isa} | {"sve", "avx512_vnni", "sm_72"})
SYSTEMS = [None, "linux", "Linux", "darwin", "Darwin", "windows"]
MACHINES = [None, "aarch64", "arm64", "x86_64", "amd64", "AMD64", "armv7l", "riscv64"]


def fits(recipe: Recipe, isa: set[str], backend: str, system: str | None, machine: str | None) -> bool:
    return (
        set(recipe.isa) <= isa
        and recipe.backend == backend
        and (system is None or system.lower() == recipe.system)
        and (machine is None or machine.lower() in recipe.machines)
    )


@given(
    isa=st.sets(st.sampled_from(WORDS)),
    backend=st.sampled_from(["cpu", "cuda", "metal", "vulkan"]),
    system=st.sampled_from(SYSTEMS),
    machine=st.sampled_from(MACHINES),
)
def test_never_more_than_the_board_has(isa: set[str], backend: str, system: str | None, machine: str | None) -> None:
    fitting = [r for r in MANIFEST.recipes if fits(r, isa, backend, system, machine)]
    if not fitting:
        with pytest.raises(RuntimeToolError, match="no recipe makes"):
            recipe_for(isa=isa, backend=backend, system=system, machine=machine, manifest=MANIFEST)
        return
    chosen = recipe_for(isa=isa, backend=backend, system=system, machine=machine, manifest=MANIFEST)
    assert chosen in fitting
    assert not [r.name for r in fitting if set(r.isa) > set(chosen.isa)], "it leaves some of the board unused"


def test_every_shipped_profile_has_a_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAMP_EDGE_CONFIG", str(tmp_path))
    targets, broken = list_profiles()
    assert not broken and len(targets) > 10
    chosen = {t.name: recipe_for(isa=t.isa, backend=t.backend) for t in targets}
    for target in targets:
        assert set(chosen[target.name].isa) <= set(target.isa) and chosen[target.name].backend == target.backend
    names = {name: recipe.name for name, recipe in chosen.items()}
    assert names["raspberry-pi-zero-2w"] == names["raspberry-pi-4-4gb"] == "aarch64-armv8-a"
    assert names["raspberry-pi-5-8gb"] == "aarch64-dotprod"
    assert names["x86-avx2-16gb"] == "x86-64-avx2" and names["x86-avx512-32gb"] == "x86-64-avx512"
    assert names["jetson-orin-nano-8gb"] == "cuda-sm87" and names["apple-m1-8gb"] == names["apple-m4-16gb"] == "metal"
    # No recipe is there for nothing, but for those of boards that no profile describes yet.
    assert set(names.values()) >= {r.name for r in MANIFEST.recipes} - {"aarch64-i8mm"}


def test_a_board_without_a_recipe_learns_why() -> None:
    with pytest.raises(RuntimeToolError) as caught:
        recipe_for(isa=["vfpv4"], backend="cpu", system="linux", machine="armv7l")
    message = caught.value.message
    assert "it has: linux on armv7l, backend cpu, vfpv4" in message
    for recipe in MANIFEST.recipes:
        assert f"{recipe.name}: {recipe.system} on" in message
    assert "aarch64-dotprod: linux on aarch64 or arm64, backend cpu, neon, dotprod" in message
    assert "64-bit" in caught.value.hint


def test_recipes_by_name() -> None:
    assert recipe_named("aarch64-dotprod").name == "aarch64-dotprod"
    assert recipe_named("host") == host_recipe(MANIFEST)
    with pytest.raises(
        RuntimeToolError, match="no recipe is called 'arch64-dotprod': there is host, aarch64"
    ) as caught:
        recipe_named("arch64-dotprod")
    assert caught.value.hint == "did you mean aarch64-dotprod?"
    with pytest.raises(RuntimeToolError, match="no recipe is called 'zx81'") as caught:
        recipe_named("zx81")
    assert "runtime list" in caught.value.hint


def test_of_two_that_need_as_much_the_later_one() -> None:
    plain, other = (recipe_named("aarch64-dotprod").model_copy(update={"name": name}) for name in ("plain", "other"))
    for order in ([plain, other], [other, plain]):
        manifest = MANIFEST.model_copy(update={"recipes": tuple(order)})
        assert recipe_for(isa=["neon", "dotprod"], backend="cpu", manifest=manifest) == order[-1]


def test_recipes_for_boards_build_static_programs_that_know_their_commit() -> None:
    for recipe in MANIFEST.recipes:
        flags = MANIFEST.flags_of(recipe)
        assert f"-DLLAMA_BUILD_COMMIT={MANIFEST.llama_cpp.commit}" in flags
        if recipe.built_on is BuiltOn.HOST:
            assert "-DGGML_NATIVE=OFF" in flags and "-DCMAKE_EXE_LINKER_FLAGS=-static -s" in flags


def test_flags_are_those_that_the_pinned_source_knows(llama_source: Path) -> None:
    known = "\n".join(
        path.read_text(encoding="utf-8") for name in ("CMakeLists.txt", "*.cmake") for path in llama_source.rglob(name)
    )
    manifest: RuntimeManifest = MANIFEST
    for recipe in (host_recipe(manifest), *manifest.recipes):
        for flag in manifest.flags_of(recipe):
            name = flag.removeprefix("-D").split("=")[0]
            assert name.startswith("CMAKE_") or f"{name} " in known or f"{name})" in known, f"{recipe.name}: {flag}"


def test_what_stays_here_is_in_the_pinned_source(llama_source: Path) -> None:
    names = [path.relative_to(llama_source).as_posix() for path in llama_source.rglob("*") if path.is_file()]
    kept = [prefix for recipe in MANIFEST.recipes for prefix in recipe.source]
    for prefix in (*MANIFEST.source.skip, *kept):
        assert any(name.startswith(prefix) for name in names), f"no file begins with {prefix!r}"
    assert set(kept) <= set(MANIFEST.source.skip), "what a recipe keeps is left out otherwise"
