"""Where calibration results lie: one folder per key, one file per layer and site.

The key covers everything that matters (model, tokens, settings, code version), so a folder never mixes two runs, and
a run that was stopped finds its finished layers again. A damaged file counts as absent.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from ramp_edge.cache import cache_error, cached_file, make_cache_folder, remove_abandoned
from ramp_edge.records import ModelInventory, Role, TensorInfo

CODE_VERSION = 4
"""Raise when the meaning of stored files changes."""

Float32 = npt.NDArray[np.float32]

_SITES = {
    Role.ATTN_Q: "attn_in",
    Role.ATTN_K: "attn_in",
    Role.ATTN_V: "attn_in",
    Role.ATTN_OUTPUT: "attn_out",
    Role.FFN_GATE: "ffn_in",
    Role.FFN_UP: "ffn_in",
    Role.FFN_DOWN: "ffn_down",
}
HEAD_SITE = "head"
EMBEDDING_SITE = "embedding"
TIED_SITE = "tied"
"""What an error in a row of a tied embedding costs as output and as input, in one matrix (`fisher.py`)."""
TIED_FORWARD_SITE = "tied_forward"
"""The same as far as forward passes know it (`noise.py`)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationSettings:
    """Sizes of both passes."""

    n_sequences: int = 40
    sequence_tokens: int = 512
    fisher_sequences: int = 32
    fisher_tokens: int = 256
    """Leading tokens of a sequence that the Fisher pass uses; short ones give more independent samples."""
    held_out_sequences: int = 0
    """Last sequences that stay out of the moments: their inputs are kept as they are, to judge what was fitted to the moments."""
    seed: int = 0


def site_of(tensor: TensorInfo, *, tied: bool) -> str | None:
    """Name of the input site whose moments serve `tensor`; tensors with the same input share one."""
    if tensor.role is Role.OUTPUT:
        return HEAD_SITE
    if tensor.role is Role.TOKEN_EMBD:
        return TIED_SITE if tied else EMBEDDING_SITE
    kind = _SITES.get(tensor.role)
    return None if kind is None else f"blk.{tensor.layer}.{kind}"


class CalibrationStore:
    """Files of one calibration. Raises CacheError where they cannot be written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        make_cache_folder(folder)

    def path(self, name: str) -> Path:
        """Where `name` lies."""
        return self.folder / f"{name}.npy"

    def has(self, name: str) -> bool:
        """True once `name` is complete."""
        return self.path(name).exists()

    def save(self, name: str, values: npt.NDArray[np.generic]) -> None:
        """Store an array; it appears whole or not at all."""
        with cached_file(self.path(name)) as stream:
            np.save(stream, values)

    def load(self, name: str) -> npt.NDArray[np.generic]:
        """The stored array."""
        values: npt.NDArray[np.generic] = np.load(self.path(name))
        return values

    def load_float(self, name: str) -> Float32:
        """The stored array as float32."""
        return self.load(name).astype(np.float32, copy=False)

    def moments(self, site: str) -> Float32:
        """Second moments per token, float32 [n_cols, n_cols]."""
        return self.load_float(f"{site}.moments")

    def held_out(self, site: str) -> Float32:
        """Inputs of the held-out sequences, float32 [n_tokens, n_cols]."""
        return self.load_hidden(f"{site}.held_out").numpy()

    def save_activation_kl(self, name: str, kl: Mapping[int, float]) -> None:
        """KL per token of rounding a tensor's inputs, by the number of activations that share a scale."""
        self.save(f"{name}.activation_kl", np.array(sorted(kl.items()), np.float64))

    def activation_kl(self, name: str) -> dict[int, float]:
        """What `save_activation_kl` stored."""
        return {int(block): float(value) for block, value in self.load(f"{name}.activation_kl")}

    def save_hidden(self, name: str, hidden: torch.Tensor) -> None:
        """bfloat16 on disk: Gemma's residual stream leaves float16's range."""
        self.save(name, hidden.to(torch.bfloat16).view(torch.int16).numpy())

    def load_hidden(self, name: str) -> torch.Tensor:
        """float32 tensor of `save_hidden`."""
        return torch.from_numpy(self.load(name)).view(torch.bfloat16).float()

    def drop(self, name: str) -> None:
        """Remove a file that no later step needs."""
        try:
            self.path(name).unlink(missing_ok=True)
        except OSError as error:
            raise cache_error(self.path(name), error) from error

    def discard_damaged(self, *names: str) -> tuple[str, ...]:
        """Remove those of `names` (none given: of all files) that are not whole arrays, and say which they were.

        Looks at headers and sizes only: quick, and enough for what a full disk or a power cut leaves.
        """
        remove_abandoned(self.folder)
        stored = names or tuple(sorted(path.name.removesuffix(".npy") for path in self.folder.glob("*.npy")))
        damaged = tuple(name for name in stored if self.has(name) and not _is_whole(self.path(name)))
        for name in damaged:
            self.drop(name)
        return damaged


def _is_whole(path: Path) -> bool:
    try:
        np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception:  # numpy lets errors of its header parser through
        return False
    return True


def open_store(
    root: Path,
    inventory: ModelInventory,
    tokens: npt.NDArray[np.int32],
    settings: CalibrationSettings,
    dtype: torch.dtype,
) -> CalibrationStore:
    """The folder of this exact calibration under `root`."""
    key = {
        "model": inventory.sha256,
        "tokens": hashlib.sha256(np.ascontiguousarray(tokens).tobytes()).hexdigest(),
        "settings": asdict(settings),
        "dtype": str(dtype),
        "code": CODE_VERSION,
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]
    return CalibrationStore(root / "calibration" / digest)
