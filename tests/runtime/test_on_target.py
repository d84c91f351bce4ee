"""What is sent to a board that builds for itself: no more than it compiles, the same bytes every time, and it configures."""

from __future__ import annotations

import os
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from ramp_edge.errors import RuntimeToolError
from ramp_edge.events import Event, EventBus, StageAdvanced
from ramp_edge.runtime.manifest import RuntimeManifest, load_manifest
from ramp_edge.runtime.on_target import pack_source, source_files, target_build
from ramp_edge.runtime.recipes import recipe_named

Pack = Callable[..., tuple[RuntimeManifest, Path]]
ROOT = "toy-1.0/vendor/llama.cpp"
FILES = {
    f"{ROOT}/{name}": data
    for name, data in {
        ".git": b"gitdir: elsewhere",
        "CMakeLists.txt": b"project(toy)",
        "convert_hf_to_gguf.py": b"print('hello')\n",
        "gguf-py/gguf/__init__.py": b"",
        "src/cpu.c": b"int main;",
        "src/gpu-own/kernel.cu": b"kernel",
        "src/gpu-other/kernel.cl": b"kernel",
    }.items()
}
SENT = ("CMakeLists.txt", "convert_hf_to_gguf.py", "src/cpu.c", "src/gpu-own/kernel.cu")


def test_the_board_gets_what_it_compiles(pack: Pack) -> None:
    manifest, sdist = pack(FILES)
    recipe = recipe_named("gpu", manifest)
    seen: list[Event] = []
    archive = pack_source(recipe, EventBus([seen.append]), sdist, manifest)
    assert source_files(recipe, manifest) == SENT and archive.n_files == len(SENT)
    assert max(
        event.done for event in seen if isinstance(event, StageAdvanced) and event.name.startswith("pack")
    ) == len(SENT)
    with tarfile.open(archive.path) as tar:
        members = tar.getmembers()
        assert tuple(member.name for member in members) == SENT
        assert {(m.uid, m.gid, m.uname, m.mode, m.mtime) for m in members} == {(0, 0, "", 0o644, 946684800)}
        stream = tar.extractfile("src/gpu-own/kernel.cu")
        assert stream is not None and stream.read() == b"kernel"
    assert archive.size_bytes == archive.path.stat().st_size


def test_the_same_source_gives_the_same_hash(pack: Pack) -> None:
    manifest, sdist = pack(FILES)
    recipe = recipe_named("gpu", manifest)
    first = pack_source(recipe, EventBus(), sdist, manifest)
    for path in manifest.source_folder.rglob("*"):
        os.utime(path, (1, 1))
        path.chmod(0o755)
    assert pack_source(recipe, EventBus(), None, manifest) == first
    (manifest.source_folder / "src/cpu.c").write_bytes(b"int main2;")
    assert pack_source(recipe, EventBus(), None, manifest).sha256 != first.sha256


def test_the_commands(pack: Pack) -> None:
    manifest, _ = pack()
    recipe = recipe_named("gpu", manifest)
    plan = target_build(recipe, archive="/home/a b/source.tar.gz", folder="/home/a b", jobs=3, manifest=manifest)
    assert plan.commands == (
        ("mkdir", "-p", "/home/a b/source"),
        ("tar", "-xzf", "/home/a b/source.tar.gz", "-C", "/home/a b/source"),
        ("cmake", "-S", "/home/a b/source", "-B", "/home/a b/build", "-DCOMMON=a b", "-DLLAMA_BUILD_COMMIT=0123456", "-DGPU=ON"),
        ("cmake", "--build", "/home/a b/build", "-j", "3", "--target", "llama-toy"),
    )  # fmt: skip
    assert plan.tools == {"llama-toy": "/home/a b/build/bin/llama-toy"}
    for archive, folder in (("source.tar.gz", "/home"), ("/source.tar.gz", "-rf")):
        with pytest.raises(ValueError, match="is not absolute"):
            target_build(recipe, archive=archive, folder=folder, jobs=1, manifest=manifest)


def test_what_is_built_here_is_not_sent_as_source(pack: Pack) -> None:
    manifest, sdist = pack(FILES)
    recipe = recipe_named("board", manifest)
    with pytest.raises(RuntimeToolError, match="board is built here") as caught:
        pack_source(recipe, EventBus(), sdist, manifest)
    assert caught.value.hint == "ramp-edge runtime build board"
    with pytest.raises(RuntimeToolError, match="board is built here"):
        target_build(recipe, archive="/a", folder="/b", jobs=1, manifest=manifest)


@pytest.mark.parametrize("name", ["cuda-sm87", "metal"])
def test_what_is_sent_configures(name: str, llama_source: Path, tmp_path: Path) -> None:
    """On this machine, so without the GPU's own flags."""
    manifest = load_manifest()
    manifest.folder.mkdir(parents=True)
    manifest.source_folder.symlink_to(llama_source)
    recipe = recipe_named(name, manifest).model_copy(update={"flags": ()})
    archive = pack_source(recipe, EventBus(), None, manifest)
    assert archive.size_bytes < 5_000_000
    plan = target_build(recipe, archive=str(archive.path), folder=str(tmp_path / "board"), jobs=1, manifest=manifest)
    *before, build = plan.commands
    for command in before:
        subprocess.run(command, check=True, capture_output=True)
    # What make knows how to build holds every tool.
    listed = subprocess.run([*build[:3], "--target", "help"], check=True, capture_output=True, text=True).stdout
    for tool in recipe.tools:
        assert tool in listed.replace(":", " ").split(), f"{tool} is no target of what was sent"
    assert manifest.llama_cpp.commit in (tmp_path / "board/build/common/build-info.cpp").read_text(encoding="utf-8")
