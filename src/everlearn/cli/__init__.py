"""The command line `everlearn`.

Arguments and configuration files come in; tables, or one JSON object with `--json`, go out on standard output, and
progress and errors on standard error. `loops` holds the commands around a loop, `versions` those that move it by hand,
`server` those around a server, `places` those on a cluster, `export` those that take a model out, `homes` those on a
home as a whole, `registry` those around a registry of MLflow, `advice` the command that recommends settings, `benching`
the one that compares models, and `console` what they share; the work itself is in `loop/`, `app/`, `scale/`,
`bridges/`, `evaluate/` and `advise/`.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.markup import escape

from everlearn.cli import advice, benching, export, homes, loops, places, registry, server, versions
from everlearn.cli.console import aside, screen
from everlearn.errors import EverlearnError

app = typer.Typer(
    help="Keep a deployed model learning from its own traffic, and roll it back if it gets worse.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (
    loops.demo,
    advice.advise,
    benching.bench,
    loops.init,
    loops.run,
    server.serve,
    places.places,
    server.feedback,
    server.rejudge,
    versions.versions,
    versions.promote,
    versions.rollback,
    versions.name,
    versions.merge,
    export.show,
    export.export,
    versions.pause,
    versions.resume,
    server.erase,
    homes.backup,
    homes.rebuild,
    loops.check,
):
    app.command()(command)
app.add_typer(server.token, name="token")
app.add_typer(registry.mlflow, name="mlflow")


def main() -> None:
    """Run the command line; report an expected error as one message, with exit status 1."""
    try:
        app()
    except (EverlearnError, OSError) as error:
        aside.print(f"[bold red]everlearn:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        aside.print("everlearn: interrupted; run the same command again to resume from the last checkpoint")
        sys.exit(130)


@app.callback(invoke_without_command=True)
def everlearn(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Keep a deployed model learning from its own traffic, and roll it back if it gets worse."""
    if "" not in sys.path and not sys.flags.safe_path:
        sys.path.insert(0, "")  # so that models in the current folder can be imported, as with `python -m everlearn`
    if version:
        from everlearn import __version__

        screen.print(__version__, highlight=False)
