"""The commands around places, without a cluster; `tests/scale/test_ray_placer.py` runs them on one."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from everlearn.cli import app
from everlearn.cli import places as commands
from everlearn.client.place_records import PlaceEntry, PlaceList
from everlearn.errors import ConfigError
from everlearn.scale import objects
from everlearn.scale.place_messages import PLACES

RUN = CliRunner()
ENTRY = PlaceEntry(name="learner", number=1, role="learner", node="10.0.0.1", node_id="a")
SETTINGS = """
home = "loop"

[schema]
label = "y"
task = "{task}"
{more}

[schema.fields]
a = "numeric"

[log]
url = "{url}"
blobs = "{blobs}"

[serve]
host = "{host}"
"""


def write(folder: Path, url: str = "postgresql://h/d", blobs: str = "s3://bucket/x", host: str = "127.0.0.1") -> None:
    text = SETTINGS.format(task="binary", more="classes = [0, 1]", url=url, blobs=blobs, host=host)
    (folder / "everlearn.toml").write_text(text)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"url": ""}, [], "log.url: got none; expected the log of the loop"),
        ({"blobs": ""}, [], "log.blobs: got none; expected an object store"),
        ({"host": "0.0.0.0"}, [], "other machines can reach this server, and there is no token"),
        ({}, ["--min", "3", "--max", "2"], "--max: got 2; expected at least --min, which is 3"),
        ({}, ["--follow"], "--on: got it with --follow; leave that out"),
    ],
)
def test_what_cannot_be_placed_is_refused_before_a_cluster_is_reached(
    here: Path, changes: dict[str, str], options: list[str], message: str
) -> None:
    write(here, **changes)
    done = RUN.invoke(app, ["serve", "--on", "ray://127.0.0.1:1", *options])
    assert isinstance(done.exception, ConfigError)
    assert message in str(done.exception)


def test_the_places_of_a_loop_are_listed(here: Path, place: str) -> None:
    write(here, blobs=place)
    done = RUN.invoke(app, ["places"])
    assert "the loop has no places" in done.output
    entry = PlaceEntry(
        name="learner",
        number=1,
        role="learner",
        node="10.0.0.1",
        node_id="a",
        url="http://10.0.0.1:8000",
        state="answers",
    )
    store = objects.shared(f"{place}/loop/serving")
    store.put(PLACES, msgspec.json.encode(PlaceList(epoch=2, places=(entry,), trouble="follower-1: it is lost")))
    done = RUN.invoke(app, ["places"])
    assert "http://10.0.0.1:8000" in done.output
    assert "follower-1: it is lost" in done.output
    done = RUN.invoke(app, ["places", "--json"])
    shown = json.loads(done.output)
    assert (shown["epoch"], shown["places"][0]["state"]) == (2, "answers")


def test_an_order_to_stop_waits_until_all_places_have_ended(here: Path, place: str) -> None:
    write(here, blobs=place)
    store = objects.shared(f"{place}/loop/serving")
    store.put(PLACES, msgspec.json.encode(PlaceList(epoch=2, places=(ENTRY,))))

    def place_as_ordered() -> None:
        while not (listed := commands.read(store)).stopped:
            pass
        store.put(PLACES, msgspec.json.encode(msgspec.structs.replace(listed, places=())))

    placer = threading.Thread(target=place_as_ordered)
    placer.start()
    done = RUN.invoke(app, ["places", "--stop", "--json"])
    placer.join()
    assert done.exception is None, done.exception
    assert json.loads(done.output)["stopped"]
