"""The commands for the versions and the learning of a loop: versions, promote, rollback, name, merge, pause, resume."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from everlearn.cli.console import TOML, Config, Json, Reason, home_of, print_json, screen
from everlearn.errors import InputError, InUse, LogError

if TYPE_CHECKING:
    from everlearn.app.admin.queries import LogQueries
    from everlearn.client.records import VersionEntry, VersionPage
    from everlearn.records import Decision
    from everlearn.spec import Spec
    from everlearn.version.registry import Versions

PAGE = 1000  # versions read at a time
PATIENCE = 10.0  # seconds that a command waits for the process that has the loop open


def versions(config_path: Config = TOML, as_json: Json = False) -> None:
    """List all versions with their parents, metrics and aliases."""
    from everlearn import config
    from everlearn.app.admin.queries import LogQueries

    spec = config.load(config_path)
    with closing(
        LogQueries(home_of(spec, config_path), spec.log)
    ) as queries:  # read-only: another process may have the loop open
        entries = [entry for page in _pages(queries) for entry in page.versions]
    if as_json:
        print_json({"versions": [msgspec.to_builtins(entry) for entry in entries]})
        return
    metric = _headline(spec, entries)
    table = Table("version", "from", "position", metric, "aliases", "reason", box=box.SIMPLE_HEAD)
    table.columns[0].no_wrap = table.columns[2].no_wrap = True
    for entry in entries:
        measured = f"{entry.metrics[metric]:.4f}" if metric in entry.metrics else ""
        parents = " ".join(parent[:6] for parent in entry.parents)
        aliases = ", ".join(entry.aliases)
        reason = f"[bold]{escape(entry.note)}[/]\n{escape(entry.reason)}" if entry.note else escape(entry.reason)
        table.add_row(entry.id, parents, f"{entry.unit} {entry.position:,}".lstrip(), measured, aliases, reason)
    screen.print(table)


def promote(
    version: Annotated[str, typer.Argument(help="A version: its id, a unique prefix of it, or an alias.")],
    reason: Reason = "asked for on the command line",
    config_path: Config = TOML,
    as_json: Json = False,
) -> None:
    """Make a version the champion.

    Prints the champion before and after.
    """
    from everlearn.loop import commands

    done = _carry_out(config_path, lambda _, versions: commands.promote(versions, version, reason))
    _moved(*done, as_json)


def rollback(
    to: Annotated[
        str, typer.Option(help="The version to go back to: its id, a unique prefix of it, or a name.")
    ] = "previous",
    reason: Reason = "asked for on the command line",
    config_path: Config = TOML,
    as_json: Json = False,
) -> None:
    """Make the champion before this one the champion again; repeat it to go further back.

    Prints the champion before and after, and where the next rollback would go.
    """
    from everlearn.loop import commands

    old, done, aliases = _carry_out(config_path, lambda _, versions: commands.rollback(versions, reason, None, to))
    _moved(old, done, aliases, as_json)
    if not as_json:
        before = aliases.get("previous")
        further = f"the next rollback goes back to {before}" if before else "no champion was before it"
        screen.print(f"{further}; `everlearn promote {old}` undoes this one", highlight=False)


def pause(reason: Reason = "asked for on the command line", config_path: Config = TOML, as_json: Json = False) -> None:
    """Pause learning: labels are scored, and no model learns them, until `everlearn resume`."""
    from everlearn.loop import commands

    _, done, _ = _carry_out(config_path, lambda *_: commands.pause(reason))
    _print_done(done, "learning is paused; `everlearn resume` ends that", as_json)


def resume(reason: Reason = "asked for on the command line", config_path: Config = TOML, as_json: Json = False) -> None:
    """Learn on after a pause, from the next label."""
    from everlearn.loop import commands

    _, done, _ = _carry_out(config_path, lambda *_: commands.resume(reason))
    _print_done(done, "models learn again, from the next label", as_json)


def name(
    version: Annotated[str, typer.Argument(help="A version: its id, a unique prefix of it, or a name.")],
    called: Annotated[str, typer.Argument(metavar="[NAME]", help="The name; letters, digits, dots, dashes.")] = "",
    note: Annotated[str, typer.Option(help="A note that is shown with the version.")] = "",
    reason: Reason = "asked for on the command line",
    config_path: Config = TOML,
    as_json: Json = False,
) -> None:
    """Give a version a name by which it can be found, a note, or both."""
    from everlearn.loop import commands

    _, done, _ = _carry_out(config_path, lambda _, versions: commands.name(versions, version, called, note, reason))
    _print_done(done, f"{done.version}: {' · '.join(text for text in (called, note) if text)}", as_json)


def merge(
    a: Annotated[str, typer.Argument(help="A version: its id, a unique prefix of it, or an alias.")],
    b: Annotated[str, typer.Argument(help="Another version.")],
    method: Annotated[str, typer.Option(help="linear, ema, fisher, slerp, task, ties or dare.")] = "linear",
    weight: Annotated[
        list[float] | None, typer.Option(help="The weight of A; repeat it for B. Default: equal weights.")
    ] = None,
    ancestor: Annotated[
        str, typer.Option(help="The ancestor to compare both with; default: the nearest common one.")
    ] = "",
    density: Annotated[
        float, typer.Option(help="The share of differences that ties and dare keep; 0: their default.")
    ] = 0.0,
    scale: Annotated[float, typer.Option(help="The factor of the difference that is added to the ancestor.")] = 1.0,
    seed: Annotated[int, typer.Option(help="The seed of the random choice in dare.")] = 0,
    reason: Reason = "asked for on the command line",
    config_path: Config = TOML,
    as_json: Json = False,
) -> None:
    """Merge two versions into a new one.

    The new version runs in shadow, and the gate compares it with the champion. Prints its id.
    """
    from everlearn.loop import commands
    from everlearn.merge import How

    how = How(method=method, weights=tuple(weight or ()), density=density, scale=scale, seed=seed)
    _, done, _ = _carry_out(
        config_path, lambda spec, versions: commands.merge(spec, versions, (a, b), how, reason, ancestor)
    )
    merged = done.detail["merge"]
    if as_json:
        print_json({"version": done.version, **{name: merged[name] for name in ("parents", "method", "ancestor")}})
    else:
        joined = " and ".join(merged["parents"])
        screen.print(f"{joined} -> [bold]{done.version}[/] ({merged['method']}), in shadow", highlight=False)


def _headline(spec: Spec, versions: Sequence[VersionEntry]) -> str:
    """Return the metric to list versions by: the setting, or the first usual one that versions were stored with."""
    if spec.metric == "cost":
        return "log_loss"  # versions are stored with the losses of their comparison
    if spec.metric != "auto":
        return spec.metric
    if spec.schema.task not in ("regression", "bandit"):
        return "accuracy"
    return "pinball" if any("pinball" in entry.metrics for entry in versions) else "mae"


def _pages(queries: LogQueries) -> Iterator[VersionPage]:
    after: int | None = 0
    while after is not None:
        page = queries.version_page(after, PAGE)
        yield page
        after = page.next


def _carry_out(path: Path, make: Callable[[Spec, Versions], Decision]) -> tuple[str, Decision, dict[str, str]]:
    """Append a command to the log and carry it out here, or wait for the process that has the loop open.

    Return the id of the champion before it, the decision that the loop took, and the aliases after it. Raises
    InputError if the loop rejects the command, and LogError if the other process does not carry it out in time.
    """
    from everlearn import config
    from everlearn.app.admin.queries import LogQueries
    from everlearn.events import connect, url_of
    from everlearn.loop import commands
    from everlearn.loop.loop import Loop

    spec = config.load(path)
    home = home_of(spec, path)
    log = connect(url_of(home, spec.log.url, spec.log.book), spec.log.durability)
    with closing(log), closing(LogQueries(home, spec.log)) as queries:
        old = queries.aliases().get("champion", "")
        command = make(spec, queries.versions)
        (position,) = log.append([command])
        with suppress(InUse):
            Loop(spec, home).close()
        deadline = time.monotonic() + PATIENCE
        while (done := commands.outcome(log, command, position)) is None and time.monotonic() < deadline:
            time.sleep(0.05)
        queries.follow()
        aliases = queries.aliases()
    if done is None:
        raise LogError(
            f"the command is in the log at position {position}, but the process that has {home} open has not read it "
            "yet; it will be carried out as soon as that process continues"
        )
    if done.action == "reject":
        raise InputError(done.reason)
    return old, done, aliases


def _print_done(done: Decision, text: str, as_json: bool) -> None:
    """Print what a command did."""
    if as_json:
        print_json({"version": done.version, "detail": done.detail})
    else:
        screen.print(text, highlight=False)


def _moved(old: str, done: Decision, aliases: dict[str, str], as_json: bool) -> None:
    """Print the champion before and after a command."""
    if as_json:
        print_json({"alias": "champion", "previous": old, "version": done.version})
    else:
        screen.print(f"champion: {old} -> [bold]{done.version}[/]", highlight=False)
