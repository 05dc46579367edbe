"""Homes of release 0.1.0 open, go on and roll back as they did then: arrays, versions, aliases, decisions, answers.

`tests/data/homes-0.1.0.json` says what was true of each home, and its comment how that was found. Release 0.1.0 made
the homes with `tests/data/make_homes_0_1_0.py`. A home is opened without the settings that were removed since, as the
message that refuses them says. It keeps the values that it was started with.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import everlearn as el
from everlearn import config
from everlearn.errors import ConfigError, LogError
from everlearn.events import SqliteLog
from everlearn.loop.home import Home
from everlearn.loop.loop import Loop
from everlearn.model import prefixed
from everlearn.records import Checkpoint, Decision
from everlearn.spec import LogSpec
from everlearn.version.blobs import Blobs
from tests.support.homes import HOMES, record, take, unpacked


def facts(loop: Loop, before: int = 0) -> dict[str, Any]:
    """Return what is true of a loop; of its decisions those behind the first `before`."""
    arrays, header = loop.fold.state()
    for entry in header["roster"]["contestants"]:
        if entry.pop("stored", False):  # release 0.1.0 wrote the arrays again that the version holds
            arrays |= prefixed(f"roster/model/{entry['uid']}/", loop.home.versions.load(entry["version"]))
    hashes = {}
    for name, array in sorted(arrays.items()):
        front = f"{name}|{array.dtype.str}|{'x'.join(map(str, array.shape))}|"
        hashes[name] = hashlib.sha256(front.encode() + array.tobytes()).hexdigest()
    for entry in header["roster"]["contestants"]:
        entry.pop("by", None)  # release 0.1.0 did not write what started a challenger
    report, decisions = loop.report(), loop.decisions()
    return {
        "champion": report["champion"],
        "versions": [version.id for version in loop.versions()],
        "aliases": loop.aliases(),
        "decisions": len(decisions),
        "moves": [[made.action, made.by, made.alias, made.version, made.previous] for made in decisions[before:]],
        "waiting": report["waiting"],
        "examples": report["examples"],
        "rows": report["events"] - loop.log.count("example") - loop.log.count("prediction"),
        "position": loop.position,
        "verified": loop.log.verify().ok,
        "hash": hashlib.sha256("".join(f"{name} {hash}\n" for name, hash in hashes.items()).encode()).hexdigest(),
        "hashes": hashes,
        "header": json.loads(json.dumps(header)),
    }


def answers(loop: Loop, known: dict[str, Any], part: str) -> list[list[float]]:
    rows = [record(known["spec"], values) for values in known["records"]]
    given = [loop.predict(row, id=f"{part}-{number}") for number, row in enumerate(rows)]
    return [list(prediction.proba) or [prediction.value] for prediction in given]


def compare(known: dict[str, Any], got: dict[str, Any]) -> None:
    """Assert that all facts are as they were, the arrays by name; the most telling ones come first."""
    assert {name: hash for name, hash in got["hashes"].items() if known["hashes"].get(name) != hash} == {}
    for name in known:
        if name == "aliases":  # "previous" was the version that was left; it is the champion before that now
            assert unmoved(got[name]) == unmoved(known[name])
        else:
            assert got[name] == known[name], name


def unmoved(aliases: dict[str, list[str]]) -> dict[str, list[str]]:
    kept = {id: [name for name in names if name != "previous"] for id, names in aliases.items()}
    return {id: names for id, names in kept.items() if names}


@pytest.mark.parametrize("name", HOMES)
def test_a_home_opens_goes_on_and_rolls_back(name: str, tmp_path: Path) -> None:
    known, home = HOMES[name], unpacked(name, tmp_path)
    spec, times = known["spec"], known["times"]
    now = times["opened"]
    with el.open(spec, home, clock=lambda: now) as loop:
        opened = facts(loop)
        compare(known["opened"], opened | {"answers": answers(loop, known, "opened")})
        for number, step in enumerate(known["steps"]):
            now = times["continued"] + number
            take(loop, spec, step, tmp_path)
        continued = facts(loop, opened["decisions"])
        now = times["continued"] + len(known["steps"])
        compare(known["continued"], continued | {"answers": answers(loop, known, "continued")})
        now = times["rolled_back"]
        (previous,) = [id for id, names in known["continued"]["aliases"].items() if "previous" in names]
        loop.rollback(reason="back to the previous champion", to=previous)
        rolled_back = facts(loop, continued["decisions"])
        compare(known["rolled_back"], rolled_back | {"answers": answers(loop, known, "rolled_back")})
        assert not any(made.action == "config" and made.by == "user" for made in loop.decisions())


def test_an_old_home_keeps_the_values_of_removed_settings_and_a_new_one_refuses_them(tmp_path: Path) -> None:
    spec = HOMES["live"]["spec"]
    with pytest.raises(ConfigError, match=r"limits\.window: this setting was removed\. Remove it: .* keeps its value"):
        el.open(spec, tmp_path / "new")
    with el.open(spec, unpacked("live", tmp_path)) as loop:
        assert loop.spec.limits.window == 100
        assert loop.spec.replay.width == 4
        assert loop.spec.log.rows == "auto"


def test_a_setting_that_is_changed_is_one_decision_with_all_settings(tmp_path: Path) -> None:
    home = unpacked("live", tmp_path)
    spec = HOMES["live"]["spec"]
    with el.open({**spec, "tick": 20}, home) as loop:
        last = loop.decisions()[-1]
    assert (last.action, last.reason, last.detail["tick"]) == ("config", "settings changed: tick", 20)
    assert last.detail["spec"]["limits"]["window"] == 100
    with el.open({**spec, "tick": 20}, home) as loop:
        assert loop.decisions()[-1] == last


def rewritten(home: Path, **changes: Any) -> None:
    """Put a checkpoint with another header behind the last one, as a newer release would write it."""
    with closing(Home(home, LogSpec())) as held:
        last = held.last()
        assert last is not None
        at, arrays, header = last
        blob = Blobs(home / "blobs").put(arrays, header | changes)
        for _ in range(2):  # of the last two checkpoints, the first that can be read counts
            held.log.append([Checkpoint(at, blob)])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"format": 99}, r"home is of a newer release: state format: got 99; expected at most \d+\. Upgrade Everlearn"),
        ({"spec": {"format": 99}}, r"home is of a newer release: spec format: got 99; expected at most 1"),
        ({"schema": {"layout": 99}}, r"home is of a newer release: schema\.layout: got 99; expected at most 1"),
        ({"model": {"layout": 99}}, r"home is of a newer release: model\.layout: got 99; expected at most 6"),
    ],
)
def test_a_home_of_a_newer_release_is_refused(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    schema = {"label": "y", "task": "binary", "classes": ["no", "yes"], "fields": {"a": "numeric"}}
    home, settings = tmp_path / "home", {"schema": schema}
    with el.open(settings, home) as loop:
        loop.learn({"a": 1.0}, "yes")
    held = config.stored(config.convert(settings))
    for part in ("schema", "model"):
        if part in changes:
            changes = {"spec": {**held, part: {**held[part], **changes[part]}}}
    rewritten(home, **changes)
    with pytest.raises(LogError, match=says):
        el.open(settings, home)


def test_decisions_of_release_0_1_0_are_read(tmp_path: Path) -> None:
    home = unpacked("gated", tmp_path)
    with SqliteLog(home / "log.sqlite") as log:
        decisions = [event.payload for event in log.read(0, 100_000) if isinstance(event.payload, Decision)]
    assert len(decisions) == HOMES["gated"]["opened"]["decisions"]
    assert "spec" not in decisions[0].detail
    assert np.isfinite([decision.at for decision in decisions]).all()
