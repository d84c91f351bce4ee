"""Network and tokenizer to a GGUF in F16 that unmodified llama.cpp runs."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
from tokenizers import Tokenizer

from embedded.corpus import END_OF_TEXT
from embedded.network import Network

_NORMAL, _CONTROL = 1, 3


def _add_tokenizer(writer: gguf.GGUFWriter, tokenizer: Tokenizer) -> None:
    model = json.loads(tokenizer.to_str())["model"]
    by_id = sorted(model["vocab"].items(), key=lambda item: item[1])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([token for token, _ in by_id])
    writer.add_token_types([_CONTROL if token == END_OF_TEXT else _NORMAL for token, _ in by_id])
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in model["merges"]])
    end = model["vocab"][END_OF_TEXT]
    writer.add_bos_token_id(end)
    writer.add_eos_token_id(end)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)


_DESCRIPTION = "Embedded default model of ramp-edge, trained on public-domain books"


def export(network: Network, tokenizer: Tokenizer, path: Path, *, name: str, description: str = _DESCRIPTION) -> None:
    """Write `path` (beside, then renamed). Matrices in F16, norms in F32."""
    shape = network.shape
    partial = path.with_suffix(".partial")
    writer = gguf.GGUFWriter(partial, shape.family)
    writer.add_name(name)
    writer.add_description(description)
    writer.add_license("apache-2.0")
    writer.add_languages(["en"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_context_length(shape.context_length)
    writer.add_embedding_length(shape.n_embd)
    writer.add_block_count(shape.n_layer)
    writer.add_feed_forward_length(shape.n_ff)
    writer.add_head_count(shape.n_head)
    writer.add_head_count_kv(shape.n_head_kv)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_rope_freq_base(shape.rope_base)
    if shape.head_dim * shape.n_head != shape.n_embd or shape.family != "llama":
        writer.add_key_length(shape.head_dim)
        writer.add_value_length(shape.head_dim)
    if shape.gemma:
        writer.add_sliding_window(shape.context_length)
    writer.add_layer_norm_rms_eps(shape.norm_eps)
    writer.add_vocab_size(shape.vocab_size)
    _add_tokenizer(writer, tokenizer)
    for tensor_name, value in network.state_dict().items():
        data = value.detach().float().cpu().numpy()
        writer.add_tensor(tensor_name, data.astype(np.float16 if data.ndim == 2 else np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    partial.replace(path)
