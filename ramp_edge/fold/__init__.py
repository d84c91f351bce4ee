"""Scale Folding and channel order: exact changes of a model that make it easier to quantize."""
