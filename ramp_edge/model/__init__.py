"""Source models: GGUF files opened and checked, Hugging Face directories converted, architectures described."""
