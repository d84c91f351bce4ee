"""Reference runs on disk: one `.npz` a run, named by a hash of everything that decides its numbers."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ramp_edge.cache import cached_file
from ramp_edge.evaluate.perplexity import WindowPlan

CODE_VERSION = 1
"""Raise it when the meaning of the stored numbers changes."""


def reference_key(*, model_sha256: str, plan: WindowPlan, engine_version: str) -> str:
    """Hex key of a model, its windows and the code that evaluated them."""
    digest = hashlib.sha256()
    digest.update(f"{CODE_VERSION}|{engine_version}|{model_sha256}|{plan.tokens.shape}|".encode())
    digest.update(np.ascontiguousarray(plan.tokens, dtype="<i4").tobytes())
    return digest.hexdigest()[:32]


def load_arrays(path: Path) -> dict[str, npt.NDArray[Any]] | None:
    """The stored arrays, or None where there are none or they are damaged (then they are made again)."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return None


def save_arrays(path: Path, arrays: dict[str, npt.NDArray[Any]]) -> None:
    """Store the arrays; they appear whole or not at all. Raises CacheError where the disk refuses."""
    with cached_file(path) as stream:
        np.savez(stream, **arrays)  # type: ignore[arg-type]
