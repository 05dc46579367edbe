"""The commands around the places of a loop on a cluster: serve there, list them, and stop."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from everlearn.cli.console import TOML, Config, Json, aside, print_json, screen
from everlearn.errors import BlobError, ConfigError

if TYPE_CHECKING:
    from everlearn.client.place_records import PlaceList
    from everlearn.spec import Spec
    from everlearn.version.blobs import SharedFiles

LOOK = 1.0  # seconds between two looks at the list
LEAVING = 120.0  # seconds that all places have to end


def places(
    stop: Annotated[bool, typer.Option("--stop", help="End all places: the loop leaves the cluster.")] = False,
    config_path: Config = TOML,
    as_json: Json = False,
) -> None:
    """List the servers of a loop on a cluster, with their addresses and load.

    The list is in the object store of the loop, so no cluster needs to be reached.
    """
    from everlearn import config
    from everlearn.version.blobs import shared_files

    spec = config.load(config_path)
    store = shared_files(config.home(spec, config_path), spec.log)
    if stop:
        order_stop(store)
    listed = read(store)
    if as_json:
        print_json(msgspec.to_builtins(listed))
        return
    screen.print(_table(listed) if listed.places else "the loop has no places; `everlearn serve --on ray` starts some")
    if listed.trouble:
        screen.print(listed.trouble, highlight=False, markup=False)


def serve_on(
    address: str,
    spec: Spec,
    home: Path,
    least: int,
    most: int,
    detach: bool,
    certificate: str = "",
    key: str = "",
    form: Literal["text", "json"] = "text",
) -> None:
    """Place a loop on a cluster, and print its places; unless detached, show changes until Ctrl-C, then end them."""
    import importlib

    from everlearn.app.supervisor import check_followed
    from everlearn.scale.place_messages import PlacesPlan
    from everlearn.version.blobs import shared_files

    if most < least:
        raise ConfigError(f"--max: got {most}; expected at least --min, which is {least}")
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    check_followed(spec, home, followers=most)
    plan = PlacesPlan(
        spec=spec, loop=home.resolve().name, least=least, most=most, certificate=certificate, key=key, logs=form
    )
    tokens = home / "tokens.json"
    check_open(spec, tokens)
    placer = importlib.import_module("everlearn.scale.ray_placer")
    epoch = placer.deploy(address, plan, tokens.read_bytes() if tokens.exists() else None)
    store = shared_files(home, spec.log)
    try:
        _follow(store, epoch, lambda listed: detach and _complete(listed))
        if detach:
            screen.print(_table(read(store)))
    except KeyboardInterrupt:
        aside.print("the places end; what was acknowledged is in the log", highlight=False)
        order_stop(store)


def check_open(spec: Spec, tokens: Path) -> None:
    """Raise ConfigError if other machines can reach the places and there is no token."""
    from everlearn.app.auth import check_bind

    check_bind(spec, tokens)


def order_stop(store: SharedFiles) -> None:
    """Order all places to end, and wait until they have. Raises `BlobError` if some do not."""
    from everlearn.client.place_records import PlaceList
    from everlearn.scale.place_messages import PLACES

    end = time.monotonic() + LEAVING
    while (found := store.get(PLACES)) is not None:
        listed = msgspec.json.decode(found[0], type=PlaceList)
        if not listed.places:
            return
        if not listed.stopped:
            store.replace(PLACES, msgspec.json.encode(msgspec.structs.replace(listed, stopped=True)), found[1])
        if time.monotonic() > end:
            raise BlobError(
                f"{len(listed.places)} places have not ended within {LEAVING:.0f} seconds; is the head of the cluster "
                "up? Places end once it is, or with their nodes"
            )
        time.sleep(LOOK / 4)


def read(store: SharedFiles) -> PlaceList:
    """Return the list of places; an empty one if there is none."""
    from everlearn.client.place_records import PlaceList
    from everlearn.scale.place_messages import PLACES

    found = store.get(PLACES)
    return msgspec.json.decode(found[0], type=PlaceList) if found else PlaceList()


def _follow(store: SharedFiles, epoch: int, until: Callable[[PlaceList], bool]) -> None:
    """Print each change of the list, until a condition is true or the loop has left the cluster."""
    shown: dict[int, str] = {}
    trouble = ""
    while True:
        listed = read(store)
        if listed.epoch > epoch or (listed.stopped and not listed.places):
            return
        lines = {entry.number: f"{entry.name} {entry.state} at {entry.url or entry.node}" for entry in listed.places}
        for number, line in lines.items():
            if shown.get(number) != line:
                aside.print(f"{time.strftime('%H:%M:%S')} {line}", highlight=False, markup=False)
        for number in shown.keys() - lines.keys():
            aside.print(f"{time.strftime('%H:%M:%S')} gone: {shown[number]}", highlight=False, markup=False)
        if listed.trouble != trouble and listed.trouble:
            aside.print(listed.trouble, highlight=False, markup=False)
        shown, trouble = lines, listed.trouble
        if until(listed):
            return
        time.sleep(LOOK)


def _complete(listed: PlaceList) -> bool:
    """Return True if all places answer."""
    return len(listed.places) > listed.wanted and all(entry.state == "answers" for entry in listed.places)


def _table(listed: PlaceList) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("place", "state", "address", "requests/s", "p99 ms", "busy", "position", "behind s"):
        table.add_column(name, no_wrap=name in ("place", "state", "address"), overflow="fold")
    for entry in listed.places:
        table.add_row(
            escape(entry.name),
            entry.state,
            escape(entry.url or entry.node),
            f"{entry.requests:,.1f}",
            "" if entry.seconds is None else f"{1000 * entry.seconds:.1f}",
            f"{entry.busy:.0%}",
            f"{entry.position:,}",
            "" if entry.staleness is None else f"{entry.staleness:.1f}",
        )
    return table
