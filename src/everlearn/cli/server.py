"""The commands around a server: serve, token, feedback, rejudge, erase."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from everlearn.cli.console import TOML, Config, Json, Reason, aside, home_of, print_json, screen
from everlearn.errors import ConfigError

if TYPE_CHECKING:
    from everlearn.app.process import Pool
    from everlearn.spec import Spec

token = typer.Typer(help="Create, list and revoke API tokens.", no_args_is_help=True)

Follow = Annotated[
    bool, typer.Option("--follow", help="Answer with the models of the learner on another machine; learn nothing.")
]
Processes = Annotated[
    int | None, typer.Option(min=1, max=256, help="A folder: how many processes learn, and answer; default: cores.")
]


def serve(
    file: Annotated[
        Path | None, typer.Argument(help="The configuration file; the same as --config. Or a folder of many loops.")
    ] = None,
    config_path: Config = TOML,
    host: Annotated[
        str | None, typer.Option(help="Listen at this address; other than localhost only with a token.")
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Listen at this port; 0 selects a free one.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, max=256, help="The number of worker processes.")] = None,
    ssl_certfile: Annotated[str, typer.Option(help="Serve over TLS with this certificate file.")] = "",
    ssl_keyfile: Annotated[str, typer.Option(help="The private key of the certificate.")] = "",
    ssl_keyfile_password: Annotated[str, typer.Option(help="The password of the private key.")] = "",
    log_format: Annotated[Literal["text", "json"], typer.Option(help="The format of the server's log.")] = "text",
    follow: Follow = False,
    processes: Processes = None,
    memory: Annotated[int, typer.Option(min=1, help="A folder: the MiB of all loops in memory together.")] = 1024,
    loop_rate: Annotated[
        float, typer.Option(min=0, help="A folder: requests a second to one loop, from each process; 0: any number.")
    ] = 0.0,
    create: Annotated[
        bool, typer.Option("--create", help="A folder: create a loop on its first request, from the template.")
    ] = False,
    on: Annotated[
        str, typer.Option(help="Serve on the nodes of a cluster: ray://HOST:PORT, or ray for the one that runs here.")
    ] = "",
    least: Annotated[
        int, typer.Option("--min", min=0, help="On a cluster: the fewest servers beside the learner.")
    ] = 1,
    most: Annotated[
        int | None,
        typer.Option("--max", min=0, help="On a cluster: the most servers beside the learner; default: --min."),
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", help="On a cluster: return once all places answer.")] = False,
) -> None:
    """Serve predictions over HTTP, and learn from feedback.

    Prints the addresses of the dashboard and of the API, and runs until it is interrupted. With --follow, another
    server of the same loop learns, whose log is in a database and whose snapshots are in an object store. For a folder,
    one server hosts all loops in it, at /loops/NAME. With --on, a cluster runs one server that learns and others that
    follow, and replaces those that it loses.
    """
    from everlearn import config
    from everlearn.app.process import Pool

    path = file or config_path
    tls = ssl_certfile, ssl_keyfile, ssl_keyfile_password
    of_one, of_many = workers is not None or follow or bool(on), processes is not None or create or loop_rate > 0
    _check_options(path.is_dir(), of_one, of_many)
    if path.is_dir():
        return start_many(
            path, Pool(processes or cores(), memory << 20, loop_rate, create), host, port, tls, log_format
        )
    spec = with_address(config.load(path), host, port, workers)
    if on:
        from everlearn.cli.places import serve_on

        if follow or ssl_keyfile_password:
            raise ConfigError(f"--on: got it with {'--follow' if follow else '--ssl-keyfile-password'}; leave that out")
        home, upto = config.home(spec, path), least if most is None else most
        return serve_on(on, spec, home, least, upto, detach, ssl_certfile, ssl_keyfile, log_format)
    return start(spec, config.home(spec, path), *tls, log_format, follow)


def _check_options(many: bool, of_one: bool, of_many: bool) -> None:
    """Raise `ConfigError` for options of a single loop with a folder of loops, and the other way round."""
    if many and of_one:
        raise ConfigError("--workers, --follow, --on: got one for a folder of loops; expected --processes")
    if not many and of_many:
        raise ConfigError("--processes, --create, --loop-rate: got one for a single loop; expected a folder of loops")


def rejudge(
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep what the old verdicts taught, beside the new ones.")
    ] = False,
    newest: Annotated[
        int, typer.Option(min=0, help="Judge only this many of the newest pairs, and keep the old verdicts; 0: all.")
    ] = 0,
    config_path: Config = TOML,
    as_json: Json = False,
) -> None:
    """Ask the judge again about pairs that it judged under another rubric, model or function.

    This works while a server runs. The new verdicts are in the log as they come, as corrections; then the loop learns
    again without the old ones.
    """
    from everlearn import config
    from everlearn.app.generator.rejudging import rejudge_log

    spec = config.load(config_path)
    found = rejudge_log(home_of(spec, config_path), spec, keep=keep, newest=newest)
    if as_json:
        print_json(found._asdict())
        return
    screen.print(
        f"{found.pairs:,} pairs judged again by {found.source}, {found.changed:,} of them differently; cost "
        f"{found.cost:g}",
        highlight=False,
        markup=False,
    )
    for source in found.replaced:
        screen.print(f"  the loop learns again without {source}", highlight=False, markup=False)


def feedback(
    file: Annotated[str, typer.Argument(help="A CSV, Parquet or JSON-lines file, a glob, or - for standard input.")],
    id: Annotated[str, typer.Option(help="The column with the ids of the predictions.")],
    label: Annotated[str, typer.Option(help="The column with the true labels.")],
    source: Annotated[str, typer.Option(help="The source of the labels; default: the file name.")] = "",
    config_path: Config = TOML,
    as_json: Json = False,
) -> None:
    """Append labels from a file to the log.

    This works while a server runs. Labels that are in the log already do not count again. Prints the number of accepted
    labels, and the rejected rows.
    """
    from everlearn import config
    from everlearn.loop import label_file

    spec = config.load(config_path)
    result = label_file.append(home_of(spec, config_path), spec, file, id=id, label=label, by=source or Path(file).name)
    if as_json:
        print_json(asdict(result) | {"rejected": [msgspec.to_builtins(row) for row in result.rejected]})
        return
    screen.print(f"{result.accepted:,} labels accepted, {result.known:,} of them known already", highlight=False)
    for row in result.rejected[:10]:
        line = f"line {row.line}: " if row.line else ""
        screen.print(f"  rejected: {line}{row.reason}", highlight=False, markup=False)
    if result.refused > 10:
        screen.print(f"  ... and {result.refused - 10:,} more")


def erase(
    where: Annotated[list[str], typer.Option(help="FIELD=VALUE. Repeat it to require several values.")],
    reason: Reason = "asked for on the command line",
    config_path: Config = TOML,
    as_json: Json = False,
) -> None:
    """Erase all events about a subject.

    Models that had learned from them are rebuilt without them. Prints the numbers of both. Stop the server first.
    """
    from everlearn import config
    from everlearn.loop.erase import erase as erased

    pairs = [text.partition("=") for text in where]
    if wrong := [text for text, (_, equals, _) in zip(where, pairs, strict=True) if not equals]:
        raise ConfigError(f"--where: got {wrong[0]!r}; expected FIELD=VALUE, for instance --where user=4711")
    spec = config.load(config_path)
    decision = erased(home_of(spec, config_path), spec, {field: value for field, _, value in pairs}, reason)
    if as_json:
        print_json(msgspec.to_builtins(decision))
        return
    counts = ", ".join(f"{number:,} of kind {kind}" for kind, number in decision.detail["events"].items())
    erased_events = counts or "the key of the subject, whose events the broker had removed"
    screen.print(f"erased {erased_events}; {len(decision.detail['versions']):,} versions rebuilt", highlight=False)
    if dropped := decision.detail.get("dropped"):
        screen.print(
            f"{len(dropped):,} versions dropped, since the broker has removed events up to position "
            f"{decision.detail['removed']:,} that they had learned: {', '.join(dropped)}",
            highlight=False,
        )


@token.command("create")
def token_create(
    name: Annotated[str, typer.Argument(help="The name of the token, recorded with its labels.")],
    scope: Annotated[list[str], typer.Option(help="predict, feedback, read or admin. Repeat it for several.")],
    days: Annotated[float, typer.Option(help="The number of days until the token expires.")] = 90.0,
    config_path: Config = TOML,
    as_json: Json = False,
) -> None:
    """Create a token.

    Prints it once: only its hash is stored.
    """
    from everlearn.app.auth import tokens

    secret = tokens.create(_tokens(config_path), name, scope, days)
    if as_json:
        print_json({"name": name, "scopes": scope, "token": secret})
    else:
        aside.print(
            f"token {name} ({', '.join(scope)}), valid for {days:g} days; it cannot be shown again:", highlight=False
        )
        screen.print(secret, highlight=False, soft_wrap=True)


@token.command("list")
def token_list(config_path: Config = TOML, as_json: Json = False) -> None:
    """List the tokens with their scopes and expiry dates."""
    from everlearn.app.auth import tokens

    entries = tokens.listed(_tokens(config_path))
    if as_json:
        print_json({"tokens": [msgspec.to_builtins(entry) for entry in entries]})
        return
    table = Table("name", "scopes", "expires", box=box.SIMPLE_HEAD)
    for entry in entries:
        expires = f"{datetime.fromtimestamp(entry.expires):%Y-%m-%d %H:%M}"
        table.add_row(escape(entry.name), ", ".join(entry.scopes), expires)
    screen.print(
        table if entries else "there are no tokens; create one with `everlearn token create NAME --scope predict`"
    )


@token.command("revoke")
def token_revoke(
    name: Annotated[str, typer.Argument(help="The name of the token.")],
    config_path: Config = TOML,
    as_json: Json = False,
) -> None:
    """Revoke a token.

    A running server refuses it within two seconds.
    """
    from everlearn.app.auth import tokens

    tokens.revoke(_tokens(config_path), name)
    if as_json:
        print_json({"revoked": name})
    else:
        screen.print(f"revoked {escape(name)}")


def start(
    spec: Spec,
    home: Path,
    certificate: str = "",
    key: str = "",
    password: str = "",
    form: Literal["text", "json"] = "text",
    follow: bool = False,
) -> None:
    """Run a server until it is stopped, and print its address."""
    from everlearn.app import logs
    from everlearn.app.supervisor import Server

    logs.start(form, "supervisor", [password] if password else [])
    opened = Server(spec, home, certificate=certificate, key=key, key_password=password, logs=form, follow=follow)
    with opened as server:
        aside.print(
            f"serving [bold]{escape(spec.schema.label)}[/] ({spec.mode} mode) at [bold]{server.url}[/]\n"
            f"dashboard {server.url}/ · API {server.url}/docs · metrics {server.url}/metrics · Ctrl-C stops",
            highlight=False,
        )
        server.wait()


def start_many(
    folder: Path,
    pool: Pool,
    host: str | None,
    port: int | None,
    tls: tuple[str, str, str],
    form: Literal["text", "json"] = "text",
) -> None:
    """Run a server of the loops of a folder until it is stopped, and print its address."""
    from everlearn.app import logs
    from everlearn.app.many.folder import LoopFolder
    from everlearn.app.supervisor import Server

    certificate, key, password = tls
    logs.start(form, "supervisor", [password] if password else [])
    loops = LoopFolder(folder, pool.processes)
    spec = with_address(loops.service, host, port, pool.processes)
    opened = Server(spec, folder, certificate=certificate, key=key, key_password=password, logs=form, pool=pool)
    with opened as server:
        aside.print(
            f"serving {len(loops.names()):,} loops of {escape(str(folder))} at [bold]{server.url}[/]\n"
            f"all loops {server.url}/ · one {server.url}/loops/NAME/ · metrics {server.url}/metrics · Ctrl-C stops",
            highlight=False,
        )
        server.wait()


def with_address(spec: Spec, host: str | None, port: int | None, workers: int | None) -> Spec:
    """Return settings with the address and the number of workers that options give."""
    options = {"host": host, "port": port, "workers": workers}
    given = {name: value for name, value in options.items() if value is not None}
    return msgspec.structs.replace(spec, serve=msgspec.structs.replace(spec.serve, **given))


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _tokens(path: Path) -> Path:
    """Return the token file of a loop, or of a folder of loops; create its home if needed."""
    from everlearn import config

    home = path if path.is_dir() else config.home(config.load(path), path)
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    return home / "tokens.json"
