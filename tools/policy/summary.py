"""What a build with `--allocator best` says of its allocators."""

from __future__ import annotations

from typing import Any


def build_summary(record: dict[str, Any], note: str) -> dict[str, Any]:
    """Model, limits and every measured candidate of a build.json; `note` says which texts they were."""
    return {
        "model": record["model"]["name"],
        "parameters": record["model"]["parameters"],
        "device": record["device"]["name"],
        "target_size_bytes": record["settings"]["target_size_bytes"],
        "effort": record["settings"]["effort"],
        "policy": record["settings"]["policy"],
        "texts": note,
        "scored_tokens": record["evaluation"]["divergence"]["n_tokens"],
        "tuning": None
        if record.get("tuning") is None
        else {**record["tuning"], "seconds": record["stage_seconds"]["tune"]},
        "feature_seconds": sum(record["stage_seconds"].get(name, 0.0) for name in ("noise", "features", "type errors")),
        "candidates": [
            {
                "origin": c["origin"],
                "folded": c.get("folded", False),
                "codec": c["codec"],
                "file_bytes": c["file_bytes"],
                "predicted_kl": c["predicted_kl"],
                "kl": c["evaluation"]["divergence"]["mean_kl"],
                "std_error": c["evaluation"]["divergence"]["std_error"],
                "chosen": c["chosen"],
            }
            for c in record["candidates"]
            if c["evaluation"] is not None
        ],
    }
