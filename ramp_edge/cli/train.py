"""`ramp-edge train`: cases in, a policy for --policy out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ramp_edge.errors import UsageError

TRAIN_EXAMPLES = """Examples:

  ramp-edge train zoo/cases -o policy.onnx --folder run/

  ramp-edge train zoo/cases -o policy.onnx --folder run/ --resume

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
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was stopped.")] = False,
    progress: Annotated[
        str, typer.Option(help="auto, plain or off (on stderr).", envvar="RAMP_EDGE_PROGRESS")
    ] = "auto",
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

    found = [case for case in read_cases(cases) if case.family != leave_out]
    if not found:
        raise UsageError(f"--leave-out {leave_out}: no other family is left", hint="give cases of several families")
    settings = TrainSettings(rounds=rounds, seed=seed)
    with attached(progress) as events:
        record = train(found, settings, folder, output, events, resume=resume)
    scores = record["kl_over_knapsack"]
    assert isinstance(scores, dict)
    typer.echo(f"{output}: trained on {len(found)} models. Predicted KL over the knapsack's, at their budgets:")
    for name, score in scores.items():
        typer.echo(f"  {name:<8} median {score['median']:.3f}  mean {score['mean']:.3f}  worst {score['worst']:.3f}")
