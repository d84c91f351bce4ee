"""The built wheel, installed away from the checkout, compiles its embedded model."""

from __future__ import annotations

import json
import os
import site
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """bin folder of an environment that has the wheel; its dependencies are this environment's, the checkout is not."""
    folder = tmp_path_factory.mktemp("wheel")

    def python(*arguments: str) -> None:
        subprocess.run(
            [sys.executable, "-m", *arguments], check=True, capture_output=True, cwd=folder,
            env=_clean_environment(folder),
        )  # fmt: skip

    python("build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT))
    (wheel,) = folder.glob("*.whl")
    assert wheel.stat().st_size < 16 * 2**20
    python("venv", "--without-pip", str(folder / "venv"))
    target = folder / "venv" / "bin" / "python"
    python("pip", "--python", str(target), "install", "--no-deps", "--no-index", str(wheel))
    (packages,) = (folder / "venv" / "lib").glob("python3.*/site-packages")
    # Paths that a .pth file adds do not have their own .pth files read: an editable install stays out.
    (packages / "dependencies.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    return target.parent


def _clean_environment(cache: Path) -> dict[str, str]:
    dropped = ("PYTHONPATH", "VIRTUAL_ENV")
    return {**{k: v for k, v in os.environ.items() if k not in dropped}, "RAMP_EDGE_CACHE": str(cache / "cache")}


def test_nothing_comes_from_the_checkout(installed: Path, tmp_path: Path) -> None:
    script = "import ramp_edge; from ramp_edge.shipped import shipped_dir; print(shipped_dir('runtimes'))"
    result = subprocess.run(
        [installed / "python", "-c", script], check=True, capture_output=True, text=True, cwd=tmp_path,
        env=_clean_environment(tmp_path),
    )  # fmt: skip
    assert Path(result.stdout.strip()).is_relative_to(installed.parent)


@pytest.mark.slow
def test_the_wheel_builds_its_embedded_model(installed: Path, tmp_path: Path) -> None:
    result = subprocess.run(
        [installed / "ramp-edge", "build", "--device", "raspberry-pi-5", "--effort", "fast", "--json", "-o", "out"],
        check=False, capture_output=True, text=True, cwd=tmp_path, env=_clean_environment(tmp_path),
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    record = json.loads(result.stdout)
    assert record["device"]["name"] == "raspberry-pi-5-8gb"
    assert record["file_bytes"] == (tmp_path / "out" / "model.gguf").stat().st_size
    assert record["evaluation"]["divergence"]["mean_kl"] < 0.02  # measured 0.0060
    assert record["file_sha256"] in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
