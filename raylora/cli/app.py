"""The command ``raylora``: which words exist, and how every ending becomes an exit code.

Exit codes: 0 done, 1 the run failed, 2 bad input, 130 interrupted. Heavy libraries are imported by the
command that needs them, so that ``--help`` and ``validate --spec-only`` answer at once.
"""

from __future__ import annotations

import gc
import signal
import sys
import traceback

import typer
from typer.main import get_command

from raylora import __version__, log
from raylora.cli.chat import chat
from raylora.cli.combine import combine
from raylora.cli.config import init, schema, validate
from raylora.cli.doctor import doctor
from raylora.cli.export import export
from raylora.cli.generate import generate
from raylora.cli.look import estimate, inspect
from raylora.cli.merge import merge
from raylora.cli.output import err, fail, results_alone, silence_bars, tell_program
from raylora.cli.report import report
from raylora.cli.run import resume, train
from raylora.cli.runs import runs
from raylora.cli.supervise import supervise
from raylora.cli.sweep import sweep
from raylora.errors import InterruptedRunError, RayloraError

INTERRUPTED = InterruptedRunError.exit_code
QUIET = ("--quiet", "-q")
ALLOCATIONS_BETWEEN_LOOKS = 50_000
"""Python's own number is far lower: its looks for garbage take a seventh of the time of importing Ray and torch."""

app = typer.Typer(
    help="Fine-tune language models with LoRA adapters over a sharded, quantized base on Ray.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
WHILE_TRAINING = (init, validate, estimate, train, sweep, resume, supervise, inspect, runs, report)
AFTER_TRAINING = (generate, chat, combine, merge, export)
for command in (*WHILE_TRAINING, *AFTER_TRAINING, doctor, schema):
    app.command()(command)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"raylora {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
    quiet: bool = typer.Option(False, *QUIET, help="Only warnings and errors on stderr."),
) -> None:
    log.configure("WARNING" if quiet else "INFO")
    # In a log they are noise, and across the live display of a run they are torn.
    if not err.is_terminal or context.invoked_subcommand in ("train", "sweep", "resume", "combine"):
        silence_bars()


def main() -> None:
    """Run the command line and exit with its code."""
    gc.set_threshold(ALLOCATIONS_BETWEEN_LOOKS)
    # A job's end by SIGTERM (Ray Jobs, Kubernetes, systemd) saves a checkpoint like Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    command = get_command(app)
    try:
        with results_alone():
            code = command.main(_words(), prog_name="raylora", standalone_mode=False)
        if code == INTERRUPTED:  # the parser's answer to Ctrl-C, where no run had begun
            code = fail(InterruptedRunError("interrupted"))
    except RayloraError as error:
        code = fail(error)
    except KeyboardInterrupt:
        code = fail(InterruptedRunError("interrupted"))
    except Exception as error:  # the edge: what is no error of ours is a usage error of the parser's, or a bug
        code = _foreign(error)
    gc.freeze()  # Python would take torch, Ray and MLflow apart object by object, which takes seconds
    sys.exit(code or 0)


def _words() -> list[str]:
    """What was typed; ``--quiet`` is every command's and may stand anywhere."""
    words = sys.argv[1:]
    others = [word for word in words if word not in QUIET]
    return others if len(others) == len(words) else [QUIET[0], *others]


def _foreign(error: Exception) -> int:
    """Tell an error that is none of ours; returns its exit code."""
    show = getattr(error, "show", None)
    if show is None:
        traceback.print_exception(error)
        return tell_program(error, 1)
    show()
    return tell_program(error, int(getattr(error, "exit_code", 2)))
