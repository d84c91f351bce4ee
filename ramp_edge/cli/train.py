"""`ramp-edge train`: cases in, a policy for --policy out."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from ramp_edge.cli.options import ProgressOption
from ramp_edge.errors import UsageError

TRAIN_EXAMPLES = """Examples:

  ramp-edge train zoo/cases -o policy.onnx --folder run/

  ramp-edge train zoo/cases -o policy.onnx --folder run/ --resume

  ramp-edge train zoo/cases -o policy.onnx --models zoo/ --calibration groups_merged.txt

  tensorboard --logdir run/
"""


def train_command(
    cases: Annotated[
        list[Path], typer.Argument(help="Case files of tools/build_zoo.py, or folders of them.", show_default=False)
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="The policy to write, ONNX.")] = Path("policy.onnx"),
    folder: Annotated[Path, typer.Option(help="Checkpoint and TensorBoard logs.")] = Path("train"),
    rounds: Annotated[int, typer.Option(help="Rounds of episodes and updates.", min=1)] = 60,
    leave_out: Annotated[
        str | None, typer.Option(help="Do not learn from this family: llama, qwen3, gemma3.", show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything random.", min=0)] = 0,
    models: Annotated[
        list[Path] | None,
        typer.Option(
            help="GGUF files of cases, or folders of them: a share of the episodes is measured on these.",
            show_default=False,
        ),
    ] = None,
    measured_share: Annotated[float, typer.Option(help="Of the episodes, with --models.", min=0.0, max=1.0)] = 0.05,
    calibration: Annotated[
        list[Path] | None,
        typer.Option(help="Text for --models, as the cases had; default: each model's own.", show_default=False),
    ] = None,
    device: Annotated[str, typer.Option(help="For --models: the device of the cases.")] = "raspberry-pi-5",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was stopped.")] = False,
    progress: ProgressOption = "auto",
) -> None:
    """Train the allocation policy by Soft Actor-Critic. Needs the train extra."""
    from ramp_edge.cli.progress import attached

    try:
        import onnx  # noqa: F401
        import tensorboard  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"ramp-edge train needs the train extra: {error}", hint='pip install "ramp-edge[train]"'
        ) from error
    from ramp_edge.train.files import read_cases, train
    from ramp_edge.train.run import TrainSettings

    if calibration and not models:
        raise UsageError("--calibration is the text that --models are measured with", hint="name the models as well")
    found = [case for case in read_cases(cases) if case.family != leave_out]
    if not found:
        raise UsageError(f"--leave-out {leave_out}: no other family is left", hint="give cases of several families")
    settings = TrainSettings(rounds=rounds, seed=seed)
    with attached(progress) as events, ExitStack() as stack:
        truth = None
        if models:
            from ramp_edge.train.measured_models import measured_models, models_of

            named = models_of(models, found)
            truth = stack.enter_context(
                measured_models(named, calibration or (), events, share=measured_share, device=device)
            )
        record = train(found, settings, folder, output, events, resume=resume, truth=truth)
    typer.echo(f"{output}: trained on {len(found)} models. KL over the knapsack's, at their budgets:")
    for what in ("kl_over_knapsack", "measured_kl_over_knapsack"):
        scores = record.get(what)
        if isinstance(scores, dict):
            kind = "measured" if what.startswith("measured") else "predicted"
            for name, score in scores.items():
                numbers = f"median {score['median']:.3f}  mean {score['mean']:.3f}  worst {score['worst']:.3f}"
                typer.echo(f"  {kind}  {name:<10} {numbers}")
