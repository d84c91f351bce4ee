"""llama.cpp's source and tools: pinned by hash, fetched once from PyPI, offline afterwards."""
