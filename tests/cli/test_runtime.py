"""`ramp-edge runtime`: results on stdout, progress on stderr, mistakes as errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ramp_edge.cli.runtime import app
from ramp_edge.errors import RuntimeToolError, UsageError
from ramp_edge.runtime.build import host_folder
from ramp_edge.runtime.manifest import load_manifest


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


def test_build_asks_what_for() -> None:
    result = CliRunner().invoke(app, ["build"])
    assert isinstance(result.exception, UsageError) and "--host" in result.exception.hint
