"""Entry point: registers the verbs, and is the only place where errors become exit codes.

Verbs import their machinery inside their functions, so that `--help` never loads torch or libllama.
"""

from __future__ import annotations

import os
import sys
import traceback
from typing import Annotated, Any, TextIO, cast

import typer
from typer.core import TyperGroup

from ramp_edge import __version__
from ramp_edge.cli import devices, runtime, targets
from ramp_edge.cli.bench import BENCH_EXAMPLES, bench_command
from ramp_edge.cli.build import BUILD_EXAMPLES, build_command
from ramp_edge.cli.deploy import DEPLOY_EXAMPLES, deploy_command
from ramp_edge.cli.evaluate import evaluate
from ramp_edge.cli.gate import GATE_EXAMPLES, INIT_EXAMPLES, gate_command, gate_init_command
from ramp_edge.cli.inspect import inspect_file
from ramp_edge.cli.probe import PROBE_EXAMPLES, probe_command
from ramp_edge.cli.report import REPORT_EXAMPLES, report_command
from ramp_edge.cli.run import run
from ramp_edge.cli.stdout import CheckedStdout
from ramp_edge.cli.train import TRAIN_EXAMPLES, train_command
from ramp_edge.errors import RampEdgeError

EXIT_BUG = 70
EXIT_INTERRUPTED = 130
_GOES_ON = {
    "build": "; the same command with --resume goes on where it was",
    "deploy": "; the same command goes on where it was",
}


class _Interrupted(Exception):
    """Ctrl-C during the verb that it names."""


class _Verbs(TyperGroup):
    """Runs a verb so that `main` learns of Ctrl-C (typer exits silently) and of a stdout that cannot take the result."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if " ".join(args[:2]) in self.commands:
            args = [" ".join(args[:2]), *args[2:]]  # `gate init` beside `gate RECORD`
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        try:
            result = super().invoke(ctx)
            if sys.stdout is not None:
                # Left to the interpreter's exit, a full disk would show only as an ignored exception.
                sys.stdout.flush()
        except KeyboardInterrupt as error:
            raise _Interrupted(ctx.invoked_subcommand) from error
        return result


app = typer.Typer(
    name="ramp-edge",
    cls=_Verbs,
    help="Compile a language model for a device: the best mixed-precision GGUF that fits its memory, bit and speed budget.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start here:  ramp-edge build --device raspberry-pi-5",
)
app.command("build", epilog=BUILD_EXAMPLES)(build_command)
app.command("run", epilog='Example:  ramp-edge run out -p "Once upon a time" --tokens 64')(run)
app.command("eval", epilog="Example:  ramp-edge eval out --text wiki.test.raw --reference model-f16.gguf --windows 16")(
    evaluate
)
app.command("inspect", epilog="Example:  ramp-edge inspect out/model.gguf --sort size")(inspect_file)
app.command("deploy", epilog=DEPLOY_EXAMPLES)(deploy_command)
app.command("bench", epilog=BENCH_EXAMPLES)(bench_command)
app.command("probe", epilog=PROBE_EXAMPLES)(probe_command)
app.command("gate", epilog=GATE_EXAMPLES)(gate_command)
app.command("gate init", epilog=INIT_EXAMPLES)(gate_init_command)
app.command("report", epilog=REPORT_EXAMPLES)(report_command)
app.command("train", epilog=TRAIN_EXAMPLES)(train_command)
app.add_typer(targets.app, name="targets")
app.add_typer(devices.app, name="devices")
app.add_typer(runtime.app, name="runtime")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ramp-edge {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", envvar="RAMP_EDGE_DEBUG", help="Show Python tracebacks of errors.")
    ] = False,
) -> None:
    """Compile a language model for a device."""
    if debug:
        os.environ["RAMP_EDGE_DEBUG"] = "1"


def main() -> None:
    """Run the command line and exit with the error's own code."""
    if sys.stdout is not None:
        sys.stdout = cast(TextIO, CheckedStdout(sys.stdout))
    try:
        app()
    except RampEdgeError as error:
        _report(f"error: {error.message}", error.hint)
        sys.exit(error.exit_code)
    except (_Interrupted, KeyboardInterrupt) as error:
        verb = str(error.args[0]) if isinstance(error, _Interrupted) else ""
        _report("interrupted" + _GOES_ON.get(verb, ""), "")
        sys.exit(EXIT_INTERRUPTED)
    except Exception as error:
        _report(
            f"internal error: {type(error).__name__}: {error}",
            "this is a bug in ramp-edge: run again with --debug and report the traceback",
        )
        sys.exit(EXIT_BUG)


def _report(message: str, hint: str) -> None:
    if os.environ.get("RAMP_EDGE_DEBUG"):
        traceback.print_exc()
    print(f"ramp-edge: {message}", file=sys.stderr)
    if hint:
        print(f"  -> {hint}", file=sys.stderr)


if __name__ == "__main__":
    main()
