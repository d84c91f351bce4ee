"""A GGUF as the compiler sees it: an inventory of tensors, and their values on demand from the memory map."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ramp_edge.codec.ggml import decode
from ramp_edge.codec.types import FLOAT_TYPES, QuantType
from ramp_edge.errors import ModelFileError, UnsupportedModelError
from ramp_edge.events import EventBus
from ramp_edge.model.architecture import architecture_facts
from ramp_edge.model.consistency import check_consistency, check_tokenizer
from ramp_edge.model.header import check_header
from ramp_edge.model.hyperparameters import read_hyperparameters
from ramp_edge.model.metadata import MetadataValue, decode_value
from ramp_edge.model.roles import kept_reason, layer_of, role_of
from ramp_edge.records import ModelInventory, TensorInfo
from ramp_edge.units import human_bytes

Float32 = npt.NDArray[np.float32]
_HASH_CHUNK_BYTES = 1 << 22


class GgufTensors:
    """Values and metadata of one checked GGUF; nothing is read before it is asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.header = check_header(path)
        self._map = np.memmap(path, dtype=np.uint8, mode="r")
        self._entries = {t.name: t for t in self.header.tensors}

    def metadata(self, key: str) -> MetadataValue | None:
        """Value of one key, or None."""
        entry = self.header.metadata.get(key)
        return None if entry is None else decode_value(entry, self._map[entry.value_start : entry.end].tobytes())

    def metadata_bytes(self, key: str) -> bytes:
        """The key-value pair exactly as it stands in the file."""
        entry = self.header.metadata[key]
        return self._map[entry.start : entry.end].tobytes()

    def scalar_metadata(self) -> dict[str, MetadataValue]:
        """Every key but the big token tables."""
        names = [k for k in self.header.metadata if not k.startswith("tokenizer.ggml.")]
        return {name: value for name in names if (value := self.metadata(name)) is not None}

    def raw(self, name: str) -> npt.NDArray[np.uint8]:
        """Bytes of a tensor, [n_rows, row_bytes], a view of the memory map."""
        entry = self._entries[name]
        start = self.header.data_offset + entry.offset
        return self._map[start : start + entry.size_bytes].reshape(math.prod(entry.shape[1:]), -1)

    def quant_type(self, name: str) -> QuantType:
        """The tensor's stored type. Raises ValueError for a type outside `QuantType`."""
        return QuantType(self._entries[name].type_id)

    def load_tensor(self, name: str, first_row: int = 0, last_row: int | None = None) -> Float32:
        """float32 [n_rows, n_cols] of rows `first_row` to `last_row` (exclusive), dequantized where it must be."""
        return decode(self.quant_type(name), self.raw(name)[first_row:last_row], self._entries[name].shape[0])


def file_sha256(path: Path, events: EventBus | None = None) -> str:
    """SHA-256 of the file, streamed."""
    digest = hashlib.sha256()
    bus = events or EventBus()
    with (
        bus.stage("hash the model", total=path.stat().st_size, unit="bytes") as stage,
        path.open("rb") as stream,
    ):
        while chunk := stream.read(_HASH_CHUNK_BYTES):
            digest.update(chunk)
            stage.advance(len(chunk))
    return digest.hexdigest()


def open_inventory(
    path: Path, *, allow_requantize: bool = False, events: EventBus | None = None
) -> tuple[ModelInventory, GgufTensors]:
    """Open and check a model. Raises ModelFileError (damaged) or UnsupportedModelError (cannot be compiled as asked)."""
    bus = events or EventBus()
    tensors = GgufTensors(path)
    metadata = tensors.scalar_metadata()
    architecture = metadata.get("general.architecture")
    if not isinstance(architecture, str) or not architecture:
        raise ModelFileError(f"{path}: general.architecture is missing", hint="this GGUF holds no language model")
    split_count = metadata.get("split.count")
    if isinstance(split_count, int) and split_count > 1:
        raise UnsupportedModelError(
            f"{path}: one part of a model split into {split_count} files",
            hint="join the parts first: llama-gguf-split --merge FIRST_PART OUT.gguf",
        )
    infos = tuple(_tensor_info(path, tensors, entry.name, entry.shape) for entry in tensors.header.tensors)
    embedding = next((t for t in infos if t.name == "token_embd.weight"), None)
    if embedding is None:
        raise UnsupportedModelError(f"{path}: no token_embd.weight: not a text model that ramp-edge can compile")
    hyper = read_hyperparameters(path, metadata, architecture, embedding.n_rows)
    if tensors.metadata("tokenizer.ggml.model") not in ("no_vocab", "none"):
        check_tokenizer(path, tensors.header.metadata)
    facts = architecture_facts(architecture)
    if facts is not None:
        check_consistency(path, facts, hyper, {t.name: t for t in infos})
    _check_storage(path, infos, allow_requantize, bus)
    return (
        ModelInventory(
            path=path,
            display_name=str(metadata.get("general.name") or path.stem),
            architecture=architecture,
            hyper=hyper,
            tensors=infos,
            tied_embedding=all(t.name != "output.weight" for t in infos),
            sha256=file_sha256(path, bus),
            file_bytes=path.stat().st_size,
        ),
        tensors,
    )


def _tensor_info(path: Path, tensors: GgufTensors, name: str, shape: tuple[int, ...]) -> TensorInfo:
    try:
        source_type = tensors.quant_type(name)
    except ValueError:
        type_id = next(t.type_id for t in tensors.header.tensors if t.name == name)
        raise UnsupportedModelError(
            f"{path}: tensor {name!r} has ggml type {type_id}, which ramp-edge does not read",
            hint="start from the F16 or BF16 file of this model",
        ) from None
    return TensorInfo(
        name=name,
        role=role_of(name),
        layer=layer_of(name),
        shape=shape,
        source_type=source_type,
        kept_reason=kept_reason(name, shape),
    )


def quantized_part(tensors: GgufTensors) -> str:
    """How much of a file is already quantized, as in "92% of its weights at 4.85 bits"; empty for a file of floats."""
    weights = {t.name: math.prod(t.shape) for t in tensors.header.tensors}
    coded = [t for t in tensors.header.tensors if t.type_name not in ("F64", "F32", "F16", "BF16")]
    if not coded:
        return ""
    n_coded = sum(weights[t.name] for t in coded)
    bpw = 8 * sum(t.size_bytes for t in coded) / n_coded
    return f"{n_coded / sum(weights.values()):.0%} of its weights at {bpw:.2f} bits"


def _check_storage(path: Path, infos: tuple[TensorInfo, ...], allow_requantize: bool, bus: EventBus) -> None:
    coded = [t for t in infos if t.source_type not in FLOAT_TYPES]
    if not coded:
        return
    weights = sum(t.n_elements for t in coded)
    bpw = 8 * sum(t.source_bytes for t in coded) / weights
    share = weights / sum(t.n_elements for t in infos)
    if not allow_requantize:
        raise UnsupportedModelError(
            f"{path}: {len(coded)} tensors ({share:.0%} of the weights) are already quantized, at {bpw:.2f} bits a weight",
            hint="start from the F16 or BF16 file; --allow-requantize goes on and stacks both errors",
        )
    bus.warn(
        f"{path.name} is already quantized ({share:.0%} of its weights at {bpw:.2f} bits): its own error stays and the new one "
        f"is added; every KL below is measured against this file, not against the original model"
    )


def check_finite(tensors: GgufTensors, inventory: ModelInventory, events: EventBus | None = None) -> None:
    """Raise ModelFileError naming the first tensor with NaN or infinite weights; warn of those that are all zero.

    Streams one tensor at a time.
    """
    bus = events or EventBus()
    empty = []
    with bus.stage("check the weights", total=len(inventory.tensors), unit="tensors") as stage:
        for info in inventory.tensors:
            values = tensors.load_tensor(info.name)
            # One sum finds most cases at memory speed; only a suspicious tensor is searched.
            with np.errstate(over="ignore", invalid="ignore"):
                total = values.sum(dtype=np.float64)
            # Biases of zero are common.
            if total == 0.0 and not info.name.endswith(".bias") and not values.any():
                empty.append(info.name)
            if not np.isfinite(total):
                bad = np.argwhere(~np.isfinite(values))
                if len(bad):
                    row, column = (int(v) for v in bad[0])
                    raise ModelFileError(
                        f"{inventory.path}: tensor {info.name!r} holds {len(bad)} values that are NaN or infinite, "
                        f"the first at row {row}, column {column} (of {values.shape[0]} x {values.shape[1]})",
                        hint="the model is damaged: download or convert it again "
                        f"(file size {human_bytes(inventory.file_bytes)})",
                    )
            stage.advance()
    if empty:
        shown = ", ".join(empty[:4]) + (f" and {len(empty) - 4} more" if len(empty) > 4 else "")
        bus.warn(f"every weight is zero in {shown}: the model may be damaged or not fully trained")
