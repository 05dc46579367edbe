"""A loop and a registry of MLflow, with a real store in SQLite: versions, metrics and aliases, there and back."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import everlearn as el
from everlearn import config
from everlearn.bridges import mlflow as bridge
from everlearn.cli import app
from everlearn.errors import BlobError, ConfigError
from everlearn.loop import commands
from everlearn.loop.loop import Loop
from everlearn.model import build
from everlearn.schema import shape
from everlearn.spec import DriftSpec, MlflowSpec
from tests.support.foreign_models import TREE
from tests.support.servers import record, spec

mlflow = pytest.importorskip("mlflow")
pytest.importorskip("sqlalchemy")

# MLflow and SQLAlchemy warn about themselves and each other.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


NAMES = ("loop", "cli", "thread", "foreign", "start", "fixed", "rival", "commands", "pyfunc-linear", "pyfunc-foreign")


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Iterator[str]:
    """A store that is made once, since its tables take a second."""
    folder = tmp_path_factory.mktemp("store")
    uri = f"sqlite:///{folder}/mlflow.db"
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(uri)
    client = mlflow.MlflowClient(uri)
    for name in NAMES:
        client.create_experiment(name, artifact_location=(folder / name).as_uri())
    yield uri
    mlflow.set_tracking_uri(before)


def teach(loop: Loop, first: int, last: int) -> None:
    for row in range(first, last):
        features, label = record(row)
        loop.learn(features, label, id=str(row))


def settings(**other: Any):
    return spec(**{"drift": DriftSpec(detector="none"), **other})


def frame(count: int) -> pd.DataFrame:
    return pd.DataFrame([record(row)[0] for row in range(count)])


def test_versions_metrics_and_aliases_are_those_of_the_loop(store, tmp_path):
    home, whole = tmp_path / "home", settings()
    client = mlflow.MlflowClient(store)
    follower = bridge.Follower(home, whole, store, "loop")
    with Loop(whole, home) as loop:
        teach(loop, 0, 120)
        challenger = loop.challenge({"family": "linear", "l2": 0.5}, "try it")
        loop.name(challenger.id, "trial-1")
        assert follower.push().versions == tuple(one.id for one in loop.versions())  # while the loop is open
        loop.promote(challenger.id)
        versions, aliases = loop.versions(), loop.aliases()
        follower.push()
        assert follower.push() == bridge.Pushed((), (), {})
    entries = {one.tags["everlearn.version"]: one for one in client.search_model_versions("name='loop'")}
    assert entries.keys() == {one.id for one in versions}
    for version in versions:
        entry = entries[version.id]
        assert entry.tags["everlearn.parents"] == ",".join(version.parents)
        assert entry.tags["everlearn.blob"] == version.blob
        assert entry.tags["everlearn.position"] == str(version.position)
        assert client.get_run(entry.run_id).data.metrics == pytest.approx(version.metrics)
    held = {alias: str(number) for alias, number in client.get_registered_model("loop").aliases.items()}
    assert held == {alias: str(entries[id].version) for id, names in aliases.items() for alias in names}
    assert {"champion", "previous", "trial-1"} <= held.keys()


def test_aliases_that_others_set_stay_and_a_second_home_of_the_name_adds_to_it(store, tmp_path):
    whole, client = settings(), mlflow.MlflowClient(store)
    with Loop(whole, tmp_path / "cli.home") as loop:
        teach(loop, 0, 20)
    first = bridge.Follower(tmp_path / "cli.home", whole, store).push()
    client.set_registered_model_alias("cli", "theirs", "1")
    with Loop(whole, tmp_path / "cli.home") as loop:
        loop.promote(loop.challenge({"family": "linear", "l2": 0.5}, "try it").id)
    again = bridge.Follower(tmp_path / "cli.home", whole, store).push()  # another process knows what is there
    assert first.versions
    assert not set(first.versions) & set(again.versions)
    aliases = client.get_registered_model("cli").aliases
    assert str(aliases["theirs"]) == "1"
    assert str(aliases["champion"]) != "1"


@pytest.mark.parametrize("model", [{"family": "linear"}, TREE], ids=["linear", "foreign"])
def test_a_version_loads_as_pyfunc_and_predicts_as_the_loop_does(store, tmp_path, model):
    home, whole = tmp_path / "home", settings(model=model, mode="gated")
    with Loop(whole, home) as loop:
        teach(loop, 0, 200)
        loop.promote(loop.challenge(model, "the same, later").id)
        loop.pause()
        expected = loop.predict_many(frame(50))
    name = f"pyfunc-{model['family']}"
    bridge.Follower(home, whole, store, name).push()
    loaded = mlflow.pyfunc.load_model(f"models:/{name}@champion")
    got = loaded.predict(frame(50))
    proba = [column for column in got if column.startswith("proba_")]
    assert got["value"].tolist() == expected["value"].tolist()
    assert np.array_equal(got[proba].to_numpy(float), expected[proba].to_numpy(float))
    assert loaded.predict([record(3)[0]])["value"].tolist() == expected["value"][3:4].tolist()


def test_a_loop_begins_with_a_registered_model(store, tmp_path):
    home, whole = tmp_path / "home", settings(mode="gated")
    with Loop(whole, home) as loop:
        teach(loop, 0, 300)
        loop.promote(loop.challenge({"family": "linear"}, "a copy").id)
        champion = loop.home.versions.load("champion")
    bridge.Follower(home, whole, store, "start").push()
    found = bridge.start("models:/start@champion", store, tmp_path / "first")
    assert found["model"]["uri"].rpartition("/")[2].isdigit()  # an alias would move
    with el.open(found, home=tmp_path / "second") as second:
        first = second.ready().model
        assert all(np.array_equal(first.arrays[name], array) for name, array in champion.items())
        assert first.spec["family"] == "linear"
        teach(second, 300, 330)
    with el.open(found, home=tmp_path / "second") as second:  # and goes on with what it learned
        assert second.report()["events"] == 30


def test_a_registered_model_is_a_challenger_of_another_loop(store, tmp_path):
    with Loop(settings(), tmp_path / "home") as loop:
        teach(loop, 0, 100)
    bridge.Follower(tmp_path / "home", settings(), store, "rival").push()
    registered = bridge.start("models:/rival@champion", store, tmp_path / "copy")["model"]
    with Loop(settings(), tmp_path / "second") as loop:
        teach(loop, 0, 20)
        made = loop.challenge(registered, "theirs")
        assert made.spec["blob"] == registered["blob"]
        teach(loop, 20, 60)
        arrays = {one.version: one.model.arrays["weights"].tobytes() for one in loop.fold.roster.contestants}
    with Loop(settings(), tmp_path / "second") as loop:
        assert arrays == {one.version: one.model.arrays["weights"].tobytes() for one in loop.fold.roster.contestants}


def test_other_files_and_other_shapes_are_refused(store, tmp_path):
    with Loop(settings(), tmp_path / "home") as loop:
        teach(loop, 0, 20)
    bridge.Follower(tmp_path / "home", settings(), store, "fixed").push()
    shaped = shape(settings().schema)
    asked = bridge.start("models:/fixed/1", store, tmp_path / "copy")["model"]
    assert build(asked, shaped).spec["family"] == "linear"
    with pytest.raises(ConfigError, match="those that the settings were written for"):
        build({**asked, "blob": "0" * 64}, shaped)
    with pytest.raises(ConfigError, match="dense . and not 77; expected a loop with its schema"):
        build(asked, {**shaped, "dense": 77})
    with pytest.raises(ConfigError, match="expected folder and blob"):
        build({"family": "registered", "uri": "models:/fixed/1"}, shaped)
    with pytest.raises(BlobError, match="holds no version of Everlearn"):
        build({**asked, "folder": str(tmp_path / "nowhere")}, shaped)
    with pytest.raises(ConfigError, match="expected models:/NAME/NUMBER or models:/NAME@ALIAS"):
        bridge.start("fixed", store)
    with pytest.raises(ConfigError, match="'registered' may not be started here"):
        commands.challenge(settings(), asked, "from outside")


def test_a_registered_model_of_another_library_needs_trust(store, tmp_path):
    with Loop(settings(model=TREE), tmp_path / "home") as loop:
        teach(loop, 0, 20)
    bridge.Follower(tmp_path / "home", settings(), store, "foreign").push()
    asked = bridge.start("models:/foreign/1", store, tmp_path / "copy")["model"]
    with pytest.raises(ConfigError, match="is of family 'foreign', whose code or state can run anything"):
        build(asked, shape(settings().schema))
    assert build({**asked, "trusted": True}, shape(settings().schema)).spec["model"] == TREE["model"]


def test_a_loop_copies_itself_while_it_learns(store, tmp_path):
    whole = settings(mlflow=MlflowSpec(uri=store, name="thread"))
    with Loop(whole, tmp_path / "home") as loop:
        teach(loop, 0, 30)
        made = loop.challenge({"family": "linear", "l2": 0.5}, "try it").id
    found = mlflow.MlflowClient(store).search_model_versions("name='thread'")
    assert made in {one.tags["everlearn.version"] for one in found}


def test_a_registry_that_does_not_answer_stops_nothing(tmp_path, caplog):
    uri = "nowhere://at-all"
    with Loop(settings(mlflow=MlflowSpec(uri=uri)), tmp_path / "home") as loop:
        teach(loop, 0, 30)
        assert loop.report()["events"] == 30
    assert "mlflow: copying failed, attempt 1" in caplog.text


def test_the_commands_push_and_start(store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    columns = {"x": [0.1, 0.9] * 100, "y": ["no", "yes"] * 100}
    pd.DataFrame(columns).to_csv("data.csv", index=False)
    run = CliRunner().invoke
    for line in (["init", "data.csv", "--label", "y"], ["run", "--json"]):
        assert run(app, line).exit_code == 0
    done = run(app, ["mlflow", "push", "--uri", store, "--name", "commands", "--json"])
    assert done.exit_code == 0, done.output
    assert msgspec.json.decode(done.output.splitlines()[-1])["name"] == "commands"
    done = run(app, ["mlflow", "start", "models:/commands@champion", "--uri", store, "-c", "second.toml"])
    assert done.exit_code == 0, done.output
    assert config.load("second.toml").model["uri"] == "models:/commands/1"
    again = run(app, ["mlflow", "start", "models:/commands@champion", "--uri", store, "-c", "second.toml"])
    assert "exists already" in str(again.exception)


@pytest.mark.slow
def test_a_tracking_server_gets_the_versions_over_http(tmp_path):
    for part in ("flask", "flask_cors", "graphene", "aiohttp"):  # of a server, which mlflow-skinny lacks
        pytest.importorskip(part)
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    line = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--host", "127.0.0.1", "--workers", "1"]
    line += ["--backend-store-uri", f"sqlite:///{tmp_path}/m.db", "--artifacts-destination", str(tmp_path / "files")]
    with subprocess.Popen(line, cwd=tmp_path, start_new_session=True) as server:
        try:
            uri = f"http://127.0.0.1:{port}"
            for _ in range(600):
                try:
                    urllib.request.urlopen(f"{uri}/health", timeout=1).read()
                    break
                except OSError:
                    time.sleep(0.1)
            else:
                pytest.fail("the server of MLflow did not start")
            whole = settings(mlflow=MlflowSpec(uri=uri, name="served"))
            with Loop(whole, tmp_path / "home") as loop:
                teach(loop, 0, 60)
                versions = {one.id for one in loop.versions()}
            found = mlflow.MlflowClient(uri).search_model_versions("name='served'")
            assert {one.tags["everlearn.version"] for one in found} == versions
            assert bridge.start("models:/served@champion", uri, tmp_path / "copy")["model"]["uri"] == "models:/served/1"
        finally:
            os.killpg(server.pid, signal.SIGKILL)


def test_no_metric_name_is_refused():
    assert bridge._named("recall:Ja!") == "recall:Ja_"
