"""Bytes against KL, everything in one picture: what lies lower and further left is better."""

from __future__ import annotations

from pathlib import Path

from comparison.records import AUTOROUND, EMBEDDING, KNAPSACK, OURS, PRESET, Comparison

STYLES = {
    PRESET: ("llama.cpp presets", "o", "#b2182b"),
    EMBEDDING: ("presets, other embedding type", "o", "#f4a582"),
    KNAPSACK: ("imatrix knapsack", "^", "#8073ac"),
    AUTOROUND: ("AutoRound", "D", "#e08214"),
    OURS: ("ramp-edge", "s", "#2166ac"),
}


def draw(comparison: Comparison, path: Path) -> None:
    """An SVG; the same record gives the same bytes."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    matplotlib.rcParams.update({"svg.hashsalt": "ramp-edge", "svg.fonttype": "none", "font.size": 10})
    figure, axes = pyplot.subplots(figsize=(8, 5))
    for kind, (name, marker, color) in STYLES.items():
        points = sorted((r.file_bytes / 1e6, r.kl) for r in comparison.rows if r.kind == kind)
        if points:
            x, y = zip(*points, strict=True)
            line = "-" if kind in (OURS, PRESET) else "none"
            axes.plot(x, y, linestyle=line, marker=marker, color=color, label=name, markersize=5, linewidth=1.2)
    for row in comparison.rows:
        if row.kind == PRESET:
            axes.annotate(
                row.label,
                (row.file_bytes / 1e6, row.kl),
                xytext=(4, 4),
                textcoords="offset points",
                fontsize=6.5,
                rotation=25,
            )
    axes.set(yscale="log", xlabel="file size, MB", ylabel="mean KL to the f16 model, nats per token")
    axes.set_title(comparison.title)
    axes.grid(visible=True, which="both", alpha=0.25, linewidth=0.5)
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, format="svg", metadata={"Date": None})
    pyplot.close(figure)
