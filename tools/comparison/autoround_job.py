"""Run in an environment that has auto-round, transformers and gguf: a GGUF in, AutoRound's own GGUF export out.

python autoround_job.py F16.gguf TEXT WORK_FOLDER FORMAT ITERATIONS
"""

from __future__ import annotations

import inspect
import json
import os
import sys
import time
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
WINDOW_TOKENS = 512


def main() -> None:
    source, text, work, scheme, iterations = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), *sys.argv[4:6]
    import torch
    from auto_round import AutoRound, __version__
    from auto_round.export.export_to_gguf.conversion import base
    from gguf import GGUFReader
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(str(source.parent), gguf_file=source.name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(str(source.parent), gguf_file=source.name)
    # It was read from a GGUF, but it is not quantized any more.
    model.hf_quantizer, model.is_quantized = None, False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(work / "hf")
    tokenizer.save_pretrained(work / "hf")
    # llama.cpp's converter knows pre-tokenizers by hash; a tokenizer read back from a GGUF has another one.
    pre = GGUFReader(source).get_field("tokenizer.ggml.pre").contents()
    for _, kind in inspect.getmembers(base, inspect.isclass):
        if hasattr(kind, "get_vocab_base_pre"):
            kind.get_vocab_base_pre = lambda _self, _tokenizer: pre
    ids = tokenizer(text.read_text(), add_special_tokens=False)["input_ids"]
    windows = [
        torch.tensor([ids[at : at + WINDOW_TOKENS]]) for at in range(0, len(ids) - WINDOW_TOKENS + 1, WINDOW_TOKENS)
    ]
    started = time.perf_counter()
    AutoRound(
        str(work / "hf"), scheme=f"gguf:{scheme}", iters=int(iterations), nsamples=len(windows), seqlen=WINDOW_TOKENS,
        dataset=[{"input_ids": w, "attention_mask": torch.ones_like(w)} for w in windows], device_map="cpu", batch_size=4,
        seed=0,
    ).quantize_and_save(str(work / scheme), format=f"gguf:{scheme}")  # fmt: skip
    print(json.dumps({"seconds": time.perf_counter() - started, "version": __version__, "windows": len(windows)}))


if __name__ == "__main__":
    main()
