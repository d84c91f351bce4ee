"""The trained policy as a build runs it: a small file of weights and its training record, evaluated in numpy.

Why not an ONNX runtime: the network is two hidden layers of a few dozen units. numpy gives torch's numbers to the last digits in microseconds, and a build on a small
machine needs no further dependency of tens of megabytes. The file is an npz of named matrices that any tool can read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ramp_edge.allocate.cases import Task
from ramp_edge.allocate.episode import N_STATE, STATE_NAMES, Episodes, stack
from ramp_edge.beside import written_beside
from ramp_edge.codec.types import QuantType
from ramp_edge.errors import PolicyFileError

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
POLICY_VERSION = 2
EDGE, REACH = 0.01, 1.0
"""The outline stays EDGE from the actions 0 and 1, which lie at infinity before squashing; the network moves it by at most REACH there: 1.75
bits in the middle of the range."""
_LAYERS = ("hidden.0", "hidden.2", "mean")


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """Weights by name, as torch names them, and how they came about."""

    weights: Mapping[str, Float32]
    record: Mapping[str, Any]
    """Cases, seed, settings, scores."""

    def act(self, states: Float32) -> Float64:
        """States [n, N_STATE] -> actions [n] in [0, 1]: the outline, moved by what was learned."""
        h = states
        for layer in _LAYERS[:-1]:
            h = _silu(h @ self.weights[f"{layer}.weight"].T + self.weights[f"{layer}.bias"])
        moved = np.tanh(h @ self.weights["mean.weight"].T + self.weights["mean.bias"])[:, 0]
        start = (0.5 * (states[:, OUTLINE] + 1.0)).clip(EDGE, 1.0 - EDGE).astype(np.float64)
        return np.asarray(1.0 / (1.0 + np.exp(-(np.log(start) - np.log1p(-start) + REACH * moved))), np.float64)

    def save(self, path: Path) -> None:
        """Write the file beside, then rename."""
        with written_beside(path) as partial, partial.open("wb") as stream:
            record = np.array(json.dumps({**self.record, "version": POLICY_VERSION}))
            arrays: dict[str, Any] = {"record": record, **self.weights}
            np.savez(stream, **arrays)


OUTLINE = N_STATE - len(STATE_NAMES) + STATE_NAMES.index("outline")


def _silu(x: Float32) -> Float32:
    # x sigmoid(x), in a form that overflows nowhere.
    return np.asarray(0.5 * x * (1.0 + np.tanh(0.5 * x)), np.float32)


def load_policy(path: Path) -> Policy:
    """The policy of a file. Raises PolicyFileError for anything else, or one of other features or another version."""
    try:
        with np.load(path, allow_pickle=False) as data:
            record = json.loads(str(data["record"]))
            weights = {name: data[name].astype(np.float32) for name in data.files if name != "record"}
    except FileNotFoundError:
        raise PolicyFileError(f"{path}: no such file") from None
    except Exception as error:  # numpy lets errors of zip and header parsers through
        raise PolicyFileError(f"{path} is no policy: {error}") from error
    version = record.get("version")
    if version != POLICY_VERSION:
        raise PolicyFileError(f"{path} is a policy of version {version}, this ramp-edge reads version {POLICY_VERSION}")
    missing = [n for layer in _LAYERS for n in (f"{layer}.weight", f"{layer}.bias") if n not in weights]
    if missing:
        raise PolicyFileError(f"{path} lacks {', '.join(missing)}")
    shapes = [weights[f"{layer}.weight"].shape for layer in _LAYERS]
    if shapes[0][1] != N_STATE or shapes[1][1] != shapes[0][0] or shapes[2] != (1, shapes[1][0]):
        raise PolicyFileError(f"{path} has layers of {shapes}, which do not take a state of {N_STATE} numbers")
    if not all(np.isfinite(w).all() for w in weights.values()):
        raise PolicyFileError(f"{path} holds weights that are not finite")
    return Policy(weights=weights, record=record)


def allocate(policy: Policy | None, task: Task) -> dict[str, QuantType]:
    """Decide a whole model; without a policy its outline alone."""
    episodes = Episodes(stack([task]), np.zeros(1, np.int64))
    while not episodes.done:
        state = episodes.observe()
        episodes.step(policy.act(state) if policy is not None else 0.5 * (state[:, OUTLINE].astype(np.float64) + 1.0))
    return {name: task.types[column] for name, column in zip(task.names, episodes.columns[0], strict=True)}
