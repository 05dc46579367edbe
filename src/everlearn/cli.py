"""The command line: one command a step, each a few lines in front of the loop; `--json` prints data for programs."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from everlearn.errors import ConfigError, EverlearnError

if TYPE_CHECKING:
    from everlearn.loop import Loop, Progress
    from everlearn.spec import Spec
    from everlearn.stream import Stream

app = typer.Typer(
    help="Keeps a deployed model learning from its own traffic, and never lets it get quietly worse.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
screen = Console()
aside = Console(stderr=True)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Config = Annotated[Path, typer.Option("--config", "-c", help="The configuration file.")]
Reason = Annotated[str, typer.Option(help="Why, for the log of decisions.")]
TOML = Path("everlearn.toml")
TLS = "TLS, as uvicorn takes it:"

token = typer.Typer(help="Make, list and revoke the API tokens of a server.", no_args_is_help=True)
app.add_typer(token, name="token")


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
    if version:
        from everlearn import __version__

        screen.print(__version__, highlight=False)


@app.command()
def demo(
    folder: Annotated[Path, typer.Option(help="Where the demo keeps its loop.")] = Path("everlearn-demo"),
    mode: Annotated[Literal["gated", "live"], typer.Option(help="Who answers: see the tutorial.")] = "live",
    to_serve: Annotated[bool, typer.Option("--serve", help="Train offline only, then serve; send it traffic.")] = False,
    port: Annotated[int, typer.Option(help="The port of --serve; 0 takes a free one.")] = 8000,
    as_json: Json = False,
) -> None:
    """Watch a model learn from a real electricity market that drifts, and beat the frozen model it started from."""
    import shutil

    import pyarrow.parquet

    from everlearn import config, stream
    from everlearn.loop import Loop
    from everlearn.spec import ServeSpec

    path = folder / f"{mode}.toml"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder / f"{mode}.home", ignore_errors=True)  # the demo always starts from the beginning
    with as_file(files("everlearn") / "data" / "elec2.parquet") as data:
        spec = msgspec.structs.replace(
            _inferred(stream.read(data, label="label"), str(data), path), mode=mode, warm_start=0.1, home=f"{mode}.home"
        )
        rows = stream.read(data, schema=spec.schema)
        if not to_serve:
            config.save(spec, path)
            _run(path, spec, rows, "electricity price: up or down?", as_json)
            return
        first = int(spec.warm_start * (rows.rows or 0))
        spec = msgspec.structs.replace(spec, warm_start=first, source="", serve=ServeSpec(port=port))
        config.save(spec, path)
        with Loop(spec, config.home(spec, path)) as loop:
            loop.run(stream.read(pyarrow.parquet.read_table(data).slice(0, first), schema=spec.schema))
    _serve(spec, config.home(spec, path))


@app.command()
def init(
    data: Annotated[str, typer.Argument(help="A CSV, Parquet or JSON-lines file, or a glob of them.")],
    label: Annotated[str, typer.Option(help="The column to predict.")],
    config_path: Config = TOML,
    force: Annotated[bool, typer.Option(help="Replace a configuration file that exists.")] = False,
    as_json: Json = False,
) -> None:
    """Look at a data file, infer what its fields hold, and write everlearn.toml for you to edit."""
    from everlearn import config, stream

    if config_path.exists() and not force:
        raise ConfigError(f"{config_path} exists already; name another with --config, or replace it with --force")
    spec = _inferred(stream.read(data, label=label), data, config_path)
    config.save(spec, config_path)
    if as_json:
        _print_json({"config": str(config_path), "schema": msgspec.to_builtins(spec.schema)})
        return
    schema = spec.schema
    screen.print(f"[bold]{escape(data)}[/]: predict {escape(schema.label)} ({schema.task})", highlight=False)
    table = Table("field", "kind", box=box.SIMPLE_HEAD)
    for name, kind in schema.fields.items():
        table.add_row(escape(name), kind)
    screen.print(table)
    if schema.classes:
        screen.print(f"classes: {', '.join(map(str, schema.classes))}", highlight=False, markup=False)
    screen.print(f"Wrote {config_path}. Next: everlearn run{_option(config_path)}", highlight=False, markup=False)


@app.command()
def run(
    source: Annotated[
        str, typer.Argument(help="A file, a glob, or - for standard input; else the configured one.")
    ] = "",
    config_path: Config = TOML,
    label: Annotated[str, typer.Option(help="The column to predict, where there is no configuration yet.")] = "",
    warm_start: Annotated[
        float | None, typer.Option(help="Train offline on this share (below 1) or number of rows first.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Take a file, a folder's files or standard input through the loop; goes on where it stopped last time."""
    from everlearn import config, stream

    if source.endswith(".toml"):
        config_path, source = Path(source), ""
    if not config_path.exists() and source and label:
        if source == "-":
            raise ConfigError(f"standard input can be read once only: write {config_path} first, with `everlearn init`")
        config.save(_inferred(stream.read(source, label=label), source, config_path), config_path)
        aside.print(f"wrote {config_path}: look it over, and change what was inferred wrongly", highlight=False)
    spec = config.load(config_path)
    if label and label != spec.schema.label:
        raise ConfigError(f"{config_path} predicts {spec.schema.label!r}, not {label!r}; name another with --config")
    if warm_start is not None:
        spec = msgspec.structs.replace(spec, warm_start=warm_start)
    if not (source or spec.source):
        raise ConfigError(f"nothing to run: name a file, or set `source` in {config_path}")
    where = source or str(config_path.parent / spec.source)
    _run(config_path, spec, stream.read(where, schema=spec.schema), spec.schema.label, as_json)


@app.command()
def serve(
    config_path: Annotated[Path, typer.Argument(help="The configuration file.")] = TOML,
    host: Annotated[str | None, typer.Option(help="Where to listen; beyond localhost only with a token.")] = None,
    port: Annotated[int | None, typer.Option(help="The port; 0 takes a free one.")] = None,
    workers: Annotated[int | None, typer.Option(help="How many processes answer.")] = None,
    ssl_certfile: Annotated[str, typer.Option(help=f"{TLS} the certificate.")] = "",
    ssl_keyfile: Annotated[str, typer.Option(help=f"{TLS} its key.")] = "",
    ssl_keyfile_password: Annotated[str, typer.Option(help=f"{TLS} the password of the key.")] = "",
    log_format: Annotated[Literal["text", "json"], typer.Option(help="How the server's own log is written.")] = "text",
) -> None:
    """Answer over HTTP while learning from the feedback that comes back, with a dashboard at /."""
    from everlearn import config

    spec = config.load(config_path)
    chosen = {"host": host, "port": port, "workers": workers}
    settings = msgspec.structs.replace(spec.serve, **{name: one for name, one in chosen.items() if one is not None})
    spec = msgspec.structs.replace(spec, serve=settings)
    _serve(spec, config.home(spec, config_path), ssl_certfile, ssl_keyfile, ssl_keyfile_password, log_format)


@token.command("create")
def token_create(
    name: Annotated[str, typer.Argument(help="Whose it is; the log calls its labels so.")],
    scope: Annotated[list[str], typer.Option(help="predict, feedback, read or admin; may be given more than once.")],
    days: Annotated[float, typer.Option(help="How long it is good for.")] = 90.0,
    config_path: Config = TOML,
    as_json: Json = False,
) -> None:
    """Make a token, and show it this once; only its hash is kept."""
    from everlearn.app import tokens

    secret = tokens.create(_tokens(config_path), name, scope, days)
    if as_json:
        _print_json({"name": name, "scopes": scope, "token": secret})
    else:
        aside.print(
            f"token {name} ({', '.join(scope)}), good for {days:g} days; it is shown this once:", highlight=False
        )
        screen.print(secret, highlight=False, soft_wrap=True)


@token.command("list")
def token_list(config_path: Config = TOML, as_json: Json = False) -> None:
    """List the tokens: names, scopes and when they expire."""
    from everlearn.app import tokens

    there = tokens.listed(_tokens(config_path))
    if as_json:
        _print_json({"tokens": [msgspec.to_builtins(one) for one in there]})
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
    from everlearn.app import tokens

    tokens.revoke(_tokens(config_path), name)
    if as_json:
        _print_json({"revoked": name})
    else:
        screen.print(f"revoked {escape(name)}")


@app.command()
def versions(config_path: Config = TOML, as_json: Json = False) -> None:
    """List every version: where it came from, how good it was, and what points at it."""
    with _open(config_path) as loop:
        aliases = loop.aliases()
        if as_json:
            rows = [msgspec.to_builtins(one) | {"aliases": aliases.get(one.id, [])} for one in loop.versions()]
            _print_json({"versions": rows})
            return
        metric = "mae" if loop.spec.schema.task == "regression" else "accuracy"
        table = Table("version", "from", "position", metric, "aliases", "reason", box=box.SIMPLE_HEAD)
        table.columns[0].no_wrap = table.columns[2].no_wrap = True
        for one in loop.versions():
            born = f"{one.metrics[metric]:.4f}" if metric in one.metrics else ""
            names = ", ".join(aliases.get(one.id, []))
            parents = " ".join(parent[:6] for parent in one.parents)
            table.add_row(one.id, parents, f"{one.position:,}", born, names, escape(one.reason))
        screen.print(table)


@app.command()
def promote(
    version: Annotated[str, typer.Argument(help="An id, the beginning of one, or an alias.")],
    reason: Reason = "asked for on the command line",
    config_path: Config = TOML,
    as_json: Json = False,
) -> None:
    """Make a version the champion."""
    with _open(config_path) as loop:
        _moved("champion", loop.aliases(), loop.promote(version, reason).id, as_json)


@app.command()
def rollback(
    reason: Reason = "asked for on the command line", config_path: Config = TOML, as_json: Json = False
) -> None:
    """Make the previous champion the champion again."""
    with _open(config_path) as loop:
        _moved("champion", loop.aliases(), loop.rollback(reason).id, as_json)


@app.command()
def check(
    target: Annotated[str, typer.Argument(help="A family, or your_module:build.")],
    spec: Annotated[str, typer.Option(help="More of the model's spec, as JSON.")] = "{}",
    as_json: Json = False,
) -> None:
    """Check that a model keeps the contract, and so can be versioned, resumed, shadowed and rolled back."""
    from everlearn import checks, model

    sys.path.insert(0, "")  # a module in the current folder can be checked without installing it
    try:
        more = msgspec.json.decode(spec, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise ConfigError(f"--spec: got {spec!r}, expected a JSON object: {error}") from error
    whole = {"task": "binary", "dense": 4, "hashed": 64, "classes": 2, "family": target, **more}
    model.find(target)
    results = checks.run(lambda: model.build(whole), spec=whole)
    if as_json:
        _print_json({"ok": all(one.ok for one in results), "checks": [asdict(one) for one in results]})
    else:
        table = Table("check", "", "what was found", box=box.SIMPLE_HEAD)
        for one in results:
            table.add_row(one.name, "[green]passes[/]" if one.ok else "[bold red]fails[/]", escape(one.message))
        screen.print(table)
    if not all(one.ok for one in results):
        raise typer.Exit(1)


def _serve(
    spec: Spec,
    home: Path,
    certificate: str = "",
    key: str = "",
    password: str = "",
    form: Literal["text", "json"] = "text",
) -> None:
    from everlearn.app import logs
    from everlearn.app.supervise import Server

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
    home.mkdir(parents=True, exist_ok=True)
    return home / "tokens.json"


def _run(path: Path, spec: Spec, stream: Stream, title: str, as_json: bool) -> None:
    from everlearn import config, report
    from everlearn.loop import Loop

    home = config.home(spec, path)
    with Loop(spec, home) as loop:
        with _progress(stream, quiet=as_json) as progress:
            result = loop.run(stream, progress)
        result |= {"picture": "", "home": str(home)}
        if result["examples"]:
            result["picture"] = str(home / "report.png")
            loop.picture(result["picture"], title)
        if as_json:
            _print_json(result)
            return
        measured = dict(result["metrics"])
        if spec.mode == "live":
            del measured["challenger"]  # it is the champion that learns
        screen.print(report.summary(result | {"metrics": measured}))
        if spec.mode == "gated" and result["examples"] > 4 * spec.gate.minimum and _left_behind(measured):
            screen.print(
                "The challenger, which learns from every example, is far ahead of the champion: this stream moves "
                'faster than snapshots of a model can follow. Think of [bold]mode = "live"[/].',
                highlight=False,
            )
        for number, row in enumerate(loop.rejected()):
            if number == 10:
                screen.print(f"  ... and {result['rejected'] - 10:,} more")
                break
            screen.print(f"  set aside: {row.source} line {row.line}: {row.reason}", highlight=False, markup=False)
        if not result["rows"]:
            screen.print("nothing new: every row was taken before")
        if result["picture"]:
            screen.print(f"picture: {result['picture']}", highlight=False, soft_wrap=True, markup=False)


def _left_behind(measured: dict[str, dict[str, float]]) -> bool:
    champion, challenger = measured["champion"], measured["challenger"]
    if "accuracy" in champion:
        return challenger["accuracy"] > champion["accuracy"] + 0.05
    return "mae" in champion and challenger["mae"] < 0.8 * champion["mae"]


@contextmanager
def _progress(stream: Stream, quiet: bool) -> Iterator[Progress | None]:
    """A bar with the rate and the champion's metric; nothing where there is no terminal to draw on."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    if quiet or not aside.is_terminal:
        yield None
        return
    columns = BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"), TimeRemainingColumn()
    with Progress(TextColumn(stream.name), *columns, console=aside, transient=True) as bars:
        task = bars.add_task("", total=stream.rows, note="")

        def show(rows: int, loop: Loop) -> None:
            reported = loop.fold.learner.report()["champion"]
            name = "mae" if "mae" in reported else "accuracy"
            metric = f"champion {name} {reported[name]:.4f}" if name in reported else ""
            speed = bars.tasks[0].speed
            rate = f"{speed:,.0f}/s " if speed else ""
            bars.update(task, completed=rows, note=rate + metric)

        yield show


def _open(path: Path) -> Loop:
    from everlearn import config, loop

    spec = config.load(path)
    home = config.home(spec, path)
    if not (home / "log.sqlite").exists():
        raise ConfigError(f"{home} holds no loop yet; start one with `everlearn run{_option(path)}`")
    return loop.Loop(spec, home)


def _inferred(stream: Stream, source: str, path: Path) -> Spec:
    """The spec for a stream, to be written to `path`; its source is noted as it is seen from there."""
    from everlearn.spec import Spec

    return Spec(schema=stream.schema, source=source if source == "-" else os.path.relpath(source, path.parent))


def _moved(alias: str, before: dict[str, list[str]], version: str, as_json: bool) -> None:
    old = next((id for id, names in before.items() if alias in names), "")
    if as_json:
        _print_json({"alias": alias, "previous": old, "version": version})
    else:
        screen.print(f"{alias}: {old} -> [bold]{version}[/]", highlight=False)


def _option(path: Path) -> str:
    return "" if path == TOML else f" --config {path}"


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
