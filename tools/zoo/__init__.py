"""Parts of `tools/build_zoo.py`: the shapes, their training, what the policy learns from."""
