"""Error feedback over codec slabs: bytes of each tensor in its allocated type."""
