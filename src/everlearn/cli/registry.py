"""The commands around a registry of MLflow: copy a loop to it, and start one from it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from everlearn.cli.console import TOML, Config, Json, home_of, print_json, screen
from everlearn.errors import ConfigError

mlflow = typer.Typer(help="Copy versions to a registry of MLflow, or start a loop from one.", no_args_is_help=True)

Uri = Annotated[str, typer.Option("--uri", help="The tracking server or store; default: `mlflow.uri` of the settings.")]


@mlflow.command()
def push(
    uri: Uri = "",
    name: Annotated[str, typer.Option(help="The registered model; default: `mlflow.name`, or that of the home.")] = "",
    config_path: Config = TOML,
    as_json: Json = False,
) -> None:
    """Copy versions, metrics and aliases of a loop to a registry of MLflow.

    Versions that are there already are not copied again. Works while a server runs.
    """
    from everlearn import config
    from everlearn.bridges.mlflow import Follower

    spec = config.load(config_path)
    follower = Follower(home_of(spec, config_path), spec, uri, name)
    done = follower.push()
    if as_json:
        print_json({"name": follower.name, **done._asdict()})
        return
    lost = f"; {len(done.without_arrays):,} have no arrays any more" if done.without_arrays else ""
    moved = "".join(f", {alias} is {number}" for alias, number in done.aliases.items())
    screen.print(f"{follower.name}: {len(done.versions):,} new versions{lost}{moved}", highlight=False, soft_wrap=True)


@mlflow.command()
def start(
    model: Annotated[str, typer.Argument(help="models:/NAME@ALIAS or models:/NAME/NUMBER")],
    uri: Uri = "",
    config_path: Config = TOML,
) -> None:
    """Write the settings of a loop that begins with a registered model.

    Its files are copied to a folder beside them, so the loop needs the registry no more.
    """
    import tomli_w

    from everlearn.bridges.mlflow import start as started

    path = Path(config_path)
    if path.exists():
        raise ConfigError(f"{path} exists already; name another file with --config")
    name = model.removeprefix("models:/").replace("/", "-").replace("@", "-")
    found = started(model, uri, path.parent / name)
    path.write_text(tomli_w.dumps(found), encoding="utf-8")
    screen.print(f"{path}: begins with {found['model']['uri']}", highlight=False, soft_wrap=True)
