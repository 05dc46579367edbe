"""The commands around a server: serve, its tokens, labels that come in a file, and erasure."""

from __future__ import annotations

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
    from everlearn.spec import Spec

TLS = "TLS, as uvicorn takes it:"

token = typer.Typer(help="Make, list and revoke the API tokens of a server.", no_args_is_help=True)


def serve(
    file: Annotated[Path | None, typer.Argument(help="The configuration file, as --config names it.")] = None,
    config_path: Config = TOML,
    host: Annotated[str | None, typer.Option(help="Where to listen; beyond localhost only with a token.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="The port; 0 takes a free one.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, max=256, help="How many processes answer.")] = None,
    ssl_certfile: Annotated[str, typer.Option(help=f"{TLS} the certificate.")] = "",
    ssl_keyfile: Annotated[str, typer.Option(help=f"{TLS} its key.")] = "",
    ssl_keyfile_password: Annotated[str, typer.Option(help=f"{TLS} the password of the key.")] = "",
    log_format: Annotated[Literal["text", "json"], typer.Option(help="How the server's own log is written.")] = "text",
) -> None:
    """Answer over HTTP while learning from the feedback that comes back, with a dashboard at /."""
    from everlearn import config

    path = file or config_path
    spec = config.load(path)
    chosen = {"host": host, "port": port, "workers": workers}
    settings = msgspec.structs.replace(spec.serve, **{name: one for name, one in chosen.items() if one is not None})
    spec = msgspec.structs.replace(spec, serve=settings)
    start(spec, config.home(spec, path), ssl_certfile, ssl_keyfile, ssl_keyfile_password, log_format)


def feedback(
    file: Annotated[str, typer.Argument(help="A CSV, Parquet or JSON-lines file, a glob, or - for standard input.")],
    id: Annotated[str, typer.Option(help="The column that says which prediction.")],
    label: Annotated[str, typer.Option(help="The column with what its answer should have been.")],
    source: Annotated[str, typer.Option(help="Who says so; else the file's name.")] = "",
    config_path: Config = TOML,
    as_json: Json = False,
) -> None:
    """Append the labels of a file to the log, also while a server runs; the same file twice counts once."""
    from everlearn import config
    from everlearn.loop import label_file

    spec = config.load(config_path)
    told = label_file.append(home_of(spec, config_path), spec, file, id=id, label=label, by=source or Path(file).name)
    if as_json:
        print_json(asdict(told) | {"rejected": [msgspec.to_builtins(row) for row in told.rejected]})
        return
    screen.print(f"{told.accepted:,} labels taken, {told.known:,} known already", highlight=False)
    for row in told.rejected[:10]:
        line = f"line {row.line}: " if row.line else ""
        screen.print(f"  set aside: {line}{row.reason}", highlight=False, markup=False)
    if told.refused > 10:
        screen.print(f"  ... and {told.refused - 10:,} more")


def erase(
    where: Annotated[list[str], typer.Option(help="FIELD=VALUE; more than once: all of them must hold.")],
    reason: Reason = "asked for on the command line",
    config_path: Config = TOML,
    as_json: Json = False,
) -> None:
    """Forget a subject: erase its events, and rebuild what had learned from them. Stop the server first."""
    from everlearn import config
    from everlearn.loop.erase import erase as erased

    pairs = [one.partition("=") for one in where]
    if wrong := [one for one, (_, equals, _) in zip(where, pairs, strict=True) if not equals]:
        raise ConfigError(f"--where: got {wrong[0]!r}, expected FIELD=VALUE, for instance --where user=4711")
    spec = config.load(config_path)
    decision = erased(home_of(spec, config_path), spec, {field: value for field, _, value in pairs}, reason)
    if as_json:
        print_json(msgspec.to_builtins(decision))
        return
    counts = ", ".join(f"{number:,} of kind {kind}" for kind, number in decision.detail["events"].items())
    screen.print(f"erased {counts}; {len(decision.detail['versions']):,} versions rebuilt", highlight=False)


@token.command("create")
def token_create(
    name: Annotated[str, typer.Argument(help="Whose it is; the log calls its labels so.")],
    scope: Annotated[list[str], typer.Option(help="predict, feedback, read or admin; may be given more than once.")],
    days: Annotated[float, typer.Option(help="How long it is good for.")] = 90.0,
    config_path: Config = TOML,
    as_json: Json = False,
) -> None:
    """Make a token, and show it this once; only its hash is kept."""
    from everlearn.app.auth import tokens

    secret = tokens.create(_tokens(config_path), name, scope, days)
    if as_json:
        print_json({"name": name, "scopes": scope, "token": secret})
    else:
        aside.print(
            f"token {name} ({', '.join(scope)}), good for {days:g} days; it is shown this once:", highlight=False
        )
        screen.print(secret, highlight=False, soft_wrap=True)


@token.command("list")
def token_list(config_path: Config = TOML, as_json: Json = False) -> None:
    """List the tokens: names, scopes and when they expire."""
    from everlearn.app.auth import tokens

    there = tokens.listed(_tokens(config_path))
    if as_json:
        print_json({"tokens": [msgspec.to_builtins(one) for one in there]})
        return
    table = Table("name", "scopes", "expires", box=box.SIMPLE_HEAD)
    for one in there:
        table.add_row(escape(one.name), ", ".join(one.scopes), f"{datetime.fromtimestamp(one.expires):%Y-%m-%d %H:%M}")
    screen.print(table if there else "there are no tokens; make one with `everlearn token create NAME --scope predict`")


@token.command("revoke")
def token_revoke(
    name: Annotated[str, typer.Argument(help="The name of the token.")],
    config_path: Config = TOML,
    as_json: Json = False,
) -> None:
    """Revoke a token; a running server knows within a second or two."""
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
) -> None:
    from everlearn.app import logs
    from everlearn.app.supervisor import Server

    logs.start(form, "supervisor", [password] if password else [])
    with Server(spec, home, certificate=certificate, key=key, key_password=password, logs=form) as server:
        aside.print(
            f"everlearn serves [bold]{escape(spec.schema.label)}[/] ({spec.mode}) at [bold]{server.url}[/]\n"
            f"dashboard {server.url}/ · API {server.url}/docs · metrics {server.url}/metrics · Ctrl-C stops",
            highlight=False,
        )
        server.wait()


def _tokens(path: Path) -> Path:
    from everlearn import config

    home = config.home(config.load(path), path)
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    return home / "tokens.json"
