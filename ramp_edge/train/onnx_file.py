"""The trained policy as an ONNX file: correction and actor, each its whole way from input to output, and the training record as metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, checker, helper, numpy_helper

from ramp_edge.allocate.episode import N_FEATURES, N_STATE
from ramp_edge.allocate.policy import (
    ACTION,
    CORRECTION,
    EDGE,
    FEATURES,
    OUTLINE,
    POLICY_VERSION,
    REACH,
    RECORD_KEY,
    STATE,
    VERSION_KEY,
)
from ramp_edge.beside import written_beside

Float32 = npt.NDArray[np.float32]
_OPSET, _IR_VERSION = 17, 8
"""Old enough for every onnxruntime of the last years."""


def write_policy(path: Path, weights: Mapping[str, Float32], record: Mapping[str, Any]) -> None:
    """Weights by the names that torch gives them: the actor's (`hidden.0`, `hidden.2`, `mean`) and the correction's (`correction.first` to `.last`);
    the file appears whole or not at all."""
    constants: dict[str, npt.NDArray[Any]] = {
        "outline_column": np.array([OUTLINE], np.int64),
        "one": np.array(1.0, np.float32),
        "half": np.array(0.5, np.float32),
        "least": np.array(EDGE, np.float32),
        "most": np.array(1.0 - EDGE, np.float32),
        "reach": np.array(REACH, np.float32),
        "last_axis": np.array([1], np.int64),
        **{name: np.ascontiguousarray(value, np.float32) for name, value in weights.items()},
    }
    node = helper.make_node
    nodes = [
        *_layer("correction.first", FEATURES, "c1"),
        *_silu("c1", "c1_out"),
        *_layer("correction.second", "c1_out", "c2"),
        *_silu("c2", "c2_out"),
        *_layer("correction.third", "c2_out", "c3"),
        *_silu("c3", "c3_out"),
        *_layer("correction.last", "c3_out", "c_last"),
        node("Squeeze", ["c_last", "last_axis"], [CORRECTION]),
        *_layer("hidden.0", STATE, "first"),
        *_silu("first", "first_out"),
        *_layer("hidden.2", "first_out", "second"),
        *_silu("second", "second_out"),
        *_layer("mean", "second_out", "mean_out"),
        node("Tanh", ["mean_out"], ["moved"]),
        node("Mul", ["moved", "reach"], ["move"]),
        # Where the mean starts: the outline's bits, as an action before squashing.
        node("Gather", [STATE, "outline_column"], ["outline"], axis=1),
        node("Add", ["outline", "one"], ["outline_up"]),
        node("Mul", ["outline_up", "half"], ["share"]),
        node("Clip", ["share", "least", "most"], ["start"]),
        node("Sub", ["one", "start"], ["start_rest"]),
        node("Div", ["start", "start_rest"], ["odds"]),
        node("Log", ["odds"], ["start_logit"]),
        node("Add", ["start_logit", "move"], ["logit"]),
        node("Sigmoid", ["logit"], ["squashed"]),
        node("Squeeze", ["squashed", "last_axis"], [ACTION]),
    ]
    graph = helper.make_graph(
        nodes,
        "ramp_edge_policy",
        [
            helper.make_tensor_value_info(FEATURES, TensorProto.FLOAT, ["tensors", N_FEATURES]),
            helper.make_tensor_value_info(STATE, TensorProto.FLOAT, ["n", N_STATE]),
        ],
        [
            helper.make_tensor_value_info(CORRECTION, TensorProto.FLOAT, ["tensors"]),
            helper.make_tensor_value_info(ACTION, TensorProto.FLOAT, ["n"]),
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION, producer_name="ramp-edge"
    )
    helper.set_model_props(model, {VERSION_KEY: str(POLICY_VERSION), RECORD_KEY: json.dumps(dict(record))})
    checker.check_model(model)
    with written_beside(path) as partial:
        partial.write_bytes(model.SerializeToString())


def _layer(name: str, source: str, target: str) -> list[Any]:
    return [helper.make_node("Gemm", [source, f"{name}.weight", f"{name}.bias"], [target], transB=1)]


def _silu(source: str, target: str) -> list[Any]:
    gate = f"{source}_gate"
    return [helper.make_node("Sigmoid", [source], [gate]), helper.make_node("Mul", [source, gate], [target])]
