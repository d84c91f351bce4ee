"""`ramp-edge runtime`: results on stdout, progress on stderr, mistakes as errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ramp_edge.cli.runtime import app
from ramp_edge.errors import ProfileError, RuntimeToolError, UsageError
from ramp_edge.runtime.build import host_folder
from ramp_edge.runtime.built import build_folder, write_stamp
from ramp_edge.runtime.manifest import load_manifest
from ramp_edge.runtime.recipes import recipe_named


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAMP_EDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("RAMP_EDGE_SDIST", raising=False)


def run(*args: str | Path) -> str:
    result = CliRunner().invoke(app, [str(a) for a in args], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_list_names_the_pin_and_the_next_commands() -> None:
    text = run("list")
    manifest = load_manifest()
    for word in (manifest.version, manifest.llama_cpp.commit, manifest.sdist.sha256):
        assert word in text
    assert "ramp-edge runtime fetch" in text and "ramp-edge runtime build --host" in text
    record = json.loads(run("list", "--json"))
    assert record["source"] is None and record["tools"] is None
    assert record["sdist_bytes"] == manifest.sdist.size_bytes


def test_list_shows_what_is_there() -> None:
    manifest = load_manifest()
    manifest.source_folder.mkdir(parents=True)
    folder = host_folder(manifest)
    (folder / "bin").mkdir(parents=True)
    for name in manifest.build.tools:
        (folder / "bin" / name).write_text("tool")
    (folder / "built.json").write_text(json.dumps(dict.fromkeys(manifest.build.tools, 4)))
    record = json.loads(run("list", "--json"))
    assert record["source"] == str(manifest.source_folder) and record["tools"] == str(folder / "bin")
    assert str(folder / "bin") in run("list")
    # What is there is not fetched or built again.
    assert run("fetch").strip() == str(manifest.source_folder)
    assert run("build", "--host").strip() == str(folder / "bin")
    assert json.loads(run("build", "--host", "--json"))["tools"] == str(folder / "bin")


def test_fetch_refuses_another_archive(tmp_path: Path) -> None:
    wrong = tmp_path / "llama_cpp_python-0.3.36.tar.gz"
    wrong.write_bytes(b"something else")
    result = CliRunner().invoke(app, ["fetch", "--sdist", str(wrong)])
    assert isinstance(result.exception, RuntimeToolError) and "14 bytes" in result.exception.message
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "nothing to build for"),
        (["--host", "aarch64-dotprod"], "one thing at a time"),
        (["--host", "--for", "raspberry-pi-5"], "one thing at a time"),
        (["--for", "raspberry-pi-5", "metal"], "one thing at a time"),
    ],
)
def test_build_asks_what_for(arguments: list[str], words: str) -> None:
    result = CliRunner().invoke(app, ["build", *arguments])
    assert isinstance(result.exception, UsageError) and words in result.exception.message
    assert "--host" in result.exception.hint and "--for" in result.exception.hint


def built(name: str) -> Path:
    """As if the recipe's tools had been built."""
    manifest = load_manifest()
    recipe = recipe_named(name, manifest)
    folder = build_folder(recipe, manifest) / "bin"
    folder.mkdir(parents=True)
    for tool in recipe.tools:
        (folder / tool).write_text("program")
    write_stamp(recipe, manifest)
    return folder


def test_list_shows_every_recipe_and_its_state() -> None:
    folder = built("aarch64-dotprod")
    lines = run("list").splitlines()
    for recipe in load_manifest().recipes:
        at = next(n for n, line in enumerate(lines) if line.startswith(f"  {recipe.name} "))
        assert recipe.boards in lines[at + 1] and all(word in lines[at + 1] for word in recipe.isa)
    state = {line.split()[0]: line for line in lines if line.startswith("  ") and line.strip()}
    assert f"built, 3 tools, 21 B: {folder}" in state["aarch64-dotprod"]
    assert "not built: ramp-edge runtime build aarch64-armv8-a" in state["aarch64-armv8-a"]
    assert "the board builds it, at ramp-edge deploy" in state["cuda-sm87"]
    records = {record["recipe"]: record for record in json.loads(run("list", "--json"))["recipes"]}
    assert list(records) == [recipe.name for recipe in load_manifest().recipes]
    assert records["aarch64-dotprod"]["built"] and records["aarch64-dotprod"]["size_bytes"] == 21
    assert records["aarch64-dotprod"]["tools"]["llama-bench"]["size_bytes"] == 7
    assert not records["x86-64-avx2"]["built"] and records["x86-64-avx2"]["tools"]["llama-bench"] is None
    assert records["metal"]["folder"] is None and records["metal"]["built_on"] == "target"


def test_list_checks_hashes_when_asked() -> None:
    folder = built("aarch64-dotprod")
    assert run("list", "--check") == run("list")
    (folder / "llama-bench").write_text("prograM")
    result = CliRunner().invoke(app, ["list", "--check"])
    assert isinstance(result.exception, RuntimeToolError)
    assert result.exception.message == f"changed since they were built: {folder / 'llama-bench'}"
    assert "aarch64-dotprod" in result.stdout


def test_build_for_a_device_finds_its_recipe(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RAMP_EDGE_CONFIG", str(tmp_path))
    folder = built("aarch64-dotprod")
    assert run("build", "--for", "raspberry-pi-5").strip() == str(folder)
    assert run("build", "aarch64-dotprod").strip() == str(folder)
    record = json.loads(run("build", "--for", "raspberry-pi-5-8gb", "--json"))
    assert record["recipe"] == "aarch64-dotprod" and record["folder"] == str(folder)
    result = CliRunner().invoke(app, ["build", "--for", "zx81"])
    assert isinstance(result.exception, ProfileError)
    result = CliRunner().invoke(app, ["build", "aarch64-dotprot"])
    assert isinstance(result.exception, RuntimeToolError) and "aarch64-dotprod" in result.exception.hint


@pytest.mark.parametrize("arguments", [["cuda-sm87"], ["--for", "jetson-orin"]])
def test_what_the_board_builds_is_said_to_be(arguments: list[str]) -> None:
    text = run("build", *arguments)
    assert text.startswith("cuda-sm87 is built on the board itself, at `ramp-edge deploy`")
    assert json.loads(run("build", *arguments, "--json"))["built"] is False
    assert not load_manifest().folder.exists()


def test_dry_run_shows_flags_and_commands_and_does_nothing() -> None:
    text = run("build", "--for", "raspberry-pi-5", "--dry-run")
    assert "g++-aarch64-linux-gnu" in text and "linux on aarch64 or arm64, backend cpu, neon, dotprod" in text
    assert "'-DCMAKE_EXE_LINKER_FLAGS=-static -s'" in text and "-DGGML_CPU_ARM_ARCH=armv8.2-a+dotprod+fp16" in text
    assert "--target llama-bench llama-perplexity llama-completion" in text
    on_board = run("build", "cuda-sm87", "--dry-run")
    assert "sudo apt install nvidia-jetpack" in on_board and "-DCMAKE_CUDA_ARCHITECTURES=87" in on_board
    assert "tar -xzf /FOLDER/source.tar.gz -C /FOLDER/source" in on_board and "-j CORES" in on_board
    assert "-DGGML_NATIVE=ON" in run("build", "--host", "--dry-run")
    record = json.loads(run("build", "x86-64-avx512", "--dry-run", "--json"))
    assert "-DGGML_AVX512=ON" in record["flags"] and record["commands"][1][:2] == ["cmake", "--build"]
    assert not load_manifest().folder.exists()


def test_a_missing_compiler_is_named_before_anything_is_fetched(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "cmake").write_text("#!/bin/sh\n")
    (tmp_path / "cmake").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "aarch64-linux-gnu-g++, Debian package g++-aarch64-linux-gnu (not here)" in run(
        "build", "aarch64-armv8-a", "--dry-run"
    )
    result = CliRunner().invoke(app, ["build", "aarch64-armv8-a"])
    assert isinstance(result.exception, RuntimeToolError)
    assert "sudo apt install g++-aarch64-linux-gnu" in result.exception.hint
    assert not load_manifest().folder.exists()
