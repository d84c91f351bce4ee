"""Names to roles, and what llama.cpp never quantizes."""

from __future__ import annotations

import pytest

from ramp_edge.model.roles import kept_reason, layer_of, role_of
from ramp_edge.records import Role


@pytest.mark.parametrize(
    ("name", "shape", "role", "layer", "kept"),
    [
        ("token_embd.weight", (256, 500), Role.TOKEN_EMBD, None, ""),
        ("output.weight", (256, 500), Role.OUTPUT, None, ""),
        ("output_norm.weight", (256,), Role.NORM, None, "normalisation"),
        ("blk.0.attn_q.weight", (256, 256), Role.ATTN_Q, 0, ""),
        ("blk.11.attn_output.weight", (256, 256), Role.ATTN_OUTPUT, 11, ""),
        ("blk.3.attn_q_norm.weight", (64,), Role.NORM, 3, "normalisation"),
        ("blk.3.post_attention_norm.weight", (64,), Role.NORM, 3, "normalisation"),
        ("blk.3.attn_q.bias", (256,), Role.BIAS, 3, "biases"),
        ("blk.3.ffn_gate_inp.weight", (256, 8), Role.OTHER, 3, "ffn_gate_inp"),
        ("blk.3.ffn_down_exps.weight", (256, 256, 8), Role.OTHER, 3, "expert"),
        ("blk.3.ssm_conv1d.weight", (4, 256), Role.OTHER, 3, "ssm_conv1d"),
        ("rope_freqs.weight", (32,), Role.OTHER, None, "one-dimensional"),
        ("blk.3.attn_sinks.table", (8, 8), Role.OTHER, 3, "only weights"),
        ("blk.x.attn_q.weight", (256, 256), Role.OTHER, None, ""),
    ],
)
def test_role_layer_and_reason(name: str, shape: tuple[int, ...], role: Role, layer: int | None, kept: str) -> None:
    assert role_of(name) is role
    assert layer_of(name) == layer
    reason = kept_reason(name, shape)
    assert (reason is None) == (kept == "")
    assert kept in (reason or "")
