"""Learning curves, and an allocation by layer and role, as SVG; the same record gives the same bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

ROLES = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
_COLORS = {"gemma3": "#2166ac", "llama": "#b2182b", "qwen3": "#1b7837"}


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    matplotlib.rcParams.update({"svg.hashsalt": "ramp-edge", "svg.fonttype": "none", "font.size": 10})
    return pyplot


def _save(pyplot: Any, figure: Any, path: Path) -> None:
    figure.savefig(path, format="svg", metadata={"Date": None})
    pyplot.close(figure)


def curves(runs: list[dict[str, Any]], path: Path) -> None:
    """Mean score on the models learned from, over the rounds of every seed."""
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(figsize=(8, 3.6))
    named = set()
    for run in runs:
        points = run["curve"]["evaluation/mean"]
        family = run["family"]
        label = None if family in named else f"without {family}"
        named.add(family)
        axes.plot(
            [at for at, _ in points],
            [value for _, value in points],
            color=_COLORS.get(family),
            alpha=0.75,
            linewidth=1.2,
            label=label,
        )
    axes.set(xlabel="round", ylabel="KL over the knapsack's, mean", title="Training by SAC: the models learned from")
    axes.grid(visible=True, alpha=0.25, linewidth=0.5)
    axes.legend(frameon=False)
    figure.tight_layout()
    _save(pyplot, figure, path)


def allocation(plan: dict[str, Any], path: Path) -> None:
    """Bits by layer and role, knapsack and outline side by side."""
    pyplot = _pyplot()
    rows = {name: i for i, name in enumerate(ROLES)}
    n_layer = 1 + max(int(n.split(".")[1]) for n in plan["names"] if n.startswith("blk."))
    figure, both = pyplot.subplots(2, 1, figsize=(8, 4.4), sharex=True)
    for axes, who in zip(both, ("knapsack", "outline"), strict=True):
        bits = np.full((len(ROLES), n_layer), np.nan)
        other = []
        for name, value in zip(plan["names"], plan[who], strict=True):
            parts = name.split(".")
            if parts[0] == "blk":
                bits[rows[parts[2]], int(parts[1])] = value
            else:
                other.append(f"{parts[0]} {value:g}")
        shown = axes.imshow(bits, aspect="auto", cmap="viridis", vmin=2.0, vmax=8.5, interpolation="nearest")
        axes.set_yticks(range(len(ROLES)), ROLES, fontsize=8)
        axes.set_title(f"{who} ({', '.join(other)} bits)", fontsize=10)
    both[1].set_xlabel("layer")
    figure.colorbar(shown, ax=both, label="bits per weight")
    _save(pyplot, figure, path)
