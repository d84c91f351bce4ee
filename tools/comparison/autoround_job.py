"""Run in an environment that has auto-round, transformers and gguf: a GGUF in, AutoRound's own GGUF export out.

python autoround_job.py F16.gguf TEXT WORK_FOLDER FORMAT ITERATIONS
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
WINDOW_TOKENS = 512


def _keep_pre_tokenizer(pre: str) -> None:
    """llama.cpp's converter knows pre-tokenizers by a hash; a tokenizer read back from a GGUF has another one."""
    from auto_round.export.export_to_gguf import export

    load = export.get_conversion

    def get_conversion(*arguments: object, **options: object) -> object:
        conversion = load(*arguments, **options)
        sys.modules[conversion.ModelBase.__module__].TextModel.get_vocab_base_pre = lambda _self, _tokenizer: pre
        return conversion

    export.get_conversion = get_conversion


def main() -> None:
    source, text, work, scheme, iterations = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), *sys.argv[4:6]
    import torch
    from auto_round import AutoRound, __version__
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
    _keep_pre_tokenizer(GGUFReader(source).get_field("tokenizer.ggml.pre").contents())
    ids = tokenizer(text.read_text(), add_special_tokens=False)["input_ids"]
    windows = [
        torch.tensor([ids[at : at + WINDOW_TOKENS]]) for at in range(0, len(ids) - WINDOW_TOKENS + 1, WINDOW_TOKENS)
    ]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    started = time.perf_counter()
    AutoRound(
        str(work / "hf"), scheme=f"gguf:{scheme}", iters=int(iterations), nsamples=len(windows), seqlen=WINDOW_TOKENS,
        dataset=[{"input_ids": w, "attention_mask": torch.ones_like(w)} for w in windows], device_map=device, batch_size=4,
        seed=0,
    ).quantize_and_save(str(work / scheme), format=f"gguf:{scheme}")  # fmt: skip
    seconds = time.perf_counter() - started
    name = torch.cuda.get_device_name() if device == "cuda" else "this CPU"
    print(json.dumps({"seconds": seconds, "version": __version__, "windows": len(windows), "device": name}))


if __name__ == "__main__":
    main()
