"""Perplexity, KL divergence and generation through llama.cpp in process."""
