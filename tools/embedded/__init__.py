"""Parts of `tools/train_embedded.py`: text and tokenizer, the network, the GGUF export."""
