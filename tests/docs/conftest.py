"""A scratch folder as the pages of documentation suppose it: models, texts, builds, boards behind a real SSH server."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from typer.testing import CliRunner

from ramp_edge.cli.main import app
from ramp_edge.errors import RampEdgeError
from ramp_edge.model.synthetic import Shape
from ramp_edge.pipeline import probe as pipeline_probe

ROOT = Path(__file__).parents[2]
_TARGETS = """\
targets:
  board: {{host: "{user}@127.0.0.1:{port}", profile: x86-avx512-32gb, folder: board}}
  kitchen-pi: {{host: "{user}@127.0.0.1:{port}", profile: raspberry-pi-5-8gb, folder: kitchen, tags: [lab]}}
"""
_NEW_BOARD = """\
  new-pi: {{host: "{user}@localhost:{port}", profile: raspberry-pi-5-8gb}}
"""
"""Its host key is on no record: only where a page shows the error."""


def _module(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


class Outcome:
    """How a command ended."""

    def __init__(self, code: int, stdout: str, stderr: str) -> None:
        self.code, self.stdout, self.stderr = code, stdout, stderr


class World:
    """Runs commands in a folder; `root` is never changed, each run of a page's commands has a copy of its own."""

    def __init__(self, root: Path, address: str) -> None:
        self.root, self.address = root, address

    def run(self, args: list[str]) -> Outcome:
        """In process, as the command line's entry point would: errors become their exit codes and messages."""
        result = CliRunner().invoke(app, args)
        error, stderr = result.exception, result.stderr
        code = result.exit_code
        if isinstance(error, RampEdgeError):
            code, stderr = error.exit_code, f"{stderr}ramp-edge: error: {error.message}\n  -> {error.hint}\n"
        elif error is not None and not isinstance(error, SystemExit):
            raise error
        return Outcome(code, result.stdout, stderr)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """An SSH server of this machine, its keys and its clients' home."""
    loopback = _module("loopback_sshd", ROOT / "tools" / "loopback_sshd.py")
    if loopback.sshd_program() is None:
        pytest.skip("no sshd here: install OpenSSH's server")
    started = loopback.LoopbackSshd(tmp_path_factory.mktemp("sshd"))
    started.start()
    yield started
    started.stop()


@pytest.fixture(scope="module")
def world(
    server: Any, tiny_gguf: Path, tiny_hf_model: Callable[[str], Path], llama_bin: Path, llama_source: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[World]:  # fmt: skip
    """Everything that the pages take for granted, made by real commands: `llama_source` is what converts HF models."""
    root = tmp_path_factory.mktemp("world")
    with pytest.MonkeyPatch.context() as patch:
        _environment(patch, server, tmp_path_factory, llama_source)
        made = World(root, server.address)
        _files(root, tiny_gguf, tiny_hf_model)
        patch.chdir(root)
        for args in (
            [
                "build",
                "model-f16.gguf",
                "--device",
                "raspberry-pi-5",
                "--effort",
                "fast",
                "-o",
                "out-small",
                "--target-bpw",
                "4",
            ],
            ["build", "model-f16.gguf", "--device", "raspberry-pi-5", "--effort", "fast"],
        ):
            done = made.run(args)
            assert done.code == 0, done.stderr
        targets = _TARGETS.format(user=server.user, port=server.port)
        (root / "targets.yaml").write_text(targets)
        (root / "more-targets.yaml").write_text(targets + _NEW_BOARD.format(user=server.user, port=server.port))
        patch.setenv("RAMP_EDGE_TARGETS", str(root / "targets.yaml"))
        for target in ("board", "kitchen-pi", server.address):
            for build in ("out-small", "out"):  # two releases, so that there is one to roll back to
                done = made.run(["deploy", build, "--target", target, "--runtime", "none"])
                assert done.code == 0, done.stderr
        done = made.run(["eval", "out", "--tasks", "openbookqa,piqa", "--task-data", "DIR", "--json"])
        assert done.code == 0, done.stderr
        (root / "eval.json").write_text(done.stdout, encoding="utf-8")
        for command in (
            [
                "bench",
                "out",
                "--target",
                "local",
                "--threads",
                "1",
                "--depths",
                "0",
                "--runtime",
                str(llama_bin),
                "-o",
                "kitchen.json",
            ],
            ["gate", "init", "out", "-o", "budgets.yaml"],
        ):
            done = made.run(command)
            assert done.code == 0, done.stderr
        (root / "kitchen.html").unlink()
        shutil.copy(root / "kitchen.json", root / "desk.json")
        for copy in ("baseline", "my-model"):
            shutil.copytree(root / "out", root / copy)
        yield made


def _environment(patch: pytest.MonkeyPatch, server: Any, folders: pytest.TempPathFactory, source: Path) -> None:
    """Nothing of whoever runs the tests; a cache of its own, with the fetched source of llama.cpp in it; a quick probe."""
    cache = folders.mktemp("cache")
    from ramp_edge.runtime.manifest import load_manifest
    from ramp_edge.shipped import cache_dir

    inside = source.relative_to(cache_dir())
    (cache / inside).parent.mkdir(parents=True, exist_ok=True)
    (cache / inside).symlink_to(source)
    patch.setenv("RAMP_EDGE_CACHE", str(cache))
    assert load_manifest().source_folder.is_dir()
    patch.setenv("HOME", str(server.client_home))
    patch.setenv("RAMP_EDGE_CONFIG", str(folders.mktemp("config")))
    patch.setenv("RAMP_EDGE_PROGRESS", "off")
    patch.setenv("COLUMNS", "160")
    patch.delenv("SSH_AUTH_SOCK", raising=False)
    patch.setattr("ramp_edge.device.probe_runs.REPEAT_S", 0.02)
    for name, shape in {
        "WIDE": Shape(n_embd=512, n_layer=1, n_vocab=512),
        "DEEP": Shape(n_embd=256, n_layer=4, n_vocab=512),
        "SMALL": Shape(n_embd=256, n_layer=1, n_vocab=512),
        "SMALL_DEEP": Shape(n_embd=256, n_layer=2, n_vocab=512),
    }.items():
        patch.setattr(pipeline_probe, name, shape)


def _files(root: Path, tiny_gguf: Path, tiny_hf_model: Callable[[str], Path]) -> None:
    tasks = _module("docs_task_files", ROOT / "tests" / "evaluate" / "tasks" / "conftest.py")
    texts = _module("docs_texts", ROOT / "tests" / "conftest.py")
    shutil.copy(tiny_gguf, root / "model-f16.gguf")
    (root / "model-f16.gguf").chmod(0o644)
    shutil.copytree(tiny_hf_model("llama"), root / "SmolLM2-135M")
    (root / "text.txt").write_text(texts.generated_text(12_000), encoding="utf-8")
    (root / "wiki.test.raw").write_text(texts.generated_text(6_000, seed=1), encoding="utf-8")
    (root / "short.txt").write_text("A few words.\n", encoding="utf-8")
    (root / "cut.gguf").write_bytes(tiny_gguf.read_bytes()[:100_000])
    tasks.write_tasks(root / "DIR", 8)
    for name, base in (
        ("board", "x86-avx512-32gb"),
        ("kitchen-pi", "raspberry-pi-5-8gb"),
        ("my-pi", "raspberry-pi-5-8gb"),
    ):
        (root / f"{name}.yaml").write_text(f"title: {name}\nextends: {base}\n", encoding="utf-8")
    profile = (ROOT / "docs" / "writing-a-profile.md").read_text(encoding="utf-8").split("```yaml\n")[1].split("```")[0]
    (root / "my-board.yaml").write_text(profile, encoding="utf-8")
    (root / "notes.html").write_text("<p>mine</p>", encoding="utf-8")
    (root / "tight.yaml").write_text("defaults:\n  - size_bytes <= 1 kB\n", encoding="utf-8")
    (root / "speed.yaml").write_text("defaults:\n  - decode_tok_s.median >= 12\n", encoding="utf-8")
    (root / "wrong.yaml").write_text("defaults:\n  - size_byte <= 1 MB\n", encoding="utf-8")
    (root / "package.json").write_text(json.dumps({}), encoding="utf-8")
