"""How much of a tensor's sensitivity the features explain: plain ridge regressions, one family left out of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ramp_edge.allocate.cases import ModelCase
from ramp_edge.calibrate.feature_list import FEATURES
from ramp_edge.codec.types import QuantType
from ramp_edge.records import NOISE_SCALE

Float64 = npt.NDArray[np.float64]
TARGET = QuantType.Q4_0
"""The one 4-bit type that every tensor may take."""
_RIDGE = 0.1
GROUPS = {
    "noise, feedback": ("noise", "feedback"),
    "activation": tuple(f.name for f in FEATURES if f.group == "activation"),
    "weight, structure": tuple(f.name for f in FEATURES if f.group != "activation"),
    "all eleven": tuple(f.name for f in FEATURES),
}


def sensitivity(case: ModelCase) -> tuple[Float64, Float64]:
    """(ln of the predicted KL per weight of 4-bit coding, shares of the weights), the first centred on its mean by share."""
    share = case.n_weights / case.n_weights.sum()
    y = np.log(case.kl[:, case.types.index(TARGET)] / case.n_weights)
    return y - share @ y, share


def _columns(case: ModelCase, names: Sequence[str]) -> Float64:
    places = [i for i, f in enumerate(FEATURES) if f.name in names]
    x = case.features[:, places].astype(np.float64)
    extra = [np.ones((len(x), 1))]
    if "depth" in names:
        depth = case.features[:, [i for i, f in enumerate(FEATURES) if f.name == "depth"]]
        extra.append(np.square(2 * depth.astype(np.float64) - 1))
    return np.concatenate([x, *extra], axis=1)


def _spread(error: Float64, share: Float64) -> list[float]:
    """Root mean square of an error: over tensors, and by their share of the weights, each around its own mean."""
    weighted = error - share @ error
    return [float(error.std()), float(np.sqrt(share @ np.square(weighted)))]


def explained(cases: Sequence[ModelCase]) -> dict[str, Any]:
    """Per case: spread of ln sensitivity, and what each group of features leaves unexplained when fitted on the other families."""
    out: dict[str, Any] = {}
    for case in cases:
        y, share = sensitivity(case)
        foreseen = case.features[:, 0] / NOISE_SCALE
        row: dict[str, Any] = {
            "spread": _spread(y, share),
            "noise, nothing fitted": _spread(y - foreseen, share),
        }
        others = [c for c in cases if c.family != case.family]
        for name, names in GROUPS.items():
            a = np.concatenate([_columns(c, names) / np.sqrt(len(c.names)) for c in others])
            b = np.concatenate([sensitivity(c)[0] / np.sqrt(len(c.names)) for c in others])
            beta = np.linalg.solve(a.T @ a + _RIDGE * len(others) / 10 * np.eye(a.shape[1]), a.T @ b)
            row[name] = _spread(y - _columns(case, names) @ beta, share)
        out[case.name] = row
    return out
