"""The page's sections on the zoo's tables: rivals, presets, training without a family, what was left out, what the features explain."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

RIVALS = {
    "random": "random",
    "uniform": "uniform",
    "best_preset": "best preset within the bytes",
    "data_free": "data-free score",
    "imatrix": "imatrix knapsack",
    "evolutionary": "evolutionary search, 200 table look-ups",
    "outline": "outline",
    "teacher": "knapsack through the HALO map",
}


def _mean(values: Sequence[float]) -> float:
    """Geometric."""
    return math.exp(statistics.fmean(map(math.log, values)))


def _known(values: Sequence[float | None]) -> list[float]:
    return [v for v in values if v is not None]


def _middle(values: Sequence[float | None]) -> str:
    known = _known(values)
    return f"{statistics.median(known):.2f}" if known else "none fits"


def rivals_section(rivals: dict[str, Any]) -> str:
    """KL over the knapsack's, everything at the same bytes."""
    models = list(dict.fromkeys(rivals["cases"]))
    out = [
        "\n## Predicted KL over the Fisher knapsack's\n\nEvery model at three budgets, 0.25, 0.4 and 0.55 of the way from its smallest to its largest plan; the middle one of the three. "
        "Error feedback in all. The data-free score takes heavy tails and the spectrum of the weights, after the abstract of NSDS (arXiv 2603.17354); the imatrix knapsack "
        "sums llama.cpp's weighted squared error, which says nothing of how much a layer's output matters.\n\n",
        "| model | " + " | ".join(RIVALS.values()) + " |\n|---|" + "---:|" * len(RIVALS) + "\n",
    ]
    for model in models:
        places = [i for i, name in enumerate(rivals["cases"]) if name == model]
        out.append(f"| {model} | " + " | ".join(_middle([rivals[k][i] for i in places]) for k in RIVALS) + " |\n")
    out.append(
        "| **median** | " + " | ".join(f"**{statistics.median(_known(rivals[k])):.3f}**" for k in RIVALS) + " |\n"
    )
    out.append("| **mean** | " + " | ".join(f"**{_mean(_known(rivals[k])):.3f}**" for k in RIVALS) + " |\n")
    out.append(_presets(rivals["presets"]))
    over = statistics.median(
        a / b for a, b in zip(rivals["outline"], rivals["best_preset"], strict=True) if b is not None
    )
    out.append(f"\nThe outline over the best preset within the bytes: median {over:.2f}; the aim was 0.75.\n")
    rows = [("the outline", rivals["outline"]), *rivals["ablations"].items()]
    out.append("\nParts of what is foreseen left out:\n\n| | median | mean |\n|---|---:|---:|\n")
    out += [f"| {name} | {statistics.median(v):.3f} | {_mean(v):.3f} |\n" for name, v in rows]
    return "".join(out)


def _presets(presets: list[dict[str, Any]]) -> str:
    out = [
        "\nAt every stock preset's own bytes, KL over that of the preset's types:\n\n"
        "| model | presets | knapsack: median, lowest, highest | outline: median, lowest, highest |\n|---|---:|---:|---:|\n"
    ]
    for model in dict.fromkeys(p["case"] for p in presets):
        of = [p for p in presets if p["case"] == model]
        cells = []
        for who in ("knapsack", "outline"):
            values = [p[who] for p in of]
            cells.append(f"{statistics.median(values):.2f}, {min(values):.2f}, {max(values):.2f}")
        out.append(f"| {model} | {len(of)} | {cells[0]} | {cells[1]} |\n")
    return "".join(out) + (
        f"\nMedian over all {len(presets)}: {statistics.median(p['knapsack'] for p in presets):.2f} and {statistics.median(p['outline'] for p in presets):.2f}. "
        "The highest is Q8_0 mostly, which leaves no choice.\n"
    )


def _middles(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.3f}, {_mean(values):.3f}"


def _over_seeds(runs: Sequence[dict[str, Any]], key: str) -> str:
    """Median and mean over everything, and the range of the seeds' means."""
    means = [_mean([v for r in runs if r["seed"] == seed for v in r[key]]) for seed in {r["seed"] for r in runs}]
    return f"{_middles([v for r in runs for v in r[key]])} ({min(means):.3f} to {max(means):.3f})"


def training_section(transfer: dict[str, Any], pictures: bool) -> str:
    """What SAC made of it, seeds and ablations."""
    rivals = transfer["rivals"]
    whole = [r for r in transfer["runs"] if not r.get("label")]
    seeds = len({r["seed"] for r in whole})
    out = [
        f"\n### One family left out, {seeds} seeds\n\nMedian and mean over the models and budgets of the family left out; in brackets the lowest and highest mean of the seeds. The first pass is the correction alone, "
        "distilled from the knapsack's tables; Soft Actor-Critic goes on from there: `kept` is the actor with the best score on the models it learned from, the untrained one included, `last` "
        "the actor at the end.\n\n"
        "| family left out | outline | first pass | kept | last | runs that kept a trained actor |\n|---|---:|---:|---:|---:|---:|\n"
    ]
    for family in [*sorted({r["family"] for r in whole}), "all"]:
        of = [r for r in whole if family in (r["family"], "all")]
        names = {name for r in of for name in r["cases"]}
        outline = [v for n, v in zip(rivals["cases"], rivals["outline"], strict=True) if n in names]
        cells = [_middles(outline), *(_over_seeds(of, key) for key in ("first_pass", "kept", "last"))]
        moved = sum(min(v for _, v in r["curve"]["evaluation/mean"]) < r["curve"]["evaluation/mean"][0][1] for r in of)
        out.append(f"| {family} | " + " | ".join(cells) + f" | {moved} of {len(of)} |\n")
    if pictures:
        out.append("\n![Learning curves](results/policy-curves.svg)\n")
    labels = list(dict.fromkeys(r["label"] for r in transfer["runs"] if r.get("label")))
    if labels:
        out.append(
            "\nWith parts of the training left out or changed, seed 0; means over the models and budgets of all families left out:\n\n"
            "| | kept | last | last, models learned from |\n|---|---:|---:|---:|\n"
        )
        for label in ("", *labels):
            of = [r for r in transfer["runs"] if (r.get("label") or "") == label and r["seed"] == 0]
            cells = [_mean([v for r in of for v in r[k]]) for k in ("kept", "last")]
            learned = _mean([r["curve"]["evaluation/mean"][-1][1] for r in of])
            out.append(f"| {label or 'everything'} | {cells[0]:.3f} | {cells[1]:.3f} | {learned:.3f} |\n")
    return "".join(out)


def measured_training_section(measured: dict[str, Any]) -> str:
    """Training with measured KL, and what plans of the family left out measure."""
    runs = measured["runs"]
    n_models = len({name for r in runs for name in r["cases"]})
    seeds = len({r["seed"] for r in runs})
    out = [
        f"\n### Measured KL in training\n\nThe same with {100 * runs[0]['share']:.0f} % of the episodes measured (`ramp-edge train --models`): the plan quantized with error feedback and run by llama.cpp, "
        f"the table's word replaced by what came out; measurements also decide which actor is kept. One family left out, {seeds} seeds, "
        f"{n_models} models that can be measured quickly; on the models left out the plans were measured as well. Median, mean of measured KL over that of the Fisher knapsack's plan.\n\n"
        "| family left out | measured episodes a run | outline, predicted | outline | first pass | kept | last | runs that kept a trained actor |\n"
        "|---|---:|---:|---:|---:|---:|---:|---:|\n"
    ]
    for family in [*sorted({r["family"] for r in runs}), "all"]:
        of = [r for r in runs if family in (r["family"], "all")]
        columns = [("outline", "predicted"), *((who, "measured") for who in ("outline", "first_pass", "kept", "last"))]
        cells = [_middles([v for r in of for v in r[who][kind]]) for who, kind in columns]
        moved = sum(
            min(v for _, v in r["curve"]["measured_evaluation/mean"]) < r["curve"]["measured_evaluation/mean"][0][1]
            for r in of
        )
        episodes = round(statistics.fmean(r["measured_episodes"] for r in of))
        out.append(f"| {family} | {episodes} | " + " | ".join(cells) + f" | {moved} of {len(of)} |\n")
    return "".join(out)


def designs_section(transfer: dict[str, Any]) -> str:
    """Other ways to learn the same, and coarser steps."""
    rivals = transfer["rivals"]
    outline = f"{statistics.median(rivals['outline']):.3f}, {_mean(rivals['outline']):.3f}"
    out = [
        "\n### Other designs\n\nThe knapsack distilled, without any reinforcement: what foreseen KL lacks beside the predicted, by regressions on the eleven features and the tensor's role, "
        "one family left out; networks with 3 seeds. And discrete Soft Actor-Critic, whose actor chooses among the legal types themselves: the actor that the models "
        "learned from like best, the untrained one included. Median, mean of KL over the Fisher knapsack's.\n\n"
        "| design | models learned from | family left out |\n|---|---:|---:|\n"
    ]
    rows = [(f"ridge regression, {r['ridge']:g}", r["learned"], r["left_out"]) for r in transfer["distilled"]]
    rows += [(f"network: {r['design']}", r["learned"], r["left_out"]) for r in transfer["networks"]]
    if of := transfer["discrete"]:
        seeds = len({r["seed"] for r in of})
        kept, last = ([v for r in of for v in r[key]] for key in ("kept", "last"))
        rows.append(
            (
                f"discrete Soft Actor-Critic, {seeds} seed{'s' if seeds > 1 else ''}",
                [v for r in of for v in r["learned"]],
                kept,
            )
        )
        rows.append(("the same, the actor at the end", None, last))
    for name, *ratios in rows:
        cells = ["" if v is None else f"{statistics.median(v):.3f}, {_mean(v):.3f}" for v in ratios]
        out.append(f"| {name} | {cells[0]} | {cells[1]} |\n")
    out.append(f"| outline | | {outline} |\n")
    out.append(
        "\nThe first pass (all eleven features, no role, 3 seeds) taught and asked without a group of features, on the family left out:\n\n| left out | median, mean |\n|---|---:|\n"
    )
    out += [f"| {name} | {_middles(values)} |\n" for name, values in transfer["groups_out"].items()]
    out.append(
        "\nSteps coarser than a tensor lose before anything is learned. The best plans with one type for a whole group, by the knapsack on the true table (no policy of such steps "
        "can do better) and on what is foreseen; where the group has a type in common:\n\n"
        "| one decision for | tasks | true table: median, mean | foreseen: median, mean |\n|---|---:|---:|---:|\n"
    )
    for row in transfer["coarse"]:
        known = {key: _known(row[key]) for key in ("true", "foreseen")}
        cells = [f"{statistics.median(v):.2f}, {_mean(v):.2f}" for v in known.values()]
        out.append(f"| {row['design']} | {len(known['true'])} of {len(row['true'])} | {cells[0]} | {cells[1]} |\n")
    return "".join(out)


def explained_section(explained: dict[str, Any]) -> str:
    """What the features leave open."""
    columns = list(next(iter(explained.values())))
    rows = [
        f"| {model} | " + " | ".join(f"{row[c][0]:.2f}, {row[c][1]:.2f}" for c in columns) + " |\n"
        for model, row in explained.items()
    ]
    return (
        "\n## What the features explain\n\nln of predicted KL per weight in Q4_0: its spread, and what is left unexplained by the first feature as it is and by "
        "ridge regressions fitted on the other families. Root mean square over tensors, and by share of the weights.\n\n"
        "| model | " + " | ".join(columns) + " |\n|---|" + "---:|" * len(columns) + "\n" + "".join(rows)
    )  # fmt: skip
