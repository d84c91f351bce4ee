"""The shipped manifest is complete; a damaged one names its fields."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from ramp_edge.errors import RuntimeToolError
from ramp_edge.runtime.manifest import MANIFEST_FILE, load_manifest
from ramp_edge.shipped import shipped_dir


def test_the_shipped_manifest_is_pinned_to_the_installed_binding() -> None:
    from importlib.metadata import version

    manifest = load_manifest()
    assert manifest.version == version("llama-cpp-python")
    assert manifest.sdist.file == f"llama_cpp_python-{manifest.version}.tar.gz"
    assert manifest.sdist.sha256[:12] in str(manifest.source_folder)
    assert {"llama-quantize", "llama-imatrix", "llama-perplexity", "llama-bench"} <= set(manifest.build.tools)


def test_the_project_requires_the_same_version() -> None:
    pyproject = Path(__file__).parents[2] / "pyproject.toml"
    match = re.search(r'"llama-cpp-python==([\d.]+)"', pyproject.read_text(encoding="utf-8"))
    assert match is not None and match.group(1) == load_manifest().version


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda m: m["sdist"].pop("sha256"), r"sdist\.sha256: Field required"),
        (lambda m: m["sdist"].update(sha256="abc"), r"sdist\.sha256: String should match"),
        (lambda m: m["sdist"].update(file="../x.tar.gz"), r"sdist\.file"),
        (lambda m: m["sdist"].update(size_bytes=0), r"sdist\.size_bytes"),
        (lambda m: m["llama_cpp"].update(folder="a/../../b"), "leaves the archive"),
        (lambda m: m["build"].update(tools=[]), r"build\.tools"),
        (lambda m: m.update(extra=1), "extra: Extra inputs"),
        (lambda m: m["recipes"][0].update(name="host"), "recipes: host is there twice or reserved"),
        (lambda m: m["recipes"][1].update(name="metal"), "recipes: metal is there twice or reserved"),
        (lambda m: m["recipes"][0].update(flag_sets=["fast"]), "recipe aarch64-armv8-a: no flag set fast"),
        (lambda m: m["recipes"][0].update(built_on="moon"), r"recipes\.0\.built_on"),
        (lambda m: m["recipes"][0].update(flags=["-march=native"]), r"recipes\.0\.flags\.0"),
        (lambda m: m["recipes"][0].update(tools=["../evil"]), r"recipes\.0\.tools\.0"),
        (lambda m: m["recipes"][0].update(name="a/b"), r"recipes\.0\.name"),
        (lambda m: m["recipes"][0].update(source=["src/"]), "aarch64-armv8-a is built here"),
        (lambda m: m["recipes"][-1].update(needs=[]), "metal is built on the board"),
        (lambda m: m["recipes"][-1].update(compiler={"prefix": "x-", "package": "xx"}), "metal is built on the board"),
    ],
)
def test_wrong_fields_are_named(tmp_path: Path, edit: object, words: str) -> None:
    manifest = yaml.safe_load((shipped_dir("runtimes") / MANIFEST_FILE).read_text(encoding="utf-8"))
    edit(manifest)  # type: ignore[operator]
    path = tmp_path / "wrong.yaml"
    path.write_text(yaml.safe_dump(manifest))
    with pytest.raises(RuntimeToolError, match=words) as caught:
        load_manifest(path)
    assert "wrong.yaml" in caught.value.message


@pytest.mark.parametrize("text", ["[", "- 1", ""])
def test_files_that_are_no_manifest(tmp_path: Path, text: str) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    with pytest.raises(RuntimeToolError, match=r"wrong\.yaml"):
        load_manifest(path)
    with pytest.raises(RuntimeToolError, match=r"absent\.yaml"):
        load_manifest(tmp_path / "absent.yaml")
