"""Training of the allocation policy; needs the `train` extra."""
