"""The command line application: subcommands, `--version`, `--debug`, and the one place that handles errors."""

from __future__ import annotations

import sys
import traceback
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from profiler import __version__
from profiler.checking.plain_text import one_line, printable
from profiler.cli import calibrate, demo, doctor, fit, listing, plan, profile, report, verify
from profiler.errors import ProfilerError
from profiler.libraries.private_names import told_of

_EPILOG = (
    "Exit codes: 0 done, 2 wrong usage or input, 3 findings, 4 a gate failed, 1 anything else."
)

# Typer handles these well itself. The base class of its usage errors has no public name, and `| head` closes the pipe.
_TYPERS_OWN = (typer.Exit, typer.Abort, *typer.BadParameter.__mro__[1:3], BrokenPipeError)


class _Group(TyperGroup):
    """A command group that accepts `--debug` anywhere, and turns every exception into one line and an exit code."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Accept `--debug` in any position, so that it can be added at the end of a failed command."""
        ctx.obj = {"debug": "--debug" in args}
        parsed: list[str] = super().parse_args(ctx, [one for one in args if one != "--debug"])
        return parsed

    def invoke(self, ctx: Any) -> Any:
        """Run the subcommand."""
        try:
            return super().invoke(ctx)
        except Exception as error:
            if isinstance(error, _TYPERS_OWN):
                raise
            raise typer.Exit(_tell(error, debug=ctx.obj["debug"])) from error


def _tell(error: Exception, *, debug: bool) -> int:
    """Print `error` on standard error, and return its exit code."""
    if isinstance(error, ImportError) and (told := told_of(error)) is not None:
        error = ProfilerError(told)
    known = isinstance(error, ProfilerError)
    if debug:
        print(printable("".join(traceback.format_exception(error))), end="", file=sys.stderr)
    message = str(error) if known else f"unexpected {type(error).__name__}: {error}"
    hint = "" if known or debug else " (--debug shows the traceback)"
    print(f"vram: {one_line(' '.join(message.split()))}{hint}", file=sys.stderr)
    return error.exit_code if isinstance(error, ProfilerError) else 1


def _print_version(asked: bool) -> None:
    if asked:
        print(f"vram {__version__}")
        raise typer.Exit


app = typer.Typer(
    name="vram",
    cls=_Group,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=_EPILOG,
)


@app.callback()
def _vram(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of a failure.")
    ] = False,
) -> None:
    """Size a diffusers pipeline for a GPU, with or without one, and plan its offloading."""


app.command("demo")(demo.demo)
app.command("list")(listing.list_known)
app.command("profile")(profile.profile)
app.command("plan")(plan.plan)
app.command("fit")(fit.fit)
app.command("verify")(verify.verify)
app.command("report")(report.report)
app.command("calibrate")(calibrate.calibrate)
app.command("doctor")(doctor.doctor)
