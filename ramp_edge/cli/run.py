"""`ramp-edge run`: a GGUF continues a prompt, in process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ramp_edge.threads import MAX_THREADS


def run(
    model: Annotated[Path, typer.Argument(help="A build folder (its model.gguf) or a GGUF file.", metavar="OUT|GGUF")],
    prompt: Annotated[str, typer.Option("--prompt", "-p", help="Text to continue.")],
    tokens: Annotated[int, typer.Option("--tokens", "-n", min=1, help="Most tokens to generate.")] = 128,
    temperature: Annotated[
        float, typer.Option("--temp", min=0.0, help="0 takes the most probable token each time.")
    ] = 0.7,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the sampling.")] = 0,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, max=MAX_THREADS, help="Default: chosen by timing.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of streaming text.")] = False,
) -> None:
    """Continue a prompt with a built model, streaming the text to stdout and the speed to stderr."""
    from ramp_edge.evaluate.generate import continue_text

    path = runnable_file(model)

    def show(text: str) -> None:
        typer.echo(text, nl=False)

    result = continue_text(
        path,
        prompt,
        n_tokens=tokens,
        seed=seed,
        temperature=temperature,
        threads=threads,
        on_text=None if as_json else show,
    )
    if as_json:
        record = {
            "model": str(path),
            "prompt": prompt,
            "text": result.text,
            "prompt_tokens": result.prompt_tokens,
            "generated_tokens": result.generated_tokens,
            "prefill_tok_s": round(result.prefill_tok_s, 2),
            "decode_tok_s": round(result.decode_tok_s, 2),
            "temperature": temperature,
            "seed": seed,
            "context_full": result.full_context is not None,
        }
        typer.echo(json.dumps(record, indent=2, ensure_ascii=False))
    else:
        typer.echo()
        typer.echo(
            f"{result.prompt_tokens} prompt tokens at {result.prefill_tok_s:.1f} tok/s, "
            f"{result.generated_tokens} generated at {result.decode_tok_s:.1f} tok/s",
            err=True,
        )
    if result.full_context is not None:
        typer.echo(
            f"warning: stopped after {result.generated_tokens} of {tokens} tokens: "
            f"the model's context of {result.full_context} tokens is full",
            err=True,
        )


def model_file(path: Path) -> Path:
    """The GGUF that a path means. Raises UsageError where there is none."""
    from ramp_edge.errors import UsageError

    file = path / "model.gguf" if path.is_dir() else path
    if not file.is_file():
        raise UsageError(f"{file} does not exist", hint="give a folder that `ramp-edge build` wrote, or a GGUF file")
    return file


def runnable_file(path: Path) -> Path:
    """`model_file` with its header checked, as libllama aborts the process on some damage."""
    from ramp_edge.model.runnable import check_runnable

    file = model_file(path)
    check_runnable(file)
    return file
