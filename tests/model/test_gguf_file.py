"""Opening a model: inventory, refusals, values that are not finite."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ramp_edge.codec.types import QuantType
from ramp_edge.errors import ModelFileError, RampEdgeError, UnsupportedModelError
from ramp_edge.events import EventBus
from ramp_edge.model.gguf_file import GgufTensors, check_finite, open_inventory
from ramp_edge.model.hyperparameters import read_hyperparameters
from ramp_edge.records import Role

Make = Callable[..., Path]


def rewrite(source: Path, target: Path, changes: dict[str, Any], drop: tuple[str, ...] = ()) -> Path:
    """A copy with metadata `changes` (key -> value, None removes it) and without the tensors in `drop`."""
    reader = gguf.GGUFReader(source)
    arch = changes.get("general.architecture", "llama")
    writer = gguf.GGUFWriter(target, arch)
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture" or name in changes:
            continue
        sub_type = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), field.types[0], sub_type)
    for name, value in changes.items():
        if value is None or name == "general.architecture":
            continue
        if isinstance(value, list):
            writer.add_array(name, value)
        elif isinstance(value, str):
            writer.add_string(name, value)
        elif isinstance(value, bool):
            writer.add_bool(name, value)
        elif isinstance(value, int):
            writer.add_uint32(name, value)
        else:
            writer.add_float32(name, value)
    for tensor in reader.tensors:
        if tensor.name not in drop:
            writer.add_tensor(tensor.name, np.array(tensor.data), raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def test_inventory_of_a_tied_model(tiny_gguf: Path) -> None:
    inventory, tensors = open_inventory(tiny_gguf)
    assert inventory.architecture == "llama" and inventory.display_name == "tiny 0" and inventory.tied_embedding
    assert inventory.sha256 == hashlib.sha256(tiny_gguf.read_bytes()).hexdigest()
    assert inventory.file_bytes == tiny_gguf.stat().st_size
    hyper = inventory.hyper
    assert (hyper.n_layer, hyper.n_embd, hyper.n_ff, hyper.n_head, hyper.n_head_kv) == (2, 256, 512, 4, 2)
    assert (hyper.head_dim_k, hyper.head_dim_v, hyper.rope_dim, hyper.context_length) == (64, 64, 64, 512)
    assert hyper.swa_layers == (False, False) and hyper.sliding_window == 0
    down = inventory.tensor("blk.1.ffn_down.weight")
    assert (down.role, down.layer, down.n_cols, down.n_rows) == (Role.FFN_DOWN, 1, 512, 256)
    assert down.source_type is QuantType.F16 and down.quantizable
    norm = inventory.tensor("blk.0.attn_norm.weight")
    assert norm.role is Role.NORM and norm.kept_reason
    assert len(inventory.quantizable) == 1 + 2 * 7
    with pytest.raises(KeyError):
        inventory.tensor("absent")
    rows = tensors.load_tensor("token_embd.weight", 3, 5)
    assert rows.dtype == np.float32
    np.testing.assert_array_equal(rows, tensors.load_tensor("token_embd.weight")[3:5])


def test_untied_heads_are_seen(make_tiny_gguf: Make, tmp_path: Path) -> None:
    inventory, _ = open_inventory(make_tiny_gguf(tmp_path / "untied.gguf", tied=False))
    assert not inventory.tied_embedding
    assert inventory.tensor("output.weight").role is Role.OUTPUT


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_other_float_types_hold_the_same_values(
    make_tiny_gguf: Make, tiny_gguf: Path, tmp_path: Path, dtype: str
) -> None:
    _, other = open_inventory(make_tiny_gguf(tmp_path / "other.gguf", dtype=dtype))
    _, half = open_inventory(tiny_gguf)
    name = "blk.0.attn_q.weight"
    assert other.quant_type(name) is QuantType[dtype.upper()]
    np.testing.assert_allclose(other.load_tensor(name), half.load_tensor(name), rtol=2**-8, atol=1e-6)


def test_quantized_sources_are_refused_or_warned_about(make_tiny_gguf: Make, tmp_path: Path) -> None:
    path = make_tiny_gguf(tmp_path / "q8.gguf", dtype="q8_0")
    with pytest.raises(UnsupportedModelError, match=r"15 tensors \(100% of the weights\).*8\.50 bits") as caught:
        open_inventory(path)
    assert "--allow-requantize" in caught.value.hint
    events = EventBus()
    inventory, tensors = open_inventory(path, allow_requantize=True, events=events)
    assert inventory.tensors[0].source_type is QuantType.Q8_0
    assert len(events.warnings) == 1 and "8.50 bits" in events.warnings[0]
    check_finite(tensors, inventory)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["blk.1.ffn_up.weight", "blk.0.attn_norm.weight"])
def test_values_that_are_not_finite_are_named(make_tiny_gguf: Make, tmp_path: Path, name: str, value: float) -> None:
    def spoil(weights: dict[str, np.ndarray]) -> None:
        weights[name].reshape(-1)[[300 % weights[name].size, -1]] = value

    inventory, tensors = open_inventory(make_tiny_gguf(tmp_path / "bad.gguf", edit=spoil))
    with pytest.raises(ModelFileError) as caught:
        check_finite(tensors, inventory)
    place = "row 1, column 44 (of 512 x 256)" if "ffn" in name else "row 0, column 44 (of 1 x 256)"
    assert name in caught.value.message and place in caught.value.message and "2 values" in caught.value.message


def test_infinities_that_cancel_are_found(make_tiny_gguf: Make, tmp_path: Path) -> None:
    def spoil(weights: dict[str, np.ndarray]) -> None:
        weights["token_embd.weight"][0, 0], weights["token_embd.weight"][1, 0] = np.inf, -np.inf

    inventory, tensors = open_inventory(make_tiny_gguf(tmp_path / "bad.gguf", edit=spoil))
    with pytest.raises(ModelFileError, match=r"token_embd\.weight.*row 0, column 0"):
        check_finite(tensors, inventory)


def test_weights_that_are_all_zero_are_named(make_tiny_gguf: Make, tmp_path: Path) -> None:
    def spoil(weights: dict[str, np.ndarray]) -> None:
        weights["blk.0.ffn_up.weight"][:] = 0.0
        weights["blk.1.attn_norm.weight"][:] = -0.0
        weights["blk.1.ffn_up.weight"][:] = 0.0
        weights["blk.1.ffn_up.weight"][0, :2] = 1.0, -1.0  # the sum is zero, the tensor is not

    inventory, tensors = open_inventory(make_tiny_gguf(tmp_path / "zero.gguf", edit=spoil))
    events = EventBus()
    check_finite(tensors, inventory, events)
    (warning,) = events.warnings
    assert "every weight is zero in blk.0.ffn_up.weight, blk.1.attn_norm.weight:" in warning


def test_huge_but_finite_values_pass(make_tiny_gguf: Make, tmp_path: Path) -> None:
    def enlarge(weights: dict[str, np.ndarray]) -> None:
        weights["blk.0.attn_q.weight"][:] = np.float32(3e38)

    inventory, tensors = open_inventory(make_tiny_gguf(tmp_path / "huge.gguf", dtype="f32", edit=enlarge))
    check_finite(tensors, inventory)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"llama.block_count": None}, r"'llama.block_count' is missing"),
        ({"llama.block_count": 3}, r"blk\.2\.attn_norm\.weight is missing"),
        ({"llama.block_count": 1}, r"blk\.1\.\S+ belongs to a block beyond the 1"),
        ({"llama.block_count": 1 << 31}, r"outside 1 to 512"),
        (
            {"llama.embedding_length": 128},
            r"token_embd\.weight has shape \[256, 385\], the metadata means \[128, 385\]",
        ),
        ({"llama.attention.head_count": 5}, "5 heads cannot share 2"),
        ({"llama.attention.head_count": 0}, "outside 1"),
        ({"llama.attention.head_count": [4, 4]}, None),
        ({"llama.attention.head_count": "four"}, "not a number"),
        ({"llama.attention.head_count_kv": 4}, r"attn_k\.weight has shape \[256, 128\]"),
        ({"llama.rope.dimension_count": 128}, "rope dimension 128 in heads of 64"),
        ({"llama.rope.dimension_count": 31}, "rope dimension 31"),
        ({"llama.rope.freq_base": 0.0}, "not above zero"),
        ({"llama.rope.freq_base": float("inf")}, "not a number"),
        ({"llama.attention.layer_norm_rms_epsilon": float("nan")}, "not a number"),
        ({"llama.feed_forward_length": 256}, r"ffn_gate\.weight has shape \[256, 512\]"),
        ({"llama.context_length": 1.5}, "outside 1"),
    ],
)
def test_metadata_that_lies_is_named(
    tiny_gguf: Path, tmp_path: Path, changes: dict[str, Any], words: str | None
) -> None:
    path = rewrite(tiny_gguf, tmp_path / "lies.gguf", changes)
    if words is None:
        open_inventory(path)
        return
    with pytest.raises(ModelFileError, match=words):
        open_inventory(path)


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    values=st.dictionaries(
        st.sampled_from(
            ["block_count", "context_length", "attention.head_count", "attention.key_length", "rope.freq_base",
             "attention.sliding_window", "rope.scaling.factor", "rope.scaling.type", "attention.layer_norm_rms_epsilon"]
        ),
        st.one_of(
            st.integers(-(1 << 63), 1 << 64), st.floats(), st.text(max_size=4), st.booleans(),
            st.lists(st.one_of(st.floats(), st.integers(), st.text(max_size=2)), max_size=3),
        ),
        min_size=1,
    ),
    architecture=st.sampled_from(["llama", "gemma3"]),
)  # fmt: skip
def test_any_metadata_value_ends_in_our_errors(values: dict[str, Any], architecture: str) -> None:
    good = {"block_count": 2, "context_length": 512, "embedding_length": 256, "attention.head_count": 4}
    metadata = {f"{architecture}.{key}": value for key, value in {**good, **values}.items()}
    try:
        hyper = read_hyperparameters(Path("any.gguf"), metadata, architecture, 385)
    except RampEdgeError:
        return
    assert len(hyper.swa_layers) == hyper.n_layer <= 4096
    assert 0 < hyper.rope_base < float("inf") and 0 < hyper.norm_eps < float("inf")


def test_other_refusals_name_the_way_out(tiny_gguf: Path, make_tiny_gguf: Make, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="split into 3 files") as caught:
        open_inventory(rewrite(tiny_gguf, tmp_path / "part.gguf", {"split.count": 3}))
    assert "--merge" in caught.value.hint
    with pytest.raises(UnsupportedModelError, match=r"no token_embd\.weight"):
        open_inventory(rewrite(tiny_gguf, tmp_path / "headless.gguf", {}, drop=("token_embd.weight",)))
    with pytest.raises(ModelFileError, match=r"blk\.0\.ffn_norm\.weight is missing"):
        open_inventory(rewrite(tiny_gguf, tmp_path / "gap.gguf", {}, drop=("blk.0.ffn_norm.weight",)))
    reader = make_tiny_gguf(
        tmp_path / "moe.gguf", edit=lambda w: w.update({"blk.0.ffn_up_exps.weight": w["blk.0.ffn_up.weight"]})
    )
    with pytest.raises(UnsupportedModelError, match="mixture of experts"):
        open_inventory(reader)


def test_unknown_architectures_still_open(tiny_gguf: Path, tmp_path: Path) -> None:
    """inspect and the stock tools work on them; only `build` needs a forward pass."""
    changes = {"general.architecture": "novel"}
    changes |= {f"novel.{k}": v for k, v in (("block_count", 2), ("context_length", 512), ("embedding_length", 256))}  # type: ignore[misc]
    changes |= {"novel.attention.head_count": 4}  # type: ignore[dict-item]
    inventory, _ = open_inventory(rewrite(tiny_gguf, tmp_path / "novel.gguf", changes))
    assert inventory.architecture == "novel"


def test_types_outside_the_compilers_are_named(tmp_path: Path, tiny_gguf: Path) -> None:
    data = bytearray(tiny_gguf.read_bytes())
    # F16 (1) becomes I16 (25): same size, nothing that holds weights.
    at = data.index(b"token_embd.weight") + len(b"token_embd.weight") + 4 + 16
    assert data[at] == 1
    data[at] = 25
    path = tmp_path / "i16.gguf"
    path.write_bytes(data)
    with pytest.raises(UnsupportedModelError, match=r"'token_embd.weight' has ggml type 25"):
        open_inventory(path)
    assert GgufTensors(path).header.tensors
