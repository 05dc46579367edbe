"""The command line: one command a step, each a few lines in front of the loop; `--json` prints data for programs."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.markup import escape

from everlearn.cli import advice, loops, server
from everlearn.cli.console import aside, screen
from everlearn.errors import EverlearnError

app = typer.Typer(
    help="Keeps a deployed model learning from its own traffic, and never lets it get quietly worse.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (
    loops.demo,
    advice.advise,
    loops.init,
    loops.run,
    server.serve,
    server.feedback,
    loops.versions,
    loops.promote,
    loops.rollback,
    loops.merge,
    server.erase,
    loops.check,
):
    app.command()(command)
app.add_typer(server.token, name="token")


def main() -> None:
    """Run the command line; errors that Everlearn raises on purpose are one message and exit status 1."""
    try:
        app()
    except (EverlearnError, OSError) as error:
        aside.print(f"[bold red]everlearn:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        aside.print("everlearn: stopped; the same command goes on from the last checkpoint")
        sys.exit(130)


@app.callback(invoke_without_command=True)
def everlearn(
    version: Annotated[bool, typer.Option("--version", help="Print the version, and nothing else.")] = False,
) -> None:
    """Keeps a deployed model learning from its own traffic, and never lets it get quietly worse."""
    if "" not in sys.path and not sys.flags.safe_path:
        sys.path.insert(0, "")  # models and networks of the current folder are found, as with `python -m everlearn`
    if version:
        from everlearn import __version__

        screen.print(__version__, highlight=False)
