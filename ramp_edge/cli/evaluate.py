"""`ramp-edge eval`: perplexity of a GGUF, and its KL divergence to a reference."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ramp_edge.threads import MAX_THREADS

if TYPE_CHECKING:
    from ramp_edge.records import EvaluationResult


def evaluate(
    model: Annotated[Path, typer.Argument(help="A build folder (its model.gguf) or a GGUF file.", metavar="OUT|GGUF")],
    text: Annotated[Path | None, typer.Option("--text", help="UTF-8 text to score.")] = None,
    reference: Annotated[
        Path | None,
        typer.Option("--reference", help="Unquantized GGUF to compare with: KL divergence, or paired accuracy."),
    ] = None,
    n_ctx: Annotated[
        int | None,
        typer.Option("--ctx", min=16, help="Tokens in a window.", show_default="512; with --tasks the model's"),
    ] = None,
    windows: Annotated[int | None, typer.Option("--windows", min=1, help="Most windows to score; default all.")] = None,
    tasks: Annotated[
        str | None, typer.Option("--tasks", help="Multiple-choice tasks instead of a text: hellaswag,piqa,... or all.")
    ] = None,
    task_data: Annotated[
        Path | None, typer.Option("--task-data", help="Folder of the tasks' files.", envvar="RAMP_EDGE_TASK_DATA")
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Most items of a task, evenly spread; default all.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, max=MAX_THREADS, help="Default: chosen by timing.")
    ] = None,
    progress: Annotated[
        str, typer.Option(help="With --tasks: auto, plain or off (on stderr).", envvar="RAMP_EDGE_PROGRESS")
    ] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure perplexity and KL divergence as llama-perplexity defines them, or accuracy on multiple-choice tasks."""
    from ramp_edge.cli.run import runnable_file
    from ramp_edge.cli.tasks import check_choice, evaluate_tasks

    if check_choice(text=text, tasks=tasks, windows=windows, limit=limit) or text is None:
        evaluate_tasks(
            model,
            tasks=tasks or "",
            folder=task_data,
            reference=reference,
            limit=limit,
            n_ctx=n_ctx,
            threads=threads,
            progress=progress,
            as_json=as_json,
        )
        return
    n_ctx = n_ctx or 512
    from ramp_edge.evaluate.evaluator import evaluate_model, read_text, reference_logits, tokenize_text
    from ramp_edge.model.gguf_file import GgufTensors, file_sha256, quantized_part
    from ramp_edge.model.output_head import read_output_head
    from ramp_edge.shipped import cache_dir

    path = runnable_file(model)
    content = read_text(text)
    results: list[EvaluationResult] = []
    base = None
    if reference is not None:
        reference_path = runnable_file(reference)
        opened = GgufTensors(reference_path)
        if part := quantized_part(opened):
            typer.echo(
                f"warning: the reference {reference_path} is itself quantized ({part}): "
                "the divergence is measured to it, not to the original model",
                err=True,
            )
        result, base = reference_logits(
            reference_path,
            tokenize_text(reference_path, content),
            n_ctx=n_ctx,
            n_windows=windows,
            head=read_output_head(opened),
            cache_dir=cache_dir() / "references",
            model_sha256=file_sha256(reference_path),
            label=str(reference_path),
            threads=threads,
        )
        results.append(result)
    tokens = None if base is not None else tokenize_text(path, content)
    results.append(
        evaluate_model(path, tokens, n_ctx=n_ctx, n_windows=windows, reference=base, label=str(path), threads=threads)
    )
    if as_json:
        typer.echo(json.dumps([asdict(result) for result in results], indent=2))
        return
    for result in results:
        typer.echo(_describe(result))


def _describe(result: EvaluationResult) -> str:
    from ramp_edge.units import human_bytes, human_seconds

    p = result.perplexity
    line = (
        f"{result.label} ({human_bytes(result.file_bytes)}): perplexity {p.value:.4f} +- {p.std_error:.4f} "
        f"over {p.n_tokens} tokens in {p.n_windows} windows, {human_seconds(result.seconds)}"
    )
    d = result.divergence
    if d is None:
        return line
    return (
        f"{line}\n  KL divergence {d.mean_kl:.6f} +- {d.std_error:.6f} nats/token, median {d.median_kl:.6f}, "
        f"99% {d.p99_kl:.6f}, same top token {100 * d.top_token_agreement:.2f} %"
    )
