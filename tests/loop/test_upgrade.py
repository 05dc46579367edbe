"""The dry run of an upgrade: which settings of an old home differ from those of a new one, and what becomes of them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from everlearn import config
from everlearn.loop.loop import Loop
from everlearn.loop.upgrade import differences
from everlearn.spec import GateSpec, LogSpec, Schema, Spec
from tests.support.homes import HOMES, unpacked

SPEC = Spec(
    schema=Schema(label="y", task="binary", classes=(0, 1), fields={"a": "numeric"}), model={"family": "linear"}
)


def digest(home: Path) -> dict[str, str]:
    """Hash all files but those that SQLite makes beside a log that is read."""
    files = [path for path in home.rglob("*") if path.is_file() and path.suffix not in (".sqlite-wal", ".sqlite-shm")]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_an_old_home_lists_the_defaults_that_it_keeps_and_stays_as_it_is(tmp_path: Path) -> None:
    home = unpacked("gated", tmp_path)
    values = {name: value for name, value in HOMES["gated"]["spec"].items() if name != "mode"}
    before, spec = digest(home), config.convert(values, folder=home)
    found = {one.setting: one for one in differences(home, spec)}
    assert digest(home) == before
    assert (found["mode"].home, found["mode"].new, found["mode"].then) == ("gated", "live", "kept")
    assert (found["gate.promote"].home, found["gate.promote"].then) == ("snapshot", "kept")
    changed = sorted({name.partition(".")[0] for name, one in found.items() if one.then == "changed"})
    with Loop(spec, home) as loop:
        logged = [one.detail for one in loop.decisions() if one.action == "config" and "spec" in one.detail]
        assert sorted(set(logged[-1]) - {"spec", "number"} if logged else []) == changed


def test_a_home_of_this_release_lists_what_its_file_changes(tmp_path: Path) -> None:
    with Loop(SPEC, tmp_path / "home") as loop:
        loop.learn({"a": 1.0}, 1)
    assert [one for one in differences(tmp_path / "home", SPEC) if one.then != "kept"] == []
    other = Spec(schema=SPEC.schema, model={"family": "linear"}, tick=7, seed=3, gate=GateSpec(alpha=0.2))
    found = {one.setting: (one.home, one.new, one.then) for one in differences(tmp_path / "home", other)}
    assert found["tick"] == (SPEC.tick, 7, "changed")
    assert found["gate.alpha"] == (SPEC.gate.alpha, 0.2, "changed")
    assert found["seed"] == (0, 3, "refused")


def test_a_home_whose_decisions_are_elsewhere_is_read_there(tmp_path: Path, url: str, stream: str) -> None:
    """The log in a database, and that in a broker, whose book is a file or a database."""
    for place, log in enumerate((LogSpec(url=url), LogSpec(url=stream), LogSpec(url=f"{stream}-2", book=f"{url}-2"))):
        home, spec = tmp_path / str(place), msgspec.structs.replace(SPEC, log=log)
        with Loop(spec, home) as loop:
            loop.learn({"a": 1.0}, 1)
            other = msgspec.structs.replace(spec, tick=7, seed=3)
            found = {one.setting: (one.home, one.new, one.then) for one in differences(home, other)}  # while it is used
        assert found["tick"] == (SPEC.tick, 7, "changed"), log
        assert found["seed"] == (0, 3, "refused"), log
