"""The commands on a home as a whole: backup, rebuild, and the dry run of an upgrade."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from everlearn.cli.console import TOML, Config, Json, home_of, print_json, screen

if TYPE_CHECKING:
    from everlearn.loop.upgrade import Difference

_THEN = {
    "kept": "the home keeps its value",
    "changed": "changes when the home is opened",
    "refused": "[bold red]refused[/]: put the value back",
}


def backup(
    to: Annotated[Path, typer.Argument(metavar="DEST", help="An empty folder, or the name of a new one.")],
    config_path: Config = TOML,
    as_json: Json = False,
) -> None:
    """Copy the home of a loop, while a server runs or not.

    The copy is a home as of one moment. To go back to it, stop the server and put it in the place of the home.
    """
    from everlearn import config
    from everlearn.events import has_broker
    from everlearn.loop.backup import backup as copied

    spec = config.load(config_path)
    done = copied(home_of(spec, config_path), to)
    if as_json:
        print_json(asdict(done))
        return
    what = "the book (events are copied with the tools of the broker)" if has_broker(spec.log.url) else "the log"
    text = f"{done.folder}: {what} up to event {done.position:,}, {done.kept:,} of {done.versions:,} versions"
    screen.print(f"{escape(text)}, {done.bytes / 1e6:,.1f} MB", highlight=False, soft_wrap=True)


def rebuild(
    source: Annotated[
        Path | None, typer.Option(help="The file whose rows are the log; default: `source` of the settings.")
    ] = None,
    config_path: Config = TOML,
    as_json: Json = False,
) -> None:
    """Make versions and checkpoints again from the log alone.

    Use it when snapshots were lost or damaged. Nothing changes unless the replay gives equal bytes. Stop the server
    first.
    """
    from everlearn import config
    from everlearn.loop.rebuild_home import rebuild_home

    spec = config.load(config_path)
    if source is None and spec.source:
        source = config_path.parent / spec.source
    done = rebuild_home(home_of(spec, config_path), spec.log, source)
    if as_json:
        print_json(asdict(done))
        return
    whole = done.versions - done.forgotten
    text = f"{whole:,} versions have equal bytes, {done.restored:,} of them were missing"
    screen.print(f"{text}; champion: [bold]{done.champion}[/]", highlight=False)
    if done.erased:
        text = f"{done.erased:,} events were erased before: metrics made again do not count them"
        gone = f", and {done.forgotten:,} versions that had learned from them stay without arrays"
        screen.print(f"{text}{gone if done.forgotten else ''}", highlight=False)


def print_differences(found: list[Difference], home: Path, as_json: bool) -> None:
    """Print the settings of a home that differ from those of a new loop; exit with status 1 if one is refused."""
    from everlearn import __version__

    if as_json:
        print_json({"home": str(home), "release": __version__, "settings": [asdict(one) for one in found]})
    elif not found:
        screen.print(f"all settings of {escape(str(home))} are those of a new loop", highlight=False)
    else:
        table = Table("setting", "home", "new loop", "then", box=box.SIMPLE_HEAD)
        for one in found:
            table.add_row(one.setting, escape(str(one.home)), escape(str(one.new)), _THEN[one.then])
        screen.print(table)
    if any(one.then == "refused" for one in found):
        raise typer.Exit(1)
