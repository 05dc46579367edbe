"""Merging in the loop: an order in the log, a version with two parents in shadow, and a gate that decides."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest

from everlearn import model
from everlearn.cli import app as cli
from everlearn.config import save
from everlearn.errors import ConfigError, InputError
from everlearn.loop import commands
from everlearn.loop.erase import erase
from everlearn.loop.loop import Loop
from everlearn.loop.rebuild import training_positions
from everlearn.merge import How, merge
from everlearn.model import Model
from everlearn.records import Arrays, Batch, Decision, Floats, Label, Payload, Prediction, Singles, Version
from everlearn.spec import GateSpec, Spec
from tests.support.admin import admin, learning, own, until  # noqa: F401  (own is a fixture)
from tests.support.erasures import PERSON, SINCE, filled, learn_all, settings, traffic
from tests.support.kills import check, commits_of, content, killed_after_each_commit, without_times
from tests.support.loops import FIELDS, spec, table
from tests.support.orders import LINEAR, MEAN, arrays_of, ordered, quiet, serve, state
from tests.support.payloads import content as events_of
from tests.support.rosters import with_role
from tests.support.snapshots import same


def joined(loop: Loop, parents: Sequence[str], weights: Sequence[float] = (), method: str = "linear") -> Arrays:
    held = [loop.home.versions.load(parent) for parent in parents]
    return merge(method, held, weights, spec=commands.build(loop.spec, loop.home.versions.find(parents[0]).spec).spec)


def two_versions(loop: Loop, columns: dict[str, Any]) -> tuple[Version, Version]:
    """Two versions of one family that have learned other rows, neither of which anybody learns on from."""
    kept = []
    for start in (0, 60):
        begun = loop.challenge(LINEAR, warm=False)
        serve(loop, columns, start, start + 60)
        kept.append(loop.promote(begun.id, "to have its version"))
        for one in with_role(loop.fold.roster, "fresh"):
            loop.withdraw(one.version)
    return kept[0], kept[1]


@pytest.mark.parametrize("mode", ["gated", "live"])
def test_a_version_with_two_parents_is_made_and_put_in_shadow(tmp_path: Path, mode: str):
    columns = table(400)
    with Loop(quiet(mode=mode, challengers=3), tmp_path / "home") as loop:
        a, b = two_versions(loop, columns)
        made = loop.merge(a.id[:8], b.id, weights=(1, 3), reason="both know something")
        assert made.parents == (a.id, b.id)
        assert made.reason == f"merged {a.id} and {b.id} by linear: both know something"
        assert made.spec == a.spec
        assert same(loop.home.versions.load(made.id), joined(loop, (a.id, b.id), (1, 3)))
        (shadow,) = with_role(loop.fold.roster, "shadow")
        assert (shadow.version, shadow.learns) == (made.id, False)
        told = loop.decisions()[-1]
        assert (told.action, told.by, told.version, told.alias) == ("challenger", "user", made.id, "")
        how = {"method": "linear", "weights": [1.0, 3.0], "density": 1.0, "scale": 1.0, "seed": 0}
        assert told.detail["merge"] == {**how, "parents": [a.id, b.id], "ancestor": ""}
        known = training_positions(loop.log)
        assert known[made.id] == max(known[a.id], known[b.id])
        serve(loop, columns, 200, 230)
        assert shadow.trial is not None
        assert shadow.trial.tested == 30
        expected = state(loop)
    with Loop(quiet(mode=mode, challengers=3), tmp_path / "home") as loop:
        assert state(loop) == expected
        loop.withdraw(made.id)
        assert loop.promote(made.id, "by hand").id == made.id


def test_the_gate_promotes_what_is_better_than_its_parents(tmp_path: Path):
    """Each parent has learned one half of the rule; together they know all of it, and the gate finds that out."""
    columns = table(2000)
    a, b = (np.asarray(columns[name]) for name in "ab")
    b[:300] = 0.0
    a[300:600] = 0.0
    columns["label"] = (a + b > 0).astype(int)
    calm = quiet(model=MEAN, challengers=3)
    with Loop(calm, tmp_path / "home") as loop:
        loop.ready()
        first = loop.challenge(LINEAR, warm=False)
        serve(loop, columns, 0, 300)
        one = loop.promote(first.id, "it knows a")
        loop.withdraw(with_role(loop.fold.roster, "fresh")[0].version)
        other = loop.challenge(LINEAR, warm=False)
        serve(loop, columns, 300, 600)
        made = loop.merge(one.id, other.id, reason="a and b")
        loop.withdraw(other.id)
        grown = loop.home.versions.find(made.parents[1])
        assert (grown.parents, grown.reason) == ((other.id,), "what it was when it was merged")
    eager = msgspec.structs.replace(calm, gate=GateSpec(minimum=100, promote="snapshot"))
    with Loop(eager, tmp_path / "home") as loop:
        assert loop.report()["champion"] == one.id
        serve(loop, columns, 600, 2000)
        told = next(done for done in loop.decisions() if done.action == "promote" and done.by == "gate")
        assert told.version == made.id
        assert told.evidence is not None
        assert told.evidence.difference > 0.02
        assert loop.report()["champion"] == made.id
        assert loop.aliases()[made.id] == ["champion"]
        expected = state(loop)
    with Loop(eager, tmp_path / "home") as loop:
        assert state(loop) == expected


def test_champion_and_challenger_are_merged_as_what_they_are_by_then(tmp_path: Path):
    columns = table(400)
    with Loop(quiet(challengers=3), tmp_path / "home") as loop:
        serve(loop, columns, 0, 100)
        with pytest.raises(InputError, match="expected different versions"):
            loop.merge("champion", "champion")
        learner = arrays_of(loop.fold.roster.challenger.model)
        first = loop.versions()[0]
        made = loop.merge("champion", "challenger", "ema")
        assert made.parents[0] == first.id
        grown = loop.home.versions.find(made.parents[1])
        assert grown.parents == (first.id,)
        assert {name: one.tobytes() for name, one in loop.home.versions.load(grown.id).items()} == learner
        assert training_positions(loop.log)[grown.id] == training_positions(loop.log)[made.id]
        assert training_positions(loop.log)[grown.id].log == loop.decisions()[-1].at - 1
        assert arrays_of(loop.fold.roster.challenger.model) == learner  # which goes on as it was
        assert same(loop.home.versions.load(made.id), joined(loop, made.parents, (0.9, 0.1), "ema"))
        expected = state(loop)
    with Loop(quiet(challengers=3), tmp_path / "home") as loop:
        assert state(loop) == expected


def test_nothing_was_learned_so_there_is_nothing_to_merge(tmp_path: Path):
    with Loop(quiet(challengers=3), tmp_path / "home") as loop:
        loop.ready()
        before = len(loop.versions())
        with pytest.raises(InputError, match="champion and challenger are the same version"):
            loop.merge("champion", "challenger")
        assert loop.decisions()[-1].action == "reject"
        assert len(loop.versions()) == before


def test_the_ancestor_is_the_nearest_common_one_or_the_one_that_is_named(tmp_path: Path):
    columns = table(600)
    with Loop(quiet(challengers=4), tmp_path / "home") as loop:
        a, b = two_versions(loop, columns)
        with pytest.raises(InputError, match="have no common ancestor; name one"):
            loop.merge(a.id, b.id, "ties")
        with pytest.raises(InputError, match="got an ancestor, which 'linear' does not look at"):
            loop.merge(a.id, b.id, ancestor=a.id)
        begun = loop.challenge(LINEAR, warm=False)
        named = loop.merge(a.id, b.id, "task", ancestor=begun.id, weights=(1, 1))
        assert loop.decisions()[-1].detail["merge"]["ancestor"] == begun.id
        serve(loop, columns, 150, 200)
        first = loop.merge("previous", begun.id, "linear")
        loop.withdraw(first.id)
        loop.withdraw(named.id)
        once = loop.promote(begun.id, "once")
        serve(loop, columns, 200, 300)
        fresh = with_role(loop.fold.roster, "fresh")[0].version
        made = loop.merge("champion", fresh, "task", weights=(1, 1))
        assert loop.home.versions.find(made.parents[1]).parents == (fresh,)
        assert made.parents[0] == once.id
        assert loop.decisions()[-1].detail["merge"]["ancestor"] == begun.id == fresh


def test_what_cannot_be_merged_is_refused_with_the_log_as_it_was(tmp_path: Path):
    columns = table(300)
    with Loop(quiet(challengers=4), tmp_path / "home") as loop:
        a, b = two_versions(loop, columns)
        mean = loop.challenge(MEAN)
        other = loop.challenge({"family": "linear", "optimizer": "adagrad"})
        end = loop.log.end()
        for arguments, dials, error, words in [
            ((a.id, "nobody"), {}, InputError, "there is no version 'nobody'"),
            ((a.id, a.id[:7]), {}, InputError, "expected different versions"),
            ((a.id, mean.id), {}, InputError, "families are"),
            ((a.id, other.id), {}, InputError, "optimizer is 'blend' in one and 'adagrad' in another"),
            ((a.id, b.id, "sum"), {}, ConfigError, "method: got 'sum'"),
            ((a.id, b.id), {"weights": (1,)}, ConfigError, "weights: got 1 for 2 parents"),
            ((a.id, b.id, "dare"), {"density": 2.0, "ancestor": a.id}, ConfigError, "density: got 2.0"),
        ]:
            with pytest.raises(error, match=words):
                loop.merge(*arguments, **dials)
        assert loop.log.end() == end
        loop.withdraw(mean.id)
        faster = loop.challenge({"family": "linear", "rate": 0.2, "l2": 1e-5})
        assert loop.merge(a.id, faster.id).spec == a.spec  # they differ in how they learn alone
        with pytest.raises(InputError, match="4 models contend already"):
            loop.merge(a.id, b.id)


def odd(told: Any) -> Model:
    """A family of somebody's whose arrays grow with a dial that its spec does not tell."""
    return _Odd(dict(told))


class _Odd:
    def __init__(self, told: dict[str, Any]) -> None:
        self.spec = {**told, "size": 0}
        self.arrays: Arrays = {"w": np.zeros(2 + int(told.get("size", 0)))}

    def predict(self, batch: Batch) -> Singles:
        return np.full((len(batch), 2), 0.5, np.float32)

    def learn(self, batch: Batch, y: Floats, weight: Singles) -> Singles:
        return self.predict(batch)


def test_arrays_that_do_not_fit_are_told_when_the_order_is_carried_out(tmp_path: Path):
    family = {"family": "tests.loop.test_merge_versions:odd"}
    with Loop(quiet(challengers=4), tmp_path / "home") as loop:
        serve(loop, table(50), 0, 20)
        small, large = (loop.challenge({**family, "size": size}, warm=False) for size in (1, 3))
        with pytest.raises(
            InputError, match=r"parent 2 does not fit the first parent: 'w' has shape \(5,\), expected \(3,\)"
        ):
            loop.merge(small.id, large.id)
        assert (loop.decisions()[-1].action, loop.decisions()[-1].by) == ("reject", "loop")
        serve(loop, table(50), 20, 30)


def test_an_order_for_versions_that_are_gone_is_rejected_and_nothing_stops(tmp_path: Path):
    columns = table(300)
    with Loop(quiet(challengers=4), tmp_path / "home") as loop:
        a, b = two_versions(loop, columns)
        order = commands.merge(loop.spec, loop.home.versions, (a.id, b.id), How(method="linear"), "later")
        (blob,) = (tmp_path / "home" / "blobs").glob(f"{a.blob}*")
        blob.unlink()
        done = ordered(loop, order)
        assert done.action == "reject"
        assert "was pruned, or the file was lost" in done.reason
        serve(loop, columns, 200, 220)


# ---- kills, rollbacks, erasures ----------------------------------------------------------------------------------


def merging_work(chosen: Spec, columns: dict[str, Any]) -> Any:
    """Late labels, and orders to merge: what learns, what does not, by methods with and without an ancestor."""

    def order(name: str, method: str) -> Decision:
        told = {"method": method, "parents": ["champion", "challenger"], "versions": ["", ""], "ancestor": ""}
        return Decision("order", 0, name, "user", detail={"order": name, "ask": "merge", "merge": told})

    fresh = {"order": "x", "ask": "challenge", "model": LINEAR, "warm": False}
    told = {
        100: Decision("order", 0, "x", "user", detail=fresh),
        200: order("linear", "linear"),
        350: order("ties", "ties"),
        500: order("dare", "dare"),
        650: order("fisher", "fisher"),
        700: order("power", "power"),
    }

    def work(home: Path) -> None:
        with Loop(chosen, home) as loop:
            loop.ready()
            version = loop.versions()[0].id
            for row in range(len(columns["a"])):
                features = {name: columns[name][row] for name in FIELDS}
                payloads: list[Payload] = [Prediction(str(row), features, 0, (0.5, 0.5), version)]
                payloads = [] if loop.log.find(f"prediction:{row}") else payloads
                payloads += [Label(str(row - 40), int(columns["label"][row - 40]))] if row >= 40 else []
                for payload in [*payloads, *([told[row]] if row in told else [])]:
                    loop.log.append([payload], time=float(row))
                    loop.catch_up()

    return work


BUSY = {"tick": 10, "checkpoint": 200, "challengers": 5, "gate": GateSpec(minimum=50)}


@pytest.mark.parametrize("mode", ["gated", "live"])
def test_killed_right_after_each_commit_while_versions_are_merged(tmp_path: Path, mode: str):
    chosen, columns = spec(mode=mode, **BUSY), table(800)
    work = merging_work(chosen, columns)
    work(tmp_path / "undisturbed")
    expected = content(tmp_path / "undisturbed", chosen)
    without_times(expected)
    assert any(len(version["parents"]) == 2 for version in expected["versions"])
    home = tmp_path / "disturbed"
    killed_after_each_commit(work, home, commits_of(expected))
    got = content(home, chosen)
    without_times(got)
    assert got == expected


def test_killed_at_random_while_versions_are_merged(tmp_path: Path):
    chosen, columns = spec(**BUSY), table(800)
    columns["label"] = (columns["a"] > 0).astype(int)
    check(merging_work(chosen, columns), tmp_path, chosen, kills=6, clocked=True)


def test_a_rollback_without_labels_knows_what_a_merged_champion_had_learned(tmp_path: Path):
    columns = table(600)
    with Loop(quiet(challengers=4), tmp_path / "home") as loop:
        a, b = two_versions(loop, columns)
        made = loop.merge(a.id, b.id)
        loop.promote(made.id, "try")
        serve(loop, columns, 200, 240)
        kept = loop.promote(loop.challenge(LINEAR, warm=False).id, "try")
        serve(loop, columns, 240, 260, flip=3)
        back = loop.rollback("bad", without={"source": "bad"})
        assert back.id == kept.id
        loop.rollback("not that", to=made.id)
        last = max(loop.log.find(f"prediction:{row}").position for row in (0, 119))
        assert training_positions(loop.log)[made.id].log > last


@pytest.mark.parametrize("method", ["linear", "task"])
def test_what_was_merged_is_made_anew_without_an_erased_person(tmp_path: Path, method: str):
    chosen, home = (
        settings(mode="gated", gate=GateSpec(minimum=1_000_000, promote="snapshot"), challengers=4),
        tmp_path / "home",
    )
    everything = traffic()
    early, late = everything[: SINCE - 40], everything[SINCE - 40 :]
    filled(home, chosen, early)
    with Loop(chosen, home) as loop:
        first = loop.versions()[0]
        clean = loop.merge("champion", "challenger")
        loop.withdraw(clean.id)
    filled(home, chosen, late)
    with Loop(chosen, home) as loop:
        how = {"ancestor": clean.parents[1], "weights": (1.0, 0.5)} if method == "task" else {}
        made = loop.merge(clean.id, "challenger", method, **how)
        again = loop.merge(made.id, "champion")
        events = events_of(loop.log)
        upto = training_positions(loop.log)[made.id].log
        old = loop.home.versions.load(made.id)
    done = erase(home, chosen, {"user": PERSON}, "asked by mail").detail["versions"]
    assert clean.id not in done
    assert {made.id, again.id, made.parents[1]} <= done.keys()
    with Loop(chosen, home) as loop:
        begin = commands.build(loop.spec, first.spec)
        model.restore(begin, loop.home.versions.load(first.id))
        wanted = learn_all(begin, loop, events, 0, upto).arrays
        grown = loop.home.versions.load(done[made.parents[1]])
        assert same(grown, wanted)
        now = loop.home.versions.find(done[made.id])
        assert now.parents == (clean.id, done[made.parents[1]])
        before = loop.home.versions.load(clean.parents[1])
        told = {"ancestor": before, "weights": (1.0, 0.5)} if method == "task" else {}
        parents = [loop.home.versions.load(parent) for parent in now.parents]
        assert same(loop.home.versions.load(now.id), merge(method, parents, spec=begin.spec, **told))
        assert not same(loop.home.versions.load(now.id), old)
        shadows = {one.version: one.model.arrays for one in with_role(loop.fold.roster, "shadow")}
        assert same(shadows[now.id], loop.home.versions.load(now.id))
        assert loop.home.versions.find(done[again.id]).parents == (now.id, first.id)
    other = erase(home, chosen, {"user": "user-8"}, "another").detail["versions"]
    with Loop(chosen, home) as loop:
        last = loop.home.versions.find(other[done[made.id]])
        assert last.parents == tuple(other[parent] for parent in now.parents)
        told = {"ancestor": loop.home.versions.load(other[clean.parents[1]]), "weights": (1.0, 0.5)} if told else {}
        parents = [loop.home.versions.load(parent) for parent in last.parents]
        assert same(loop.home.versions.load(last.id), merge(method, parents, spec=begin.spec, **told))


# ---- the command line, and over HTTP -----------------------------------------------------------------------------


def test_the_command_merges_and_says_what_it_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path, columns = tmp_path / "everlearn.toml", table(300)
    chosen = quiet(challengers=3)
    save(chosen, path)
    with Loop(chosen, tmp_path / "everlearn.home") as loop:
        a, b = two_versions(loop, columns)
        home = loop.home.folder
    assert home.exists()

    def call(*words: str) -> str:
        cli(["merge", *words, "--config", str(path)], standalone_mode=False)
        return capsys.readouterr().out

    told = json.loads(call(a.id, b.id, "--weight", "0.2", "--weight", "0.8", "--json", "--reason", "a test"))
    assert told["parents"] == [a.id, b.id]
    assert (told["method"], told["ancestor"]) == ("linear", "")
    shown = call(a.id, b.id, "--method", "task", "--ancestor", a.id)
    assert "(task), in shadow" in " ".join(shown.split())
    with Loop(chosen, home) as loop:
        made = loop.home.versions.find(told["version"])
        assert made.reason.endswith("a test")
        assert same(loop.home.versions.load(made.id), joined(loop, (a.id, b.id), (0.2, 0.8)))
    with pytest.raises(InputError, match="contend already"):
        call(a.id, b.id)


def test_over_http(own):  # noqa: F811
    with learning(own), admin(own) as opened:
        champion, first = opened.get("/versions").json()["aliases"]["champion"], "challenger"

        def asked(**body: object) -> httpx.Response:
            return opened.client.post("/merge", json={"reason": "why not", **body})

        done = asked(versions=["champion", first], method="slerp")
        assert done.status_code == 200, done.text
        (told,) = done.json()["followed"]
        assert told["action"] == "challenger"
        assert told["detail"]["merge"]["method"] == "slerp"
        version = opened.get(f"/versions/{told['version']}").json()
        assert version["parents"][0] == champion
        assert len(version["parents"]) == 2
        across = opened.get(f"/versions/{champion}/diff/{told['version']}").json()
        assert (across["common"], across["steps"]) == (champion, 1)
        until(lambda: told["version"] in [one["version"] for one in opened.get("/challengers").json()["challengers"]])
        for wrong, status in [
            ({"versions": ["champion", "champion"]}, 422),
            ({"versions": ["champion", "nobody"]}, 422),
            ({"versions": ["champion"]}, 422),
            ({"versions": ["champion", first], "method": "sum"}, 422),
            ({"versions": ["champion", first], "weights": [1]}, 422),
            ({"versions": ["champion", first], "weights": [0, 0]}, 422),
        ]:
            answer = asked(**wrong)
            assert answer.status_code == status, answer.text


def test_the_order_is_kept_in_plain_values(tmp_path: Path):
    with Loop(quiet(challengers=3), tmp_path / "home") as loop:
        serve(loop, table(100), 0, 40)
        how = How(method="dare", seed=3, scale=0.5)
        order = commands.merge(loop.spec, loop.home.versions, ("champion", "challenger"), how, "why")
        assert order.detail["merge"] == {
            "method": "dare", "weights": [0.5, 0.5], "density": 0.5, "scale": 0.5, "seed": 3,
            "parents": ["champion", "challenger"], "ancestor": "", "versions": [loop.versions()[0].id] * 2,
        }  # fmt: skip
        assert json.loads(msgspec.json.encode(order))["detail"]["ask"] == "merge"
