"""One folder per calibration: every input is in its key, and files are whole or absent."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ramp_edge.calibrate import store as store_module
from ramp_edge.calibrate.store import CalibrationSettings, CalibrationStore, open_store, site_of
from ramp_edge.errors import CacheError
from ramp_edge.model.gguf_file import open_inventory
from ramp_edge.records import ModelInventory

SETTINGS = CalibrationSettings()


@pytest.fixture
def inventory(tiny_gguf: Path) -> ModelInventory:
    return open_inventory(tiny_gguf)[0]


@pytest.fixture
def tokens() -> np.ndarray:
    return np.arange(64, dtype=np.int32).reshape(4, 16)


def test_the_same_calibration_finds_its_folder(tmp_path: Path, inventory: ModelInventory, tokens: np.ndarray) -> None:
    first = open_store(tmp_path, inventory, tokens, SETTINGS, torch.float32)
    again = open_store(tmp_path, inventory, np.asfortranarray(tokens), CalibrationSettings(), torch.float32)
    assert first.folder == again.folder
    # The file's place does not matter, its content does.
    moved = replace(inventory, path=Path("elsewhere.gguf"), display_name="other")
    assert open_store(tmp_path, moved, tokens, SETTINGS, torch.float32).folder == first.folder


def test_every_input_is_in_the_key(
    tmp_path: Path, inventory: ModelInventory, tokens: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = tokens.copy()
    changed[-1, -1] += 1
    stores = [
        open_store(tmp_path, inventory, tokens, SETTINGS, torch.float32),
        open_store(tmp_path, replace(inventory, sha256="0" * 64), tokens, SETTINGS, torch.float32),
        open_store(tmp_path, inventory, changed, SETTINGS, torch.float32),
        open_store(tmp_path, inventory, tokens, SETTINGS, torch.bfloat16),
    ]
    for field in fields(CalibrationSettings):
        other = replace(SETTINGS, **{field.name: getattr(SETTINGS, field.name) + 1})
        stores.append(open_store(tmp_path, inventory, tokens, other, torch.float32))
    monkeypatch.setattr(store_module, "CODE_VERSION", store_module.CODE_VERSION + 1)
    stores.append(open_store(tmp_path, inventory, tokens, SETTINGS, torch.float32))
    assert len({store.folder for store in stores}) == len(stores)


def test_arrays_and_hidden_states_come_back(tmp_path: Path) -> None:
    store = CalibrationStore(tmp_path / "new")
    values = np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32)
    store.save("a.b.moments", values)
    np.testing.assert_array_equal(store.moments("a.b"), values)
    # Gemma's residual stream reaches values that float16 does not hold.
    hidden = torch.tensor([[1.0, -2.5, 3e5, 1e-9]])
    store.save_hidden("input.0", hidden)
    torch.testing.assert_close(store.load_hidden("input.0"), hidden, rtol=2**-8, atol=0)


def test_a_file_is_whole_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = CalibrationStore(tmp_path)
    store.save("a", np.zeros(3))

    def fails(stream: object, values: object) -> None:
        stream.write(b"half")  # type: ignore[attr-defined]
        raise OSError("disk")

    monkeypatch.setattr(store_module.np, "save", fails)
    for name in ("a", "b"):
        with pytest.raises(CacheError, match="disk"):
            store.save(name, np.ones(3))
    assert [path.name for path in tmp_path.iterdir()] == ["a.npy"]
    assert not store.has("b")
    assert store.has("a")
    assert store.load("a").tolist() == [0, 0, 0]
    store.drop("a")
    store.drop("a")
    assert not store.has("a")


def test_damaged_arrays_are_discarded_by_name(tmp_path: Path) -> None:
    store = CalibrationStore(tmp_path)
    for name in ("cut", "empty", "zeros", "whole", "header"):
        store.save(name, np.arange(100))
    whole = store.path("whole").read_bytes()
    store.path("cut").write_bytes(whole[:-1])
    store.path("empty").write_bytes(b"")
    store.path("zeros").write_bytes(bytes(len(whole)))
    store.path("header").write_bytes(whole.replace(b"'shape'", b"'sha(e'"))
    assert store.discard_damaged("whole", "cut", "absent") == ("cut",)
    assert store.discard_damaged() == ("empty", "header", "zeros")
    assert [path.name for path in tmp_path.iterdir()] == ["whole.npy"]


def test_tensors_with_one_input_share_a_site(inventory: ModelInventory) -> None:
    sites = {t.name: site_of(t, tied=inventory.tied_embedding) for t in inventory.tensors}
    assert sites["blk.1.attn_q.weight"] == sites["blk.1.attn_k.weight"] == sites["blk.1.attn_v.weight"]
    assert sites["blk.1.ffn_gate.weight"] == sites["blk.1.ffn_up.weight"]
    block = {site for name, site in sites.items() if name.startswith("blk.1.") and site}
    assert len(block) == 4
    assert not block & {site for name, site in sites.items() if name.startswith("blk.0.")}
    assert sites["blk.1.attn_norm.weight"] is None
    assert sites["token_embd.weight"] == "tied"
    assert site_of(inventory.tensor("token_embd.weight"), tied=False) == "embedding"
