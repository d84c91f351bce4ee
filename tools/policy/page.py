"""docs/policy.md from the records: the design in words, the figures from nowhere else."""

from __future__ import annotations

from typing import Any

from policy.measured import builds_section, target_section, tuned_section
from policy.predicted import (
    designs_section,
    explained_section,
    measured_training_section,
    rivals_section,
    training_section,
)
from ramp_edge.calibrate.feature_list import FEATURES

_DESIGN = """# The allocation policy

Made by `tools/policy_page.py`; the figures are those of the records in `docs/results/`.

The knapsack of [method.md](method.md) needs gradients of the model. The policy allocates from forward passes alone (`--allocator ramp`), so it
also has to work on a model that nothing was ever learned from. After RAMP's abstract (arXiv 2603.17891); features, environment, reward and training are
this project's own design.

## What it sees

Eleven features of every tensor (`ramp_edge/calibrate/feature_list.py`), from the moments pass, the weights and one pass of 512 tokens (`calibrate/noise.py`): each
linear layer in turn carries the error that 4-bit rounding with feedback leaves to the end of its block; then all layers of the block together carry theirs through the
untouched rest of the model to the predictions, and the KL there is shared out. A tied embedding is foreseen by both its sides. Logarithms are centred on the model's mean by size.

"""
_METHOD = """
Beside the features every type's error is known: the codecs at work on 48 rows of each tensor, over that of plain rounding (`quantize/type_errors.py`), and what the device's
rounding of activations adds. So forward passes foresee a whole table of KL, up to one factor, and no number in it comes from another model.

The policy's **first pass** goes over all tensors: a network of three hidden layers of 32, distilled from the knapsack's tables of other models (`train/correction.py`), says from the eleven
features by which factor foreseen KL is wrong. Then it decides tensor by tensor. The state holds features, the budget (bits left, bits so far, the range still open, shares, seconds left) and
the **outline**: the bits that the knapsack on the foreseen (and corrected) table gives this tensor (`allocate/prices.py`); where other decisions have left other bytes than that plan counted
on, the bits at the lowest price that still fits. An actor that has learned nothing is that outline; `--policy outline` is the outline without the first pass, nothing trained at all.

## What it does

One step a tensor in execution order; the action is a bit width, and the HALO map (`allocate/halo.py`) takes the nearest legal type, among equal bits the one that costs the
tensor least. What a reserve plan needs for the tensors to come, in bytes and in seconds, is always kept free, so no action can break a limit (`allocate/episode.py`, a property test).
The reward (`allocate/reward.py`): quality, as the logarithm of KL beside the knapsack's; worse counts more than better; unused bytes; excess and its cliff; speed. Soft Actor-Critic
with batched episodes (`ramp_edge/train/`, `ramp-edge train`), the replay seeded with the knapsack's episodes; with `--models` a share of the episodes is quantized and measured. `ramp-edge train`
writes an ONNX file with its training record, which a build runs by onnxruntime; `--policy FILE` takes another than the package's.
"""
_IN_SHORT = """
## In short

- For a family never trained on the policy comes to 1.02 times the Fisher knapsack's predicted KL (median; the outline, with nothing trained, to 1.03; the aim was 1.10), and to 0.25 to 0.45 of the
  stock preset's measured KL (the aim was 0.75). Measured on the nine small models, each left out of the training with its family: 1.012, the outline 1.020.
- What is learned is the first pass: it is better than the outline on eight of the nine models left out, by 1.5 % in the mean as measured, 0.9 % as predicted. On the embedded model and SmolLM2 it
  makes no difference that 2,040 tokens could tell. Whatever learns it, with whichever features, comes to about the same: ridge regression, a network that sees each tensor alone, attention over all tensors.
- Soft Actor-Critic on top of it adds nothing: of 15 runs none, of 6 with measured KL two kept a trained actor, and those gained nothing on the family left out. Choosing among types instead of bits
  (discrete Soft Actor-Critic) never left the outline; steps coarser than a tensor lose 6 to 59 %.
- Tuning on the target gives at most 2 to 3 percent; the aim of 0.95 looks out of reach by types alone.
- The policy's pass takes less time than the gradients': 4.8 s beside 22 s for the embedded model and 53 s beside 84 s for SmolLM2-135M at `balanced`, on 2 cores.
- What forward passes foresee is KL in nats as well, and `--effort fast` predicts with it (here without the first pass): the embedded model at 3.5, 4.85 and 6.5 bits 0.0302, 0.0058 and 0.00114 foreseen,
  0.0321, 0.0060 and 0.00121 measured; SmolLM2 at 4.85 bits 0.0695 and 0.0729 ± 0.0044 (510 tokens each, raspberry-pi-5-8gb).
- `--allocator best`, which measures both, is the default of `balanced` and `max`; `fast` takes the policy alone. Whole builds at 4.85 bits, 2 cores: 23 s instead of 60 s for the
  embedded model, 2 min 28 s instead of 6 min 44 s for SmolLM2; there the three finalists measured 0.0516 (knapsack, folded), 0.0544 (policy, folded) and 0.0582 (knapsack).
"""
_PICTURE = """
![Bits by layer and role](results/policy-allocation.svg)
"""
_LEARNING = """
## What learning adds

The outline is where every actor starts, and moving a tensor off a plan that is nearly right costs more than a step's features can tell it to gain: what is learned, the first pass learns.
"""
_OPEN = """
## Not measured

- Models above 300 million weights.
"""


def page(
    transfer: dict[str, Any],
    measured: dict[str, Any],
    builds: list[dict[str, Any]],
    tuned: list[dict[str, Any]],
    target: dict[str, dict[str, dict[str, float]]],
    trials: dict[str, Any],
    zoo: dict[str, Any],
    *,
    pictures: bool,
) -> str:
    """The page."""
    parts = [
        _DESIGN,
        _features(),
        _METHOD,
        _IN_SHORT,
        builds_section(builds),
        tuned_section(tuned),
        target_section(target),
        rivals_section(transfer["rivals"]),
        _PICTURE if pictures else "",
        _LEARNING,
        training_section(transfer, pictures),
        measured_training_section(measured),
        designs_section(transfer),
        _trials(trials),
        explained_section(transfer["explained"]),
        _zoo(zoo),
        _OPEN,
    ]
    return "".join(parts)


def _features() -> str:
    rows = [f"| {f.name} | {f.group} | `{f.formula.replace('|', chr(92) + '|')}` | {f.why} |\n" for f in FEATURES]
    return "| feature | group | formula | why |\n|---|---|---|---|\n" + "".join(rows)


def _trials(trials: dict[str, Any]) -> str:
    """Designs that were tried before what is foreseen was as good as it is."""
    rows = [{"design": "the outline of then, nothing learned", **trials["outline"]}, *trials["trials"]]
    table = [
        "| "
        + " | ".join(
            [r["design"], *("" if r[k] is None else f"{r[k]:.3f}" for k in ("train_mean", "test_median", "test_mean"))]
        )
        + " |\n"
        for r in rows
    ]
    return (
        "\n### Other designs, tried earlier\n\n"
        + trials["note"]
        + "\n\n| design | train, mean | test, median | test, mean |\n|---|---:|---:|---:|\n"
        + "".join(table)
    )


def _zoo(zoo: dict[str, Any]) -> str:
    """How little the zoo was trained."""
    rows = [
        f"| {n} | {f['minutes']:g} | {f['tokens_seen']:,} | {f['held_out_perplexity']:.0f} |\n" for n, f in zoo.items()
    ]
    return (
        "\n## The zoo\n\nSmall models by `tools/build_zoo.py`, trained on public-domain books for minutes on one core: little trained, "
        "which makes their tables steeper than a real model's.\n\n| model | minutes | tokens seen | held-out perplexity |\n|---|---:|---:|---:|\n"
        + "".join(rows)
    )
