"""The import direction, third-party doors and the lightness of --help, read from the sources themselves."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import ramp_edge

PACKAGE = Path(ramp_edge.__file__).parent
STAGES = {
    "model",
    "profile",
    "calibrate",
    "allocate",
    "quantize",
    "fold",
    "emit",
    "evaluate",
    "runtime",
    "device",
    "gate",
    "report",
}
RANK = {
    "errors": 0,
    "events": 0,
    "units": 0,
    "codec": 1,
    "records": 2,
    "shipped": 1,
    "cache": 1,
    "threads": 0,
    "compiled": 0,
    "feedback_root": 0,
    "plain_rounding": 0,
    "beside": 0,
    "plain": 0,
    "record_files": 0,
    "record_parts": 0,
    "yaml_source": 1,
    "allocator_settings": 0,
    "data": 0,
    **dict.fromkeys(STAGES, 3),
    "pipeline": 4,
    "train": 5,
    "build": 5,
    "cli": 6,
    "__main__": 7,
}
"""A unit may import units of a lower rank only; stages share a rank and so never import each other."""
DOORS = {
    "llama_cpp": ("codec/libllama.py",),
    "transformers": ("model/",),
    "huggingface_hub": ("model/",),
    "safetensors": ("model/",),
    "typer": ("cli/",),
    "rich": ("cli/",),
    "yaml": ("yaml_source.py", "profile/", "runtime/"),
    "pydantic": ("record_parts.py", "profile/", "runtime/", "device/", "gate/", "report/"),
    "jinja2": ("report/",),
    "markupsafe": ("report/",),
    "paramiko": ("device/ssh",),
    "platformdirs": ("shipped.py",),
    "gguf": ("codec/", "model/"),
    "numba": ("compiled.py",),
    "highspy": ("allocate/exact.py",),
    "gymnasium": ("allocate/environment.py",),
    "torch": (
        "feedback_root.py",
        "plain_rounding.py",
        "calibrate/",
        "quantize/",
        "evaluate/",
        "build.py",
        "pipeline/",
        "cli/build.py",
        "train/",
    ),
    "tensorboard": ("cli/train.py",),
    "onnxruntime": ("allocate/policy.py",),
    "onnx": ("train/onnx_file.py", "cli/train.py"),
}
"""Third-party package -> the only places that may import it."""


@dataclass(frozen=True)
class Import:
    """One import statement's target."""

    file: Path
    line: int
    module: str

    @property
    def place(self) -> str:
        return self.file.relative_to(PACKAGE).as_posix()

    def __str__(self) -> str:
        return f"{self.place}:{self.line} imports {self.module}"


def imports_in(file: Path) -> Iterator[Import]:
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(file, node.lineno, alias.name)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: imports are absolute"
            # `from ramp_edge.cli import devices` names a module as much as `import ramp_edge.cli.devices` does.
            for alias in node.names:
                yield Import(file, node.lineno, f"{node.module}.{alias.name}")


ALL = [found for file in sorted(PACKAGE.rglob("*.py")) for found in imports_in(file)]


def unit_of(parts: tuple[str, ...]) -> str:
    return parts[0].removesuffix(".py") if parts else ""


def importer_unit(found: Import) -> str:
    return unit_of(found.file.relative_to(PACKAGE).parts)


def test_the_walk_sees_the_package() -> None:
    assert len({found.file for found in ALL}) > 30
    assert any(found.module.startswith("ramp_edge.codec.types") for found in ALL)


def test_every_part_of_the_package_has_a_rank() -> None:
    units = {unit_of(file.relative_to(PACKAGE).parts) for file in PACKAGE.rglob("*.py")} - {"__init__"}
    assert units <= set(RANK), f"give {units - set(RANK)} a rank"


def test_imports_point_downwards() -> None:
    wrong = []
    for found in ALL:
        parts = tuple(found.module.split("."))
        own = importer_unit(found)
        if parts[0] != "ramp_edge" or own == "__init__":
            continue
        target = parts[1] if parts[1] in RANK else None
        # `from ramp_edge import __version__` reaches the package itself, which imports nothing.
        if target is not None and target != own and RANK[target] >= RANK[own]:
            wrong.append(str(found))
    assert not wrong, "\n".join(wrong)


def test_the_package_itself_imports_nothing() -> None:
    assert not [found for found in ALL if found.place == "__init__.py" and not found.module.startswith("__future__")]


@pytest.mark.parametrize("package", sorted(DOORS))
def test_third_party_packages_have_their_doors(package: str) -> None:
    users = [found for found in ALL if found.module.split(".")[0] == package]
    wrong = [str(found) for found in users if not found.place.startswith(DOORS[package])]
    assert not wrong, "\n".join(wrong)


def test_only_the_package_s_own_dependencies_are_imported() -> None:
    known = set(DOORS) | set(sys.stdlib_module_names) | {"ramp_edge", "numpy", "__future__"}
    wrong = [str(found) for found in ALL if found.module.split(".")[0] not in known]
    assert not wrong, "\n".join(wrong)


def test_library_code_never_prints() -> None:
    calls = []
    for file in sorted(PACKAGE.rglob("*.py")):
        if file.relative_to(PACKAGE).parts[0] == "cli":
            continue
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
                calls.append(f"{file}:{node.lineno}")
    assert not calls


HEAVY = ("torch", "llama_cpp", "transformers", "numba", "paramiko", "gymnasium")
_HELP = """
import sys
from ramp_edge.cli.main import app
try:
    app(sys.argv[1:])
except SystemExit as stop:
    assert not stop.code, stop.code
print("HEAVY", [name for name in {heavy!r} if name in sys.modules])
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["build", "--help"],
        ["devices", "--help"],
        ["devices", "list"],
        ["run", "--help"],
        ["bench", "--help"],
        ["gate", "--help"],
        ["report", "--help"],
        ["probe", "--help"],
        ["deploy", "--help"],
        ["targets", "check", "--help"],
        ["train", "--help"],
    ],
    ids=" ".join,
)
def test_help_is_light(arguments: list[str], tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", _HELP.format(heavy=HEAVY), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "RAMP_EDGE_CONFIG": str(tmp_path), "PYTHONPATH": str(PACKAGE.parent)},
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[-1] == "HEAVY []", run.stdout
