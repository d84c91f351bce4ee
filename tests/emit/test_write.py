"""The file that is written is the file that was planned, byte for byte; nothing half-written stays."""

from __future__ import annotations

import errno
import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ramp_edge.codec.types import FLOAT_TYPES, QUANTIZED_TYPES, QuantType
from ramp_edge.emit import write
from ramp_edge.emit.layout import file_type_of
from ramp_edge.emit.write import require_space, write_gguf
from ramp_edge.errors import ArtifactMismatchError, OutputError
from ramp_edge.events import EventBus

MakePlan = Callable[..., Any]
MIXED = (QuantType.Q6_K, QuantType.Q4_0, QuantType.IQ3_S, QuantType.Q5_1, QuantType.F16)


def test_the_file_is_the_plan(make_plan: MakePlan, tmp_path: Path) -> None:
    plan, path = make_plan(*MIXED), tmp_path / "new" / "model.gguf"
    layout = plan.layout
    write_gguf(path, layout, plan.payload, EventBus())
    assert path.stat().st_size == layout.file_bytes
    reader = gguf.GGUFReader(path)
    for tensor, slot in zip(reader.tensors, layout.slots, strict=True):
        assert (tensor.name, tensor.tensor_type, tensor.n_bytes) == (slot.name, slot.quant_type, slot.size_bytes)
        np.testing.assert_array_equal(tensor.data.reshape(-1).view(np.uint8), plan.payload(slot).reshape(-1))
    assert [p.name for p in path.parent.iterdir()] == ["model.gguf"]


def test_metadata_is_kept_in_value_and_type(make_plan: MakePlan, tiny_gguf: Path, tmp_path: Path) -> None:
    plan, path = make_plan(*MIXED), tmp_path / "model.gguf"
    write_gguf(path, plan.layout, plan.payload, EventBus())
    source, result = gguf.GGUFReader(tiny_gguf), gguf.GGUFReader(path)
    for name, field in source.fields.items():
        if name.startswith("GGUF.") or name == "general.file_type":
            continue
        assert result.fields[name].types == field.types
        assert result.fields[name].contents() == field.contents()
    assert result.fields["general.quantization_version"].contents() == 2
    own = {name: result.fields[name].contents() for name in plan.own}
    assert own == plan.own


def test_a_second_compilation_replaces_our_own_keys(make_plan: MakePlan, tmp_path: Path) -> None:
    first = make_plan(QuantType.Q8_0)
    write_gguf(tmp_path / "first.gguf", first.layout, first.payload, EventBus())
    second = make_plan(QuantType.Q4_0, source=tmp_path / "first.gguf")
    second.own = {"ramp_edge.version": "2"}
    write_gguf(tmp_path / "second.gguf", second.layout, second.payload, EventBus())
    fields = gguf.GGUFReader(tmp_path / "second.gguf").fields
    assert [n for n in fields if n.startswith("ramp_edge.")] == ["ramp_edge.version"]
    assert fields["ramp_edge.version"].contents() == "2"
    assert fields["general.file_type"].contents() == gguf.LlamaFileType.MOSTLY_Q4_0


def test_the_same_plan_gives_the_same_bytes(make_plan: MakePlan, tmp_path: Path) -> None:
    digests = set()
    for name in ("a.gguf", "b.gguf"):
        plan = make_plan(*MIXED)
        write_gguf(tmp_path / name, plan.layout, plan.payload, EventBus())
        digests.add(hashlib.sha256((tmp_path / name).read_bytes()).hexdigest())
    assert len(digests) == 1


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(types=st.lists(st.sampled_from(list(QuantType)), min_size=1, max_size=15))
def test_the_predicted_size_is_the_readers(make_plan: MakePlan, tmp_path: Path, types: list[QuantType]) -> None:
    plan = make_plan(*types)
    layout = plan.layout
    path = tmp_path / "zeros.gguf"
    write_gguf(path, layout, lambda slot: np.zeros(slot.size_bytes, dtype=np.uint8), EventBus())
    assert path.stat().st_size == layout.file_bytes
    assert [t.n_bytes for t in gguf.GGUFReader(path).tensors] == [s.size_bytes for s in layout.slots]
    assert all(slot.offset % layout.alignment == 0 for slot in layout.slots)


@pytest.mark.parametrize("quant_type", list(QuantType), ids=lambda t: t.name)
def test_the_file_type_is_llama_cpps(make_plan: MakePlan, quant_type: QuantType) -> None:
    plan = make_plan(quant_type)
    name = gguf.LlamaFileType(file_type_of(plan.inventory, plan.types)).name
    wanted = f"ALL_{quant_type.name}" if quant_type is QuantType.F32 else f"MOSTLY_{quant_type.name}"
    # K-quants and IQ3_S / IQ2_S exist in sizes only; any of them names the type.
    assert name == wanted or name.startswith(wanted + "_") or (quant_type, name) == (QuantType.IQ2_S, "MOSTLY_IQ2_M")


def test_every_type_has_a_file_type() -> None:
    from ramp_edge.emit.layout import _FILE_TYPES

    assert set(_FILE_TYPES) == set(QUANTIZED_TYPES) | FLOAT_TYPES


def test_the_embedding_does_not_name_the_file(make_plan: MakePlan) -> None:
    plan = make_plan(QuantType.Q4_K)
    plan.types["token_embd.weight"] = QuantType.Q8_0
    assert file_type_of(plan.inventory, plan.types) == gguf.LlamaFileType.MOSTLY_Q4_K_M


def test_a_full_disk_is_said_before_and_with_numbers(
    make_plan: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan()
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(write.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(OutputError, match=r"has 1\.00 kB free, \S+ [kM]B are needed"):
        write_gguf(tmp_path / "model.gguf", plan.layout, plan.payload, EventBus())
    assert list(tmp_path.iterdir()) == []
    require_space(tmp_path, 1000)


@pytest.mark.parametrize(
    ("number", "words"), [(errno.ENOSPC, "the disk is full while writing"), (errno.EIO, "cannot write .*: ")]
)
def test_a_failing_write_leaves_the_old_file(make_plan: MakePlan, tmp_path: Path, number: int, words: str) -> None:
    plan, path = make_plan(), tmp_path / "model.gguf"
    path.write_bytes(b"the old one")
    calls = 0

    def fails(slot: object) -> np.ndarray:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise OSError(number, "failed")
        return plan.payload(slot)

    with pytest.raises(OutputError, match=words):
        write_gguf(path, plan.layout, fails, EventBus())
    assert path.read_bytes() == b"the old one" and [p.name for p in tmp_path.iterdir()] == ["model.gguf"]


def test_a_real_full_device_is_an_output_error(
    make_plan: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    (tmp_path / "model.gguf.partial").symlink_to("/dev/full")
    plan = make_plan()
    with pytest.raises(OutputError, match="the disk is full"):
        write_gguf(tmp_path / "model.gguf", plan.layout, plan.payload, EventBus())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_other_exceptions_pass_and_leave_nothing(
    make_plan: MakePlan, tmp_path: Path, error: type[BaseException]
) -> None:
    plan = make_plan()

    def fails(slot: object) -> np.ndarray:
        raise error

    with pytest.raises(error):
        write_gguf(tmp_path / "model.gguf", plan.layout, fails, EventBus())
    assert list(tmp_path.iterdir()) == []


def test_payloads_of_another_size_are_refused(make_plan: MakePlan, tmp_path: Path) -> None:
    plan = make_plan()
    with pytest.raises(ArtifactMismatchError, match=r"'token_embd\.weight': 10 bytes of Q4_K where the plan has 55440"):
        write_gguf(tmp_path / "model.gguf", plan.layout, lambda slot: np.zeros(10, dtype=np.uint8), EventBus())
    assert list(tmp_path.iterdir()) == []


def test_something_in_the_way_is_named(make_plan: MakePlan, tmp_path: Path) -> None:
    plan = make_plan()
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"cannot write .*file/model\.gguf"):
        write_gguf(tmp_path / "file" / "model.gguf", plan.layout, plan.payload, EventBus())


def test_libllama_generates_with_the_result(make_plan: MakePlan, tmp_path: Path) -> None:
    import llama_cpp

    plan, path = make_plan(*MIXED), tmp_path / "model.gguf"
    write_gguf(path, plan.layout, plan.payload, EventBus())
    model = llama_cpp.Llama(str(path), n_ctx=64, verbose=False, n_threads=1)
    result = model.create_completion("the small board", max_tokens=4, temperature=0.0)
    model.close()
    assert result["usage"]["completion_tokens"] == 4
