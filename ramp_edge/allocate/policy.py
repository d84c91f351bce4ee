"""The trained policy as a build runs it: an ONNX file with its training record, evaluated by onnxruntime, without torch.

`train/onnx_file.py` writes such files; the one that travels with the package is what a build uses. Without any the outline decides: what an actor is
before it has learned anything.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ramp_edge.allocate.cases import Task
from ramp_edge.allocate.episode import N_FEATURES, N_STATE, STATE_NAMES, Episodes, stack
from ramp_edge.codec.types import QuantType
from ramp_edge.errors import PolicyFileError, UsageError

if TYPE_CHECKING:
    import onnxruntime

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
POLICY_VERSION = 3
"""Raise when the meaning of features or state changes."""
EDGE, REACH = 0.01, 1.0
"""The outline stays EDGE from the actions 0 and 1, which lie at infinity before squashing; the network moves it by at most REACH there: 1.75
bits in the middle of the range."""
OUTLINE = N_STATE - len(STATE_NAMES) + STATE_NAMES.index("outline")
FEATURES, CORRECTION = "features", "correction"
"""The first pass, over all tensors: centred features -> ln of the factor by which foreseen KL is wrong."""
STATE, ACTION = "state", "action"
"""Then step by step."""
MOST = 4.0
"""Of a correction, either way: no table of the zoo asks for as much."""
VERSION_KEY, RECORD_KEY = "ramp_edge.policy_version", "ramp_edge.record"


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """A loaded file."""

    path: Path
    session: onnxruntime.InferenceSession
    record: Mapping[str, Any]
    """How it came about: cases, seed, settings, scores."""

    def act(self, states: Float32) -> Float64:
        """States [n, N_STATE] -> actions [n] in [0, 1]: the outline, moved by what was learned. Raises PolicyFileError for what is no number."""
        return self._run(ACTION, np.zeros((0, N_FEATURES), np.float32), states).clip(0.0, 1.0)

    def foresee(self, task: Task) -> Task:
        """The task after the first pass: with corrected errors of all types, from which the outline follows. Raises PolicyFileError for what is no number."""
        return replace(task, relative_kl=self.corrected(task.features, task.n_weights, task.relative_kl))

    def corrected(self, features: Float32, n_weights: Int64, relative_kl: Float64) -> Float64:
        """The first pass: features [n_tensors, 11], weights [n_tensors], foreseen errors [n_tensors, n_types] -> those errors corrected."""
        factor = self._run(CORRECTION, centred(features, n_weights), np.zeros((0, N_STATE), np.float32))
        return np.asarray(relative_kl * np.exp(factor.clip(-MOST, MOST))[:, None], np.float64)

    def _run(self, output: str, features: Float32, states: Float32) -> Float64:
        """onnxruntime wants every input, whatever is asked for."""
        inputs = {FEATURES: features, STATE: np.ascontiguousarray(states, np.float32)}
        out = np.asarray(self.session.run([output], inputs)[0], np.float64)
        if out.shape != (len(features) + len(states),) or not np.isfinite(out).all():
            raise PolicyFileError(f"{self.path} gives {output}s that are not one number for every tensor")
        return out


def centred(features: Float32, n_weights: Int64) -> Float32:
    """Features [n_tensors, 11] less their mean by share of the weights: what the first pass sees."""
    share = n_weights / n_weights.sum()
    return np.asarray(features - share @ features, np.float32)


def load_policy(path: Path) -> Policy:
    """The policy of a file. Raises PolicyFileError for anything else, or one of other features or another version, UsageError without onnxruntime."""
    try:
        import onnxruntime  # here: it takes a fifth of a second, and only builds that ask the policy want it
    except ImportError as error:
        raise UsageError(
            f"a trained policy needs onnxruntime: {error}",
            hint="pip install onnxruntime, or --policy outline, which needs none",
        ) from error

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
        metadata = session.get_modelmeta().custom_metadata_map
        record = json.loads(metadata.get(RECORD_KEY, "{}"))
    except FileNotFoundError:
        raise PolicyFileError(f"{path}: no such file") from None
    except Exception as error:  # onnxruntime has no base class of its own for what it raises
        raise PolicyFileError(f"{path} is no policy: {str(error).splitlines()[0]}") from error
    version = metadata.get(VERSION_KEY)
    if version is None:
        raise PolicyFileError(f"{path} is an ONNX file, but no policy of ramp-edge")
    if version != str(POLICY_VERSION):
        raise PolicyFileError(f"{path} is a policy of version {version}, this ramp-edge reads version {POLICY_VERSION}")
    takes = [(i.name, i.shape[-1] if i.shape else None) for i in session.get_inputs()]
    gives = [o.name for o in session.get_outputs()]
    if takes != [(FEATURES, N_FEATURES), (STATE, N_STATE)] or gives != [CORRECTION, ACTION]:
        raise PolicyFileError(
            f"{path} takes {takes} and gives {gives}; a policy takes {FEATURES} of {N_FEATURES} numbers and a {STATE} of {N_STATE}, "
            f"and gives a {CORRECTION} and an {ACTION}"
        )
    return Policy(path=path, session=session, record=record)


def allocate(policy: Policy | None, task: Task) -> dict[str, QuantType]:
    """Decide a whole model; without a policy its outline alone."""
    if policy is not None:
        task = policy.foresee(task)
    episodes = Episodes(stack([task]), np.zeros(1, np.int64))
    while not episodes.done:
        state = episodes.observe()
        episodes.step(policy.act(state) if policy is not None else 0.5 * (state[:, OUTLINE].astype(np.float64) + 1.0))
    return {name: task.types[column] for name, column in zip(task.names, episodes.columns[0], strict=True)}
