"""A private cache per test session, and requests on the tiny model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ramp_edge.pipeline.request import BuildRequest, Effort


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def cached(shared_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Calibration is shared between the tests that do not look at it."""
    monkeypatch.setenv("RAMP_EDGE_CACHE", str(shared_cache))
    return shared_cache


@pytest.fixture
def tiny_request(tiny_gguf: Path, tmp_path: Path, cached: Path) -> Callable[..., BuildRequest]:
    """Requests on the tiny model, into a folder of the test."""

    def make(**changes: object) -> BuildRequest:
        settings: dict[str, object] = {
            "model": str(tiny_gguf),
            "device": "raspberry-pi-5",
            "output": tmp_path / "out",
            "effort": Effort.FAST,
            "threads": 2,
        }
        return BuildRequest(**{**settings, **changes})  # type: ignore[arg-type]

    return make
