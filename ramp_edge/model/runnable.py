"""What must hold before libllama opens a file: on some headers it aborts the whole process, on others it gives no reason.

Unlike a build, running takes any architecture and any type that libllama knows, so only what is wrong for all of them, and
the numbers of the families that ramp-edge knows, are looked at.
"""

from __future__ import annotations

from pathlib import Path

from ramp_edge.errors import ModelFileError
from ramp_edge.model.architecture import architecture_facts
from ramp_edge.model.consistency import check_tokenizer, number_problems
from ramp_edge.model.gguf_file import GgufTensors
from ramp_edge.model.hyperparameters import MAX_LAYERS, MetadataReader, read_hyperparameters

_HINT = "the header is damaged: download or convert the model again; ramp-edge inspect shows what is in it"


def check_runnable(path: Path) -> GgufTensors:
    """The opened file. Raises ModelFileError or UnsupportedModelError for one that libllama should not see."""
    tensors = GgufTensors(path)
    metadata = tensors.scalar_metadata()
    architecture = metadata.get("general.architecture")
    if not isinstance(architecture, str) or not architecture:
        raise ModelFileError(f"{path}: general.architecture is missing", hint="this GGUF holds no language model")
    check_tokenizer(path, tensors.header.metadata)
    MetadataReader(path, metadata, architecture).count("block_count", high=MAX_LAYERS)
    embedding = next((t for t in tensors.header.tensors if t.name == "token_embd.weight"), None)
    if architecture_facts(architecture) is None or embedding is None or len(embedding.shape) != 2:
        return tensors
    problems = number_problems(read_hyperparameters(path, metadata, architecture, embedding.shape[1]))
    if problems:
        raise ModelFileError(f"{path}: the metadata contradicts itself: {'; '.join(problems)}", hint=_HINT)
    return tensors
