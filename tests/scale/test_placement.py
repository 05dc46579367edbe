"""The decisions about places, by tables of situations; no cluster is needed."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from everlearn.client.place_records import PlaceEntry, PlaceList
from everlearn.scale.placement import (
    DRAIN,
    GONE,
    PATIENCE,
    PENDING,
    STARTING,
    Need,
    ObservedPlace,
    PlaceAction,
    PlaceLoad,
    PlaceNode,
    after,
    choose,
    decide,
    gpus_of,
    load_of,
    wanted,
)

HEAD, *WORKERS = NODES = [PlaceNode(name, f"10.0.0.{at}", 4, head=not at) for at, name in enumerate("habc")]


def place(name: str, number: int, node: str = "a", **changes: Any) -> PlaceEntry:
    role = "learner" if name == "learner" else "follower"
    settings: dict[str, Any] = {"node": "10.0.0.1", "node_id": node, "plan": "p", "state": "answers"}
    return PlaceEntry(name=name, number=number, role=role, **(settings | changes))


def seen(name: str, number: int, node: str = "a", **changes: Any) -> ObservedPlace:
    """A place that was heard a second ago, in its state for a minute, unless changes say something else."""
    observed = {key: changes.pop(key) for key in ("age", "silent", "lost") if key in changes}
    return ObservedPlace(place(name, number, node, **changes), **({"age": 60.0, "silent": 1.0} | observed))


def summary(actions: list[PlaceAction]) -> list[str]:
    return [f"{one.kind} {one.name}" + (f" at {one.node.id}" if one.node else f" {one.number}") for one in actions]


WELL = [seen("learner", 1, "a"), seen("follower-1", 2, "b")]
NEED = Need(followers=1, plan="p")


@pytest.mark.parametrize(
    ("places", "nodes", "need", "expected"),
    [
        ([], NODES, NEED, ["start learner at a", "start follower-1 at b"]),
        ([], [HEAD], NEED, ["start learner at h", "start follower-1 at h"]),
        ([], [], NEED, []),
        (WELL, NODES, NEED, []),
        (WELL, NODES, Need(2, plan="p"), ["start follower-2 at c"]),
        (WELL, NODES, Need(0, plan="p"), ["leave follower-1 2"]),
        # lost places are replaced at once, on a node that has not just lost one
        ([seen("learner", 1, "a", lost="x"), WELL[1]], NODES, NEED, ["end learner 1", "start learner at c"]),
        ([seen("learner", 1, silent=PATIENCE + 1), WELL[1]], NODES, NEED, ["end learner 1", "start learner at c"]),
        ([seen("learner", 1, "a", lost="x")], NODES[1:2], Need(0, plan="p"), ["end learner 1", "start learner at a"]),
        # the node is no longer in the cluster; while its actor is heard, it stays: the head may have been started again
        ([seen("learner", 1, "z", silent=GONE + 1), WELL[1]], NODES, NEED, ["end learner 1", "start learner at a"]),
        ([seen("learner", 1, "z", silent=1.0), WELL[1]], NODES, NEED, []),
        # places that start
        ([WELL[0], seen("follower-1", 2, "b", state="starting", silent=None, age=PENDING - 1)], NODES, NEED, []),
        (
            [WELL[0], seen("follower-1", 2, "b", state="starting", silent=None, age=PENDING + 1)],
            NODES,
            NEED,
            ["end follower-1 2", "start follower-1 at c"],
        ),
        ([WELL[0], seen("follower-1", 2, "b", state="starting", age=STARTING - 1)], NODES, NEED, []),
        (
            [WELL[0], seen("follower-1", 2, "b", state="starting", age=STARTING + 1)],
            NODES,
            NEED,
            ["end follower-1 2", "start follower-1 at c"],
        ),
        # places that leave
        ([WELL[0], seen("follower-1", 2, state="leaving", age=DRAIN - 1)], NODES, Need(0, plan="p"), []),
        (
            [WELL[0], seen("follower-1", 2, state="leaving", age=DRAIN + 1)],
            NODES,
            Need(0, plan="p"),
            ["end follower-1 2"],
        ),
        # other settings: one place after the other, the learner last, and only while all answer
        (WELL, NODES, Need(1, plan="q"), ["end follower-1 2"]),
        ([WELL[0], seen("follower-1", 2, plan="q")], NODES, Need(1, plan="q"), ["end learner 1"]),
        ([WELL[0], seen("follower-1", 2, plan="q", state="starting")], NODES, Need(1, plan="q"), []),
        # no node has a GPU that is free
        ([], [PlaceNode("a", "", 4, gpus=1.0), PlaceNode("b", "", 4)], Need(1, gpus=1.0), ["start learner at a"]),
    ],
)
def test_what_is_done(places: Any, nodes: Any, need: Need, expected: list[str]) -> None:
    assert summary(decide(places, nodes, need)) == expected


def test_a_place_that_failed_waits() -> None:
    assert summary(decide([], NODES, NEED, waiting={"learner"})) == ["start follower-1 at a"]


def test_the_list_after_the_decisions() -> None:
    listed = PlaceList(epoch=3, started=2, places=(place("learner", 1, "a"), place("follower-1", 2, "b")))
    actions = [
        PlaceAction("end", "learner", "learner", number=1),
        PlaceAction("leave", "follower-1", number=2),
        PlaceAction("start", "learner", "learner", WORKERS[2]),
    ]
    new = after(listed, actions, "q", 99.0)
    assert (new.epoch, new.started, new.time) == (3, 3, 99.0)
    assert [(one.name, one.number, one.state, one.since) for one in new.places] == [
        ("follower-1", 2, "leaving", 99.0),
        ("learner", 3, "starting", 99.0),
    ]
    assert (new.places[1].node, new.places[1].node_id, new.places[1].plan) == (WORKERS[2].address, "c", "q")


def test_the_node_of_a_place() -> None:
    assert choose(NODES, ["a", "b", "c"]) == HEAD
    assert choose(NODES, ["a", "b"], suspects={"c"}) == HEAD
    assert choose(NODES[1:], ["a"], suspects={"a", "b", "c"}) == WORKERS[1]
    assert choose([PlaceNode("a", "", 1)], ["a"]) is None


def test_the_learner_is_on_the_head_only_if_no_other_node_has_room() -> None:
    full = [node._replace(cpus=1) for node in WORKERS]
    assert choose(NODES, ["a", "b", "c"], learns=True) == WORKERS[0]
    assert choose(NODES, ["a", "b"], suspects={"c"}, learns=True) == WORKERS[0]
    assert choose(NODES, [], suspects={"a", "b", "c"}, learns=True) == HEAD
    assert choose([HEAD, *full], ["a", "b", "c"], learns=True) == HEAD


@pytest.mark.parametrize(
    ("followers", "load", "since", "expected"),
    [
        (1, PlaceLoad(0.30, 0.02, 100), 600, 1),  # half of what two places should carry: one less would be full
        (1, PlaceLoad(0.65, 0.02, 100), 600, 2),
        (1, PlaceLoad(1.00, 0.02, 900), 600, 3),  # 2 places * 1.0 / 0.6 are 3.3: four, three of which follow
        (1, PlaceLoad(1.00, 0.02, 900), 5, 1),  # just changed
        (1, PlaceLoad(0.10, 0.50, 100), 600, 2),  # late
        (1, PlaceLoad(0.10, 0.50, 0), 600, 1),  # late, but nothing is asked any more; not calm either
        (3, PlaceLoad(0.05, 0.02, 10), 600, 2),  # one at a time
        (3, PlaceLoad(0.05, 0.02, 10), 30, 3),  # not yet
        (3, PlaceLoad(0.45, 0.02, 10), 600, 3),  # the rest would be busy
        (1, PlaceLoad(0.00, 0.00, 0), 600, 1),  # the fewest
        (4, PlaceLoad(1.00, 2.00, 900), 600, 4),  # the most
        (9, PlaceLoad(0.50, 0.02, 10), 0, 4),
    ],
)
def test_how_many_followers_are_wanted(followers: int, load: PlaceLoad, since: float, expected: int) -> None:
    assert wanted(followers, load, least=1, most=4, since=since) == expected


def test_the_load_of_all_places() -> None:
    places = [
        place("learner", 1, busy=0.2, seconds=0.3, requests=5.0),
        place("follower-1", 2, busy=0.6, requests=1.0),
        place("follower-2", 3, state="starting", busy=1.0, seconds=9.0, requests=9.0),
    ]
    assert load_of(places) == PlaceLoad(0.4, 0.3, 6.0)
    assert load_of([]) == PlaceLoad(0.0, 0.0, 0.0)


def test_a_model_anywhere_in_a_spec_may_need_a_gpu() -> None:
    assert gpus_of({"family": "mix", "members": [{"family": "linear"}, {"family": "neural", "device": "cuda"}]}) == 1.0
    assert gpus_of({"family": "neural", "device": "cpu"}) == 0.0


@given(st.data())
def test_one_learner_and_the_wanted_followers_come_out_of_any_situation(data: st.DataObject) -> None:
    """Whatever is lost on the way, repeated decisions lead to all wanted places and no other, each started once."""
    followers = data.draw(st.integers(0, 4), label="followers")
    listed = PlaceList()
    for turn in range(12):
        broken = data.draw(st.sets(st.integers(1, 20)), label="broken") if turn < 6 else set()
        observed = [
            ObservedPlace(replace(one, state="leaving" if one.state == "leaving" else "answers"), DRAIN + 1, 0.5, lost)
            for one in listed.places
            for lost in ["broken" if one.number in broken else ""]
        ]
        need = Need(followers if turn >= 6 else data.draw(st.integers(0, 4), label="meanwhile"), plan="p")
        present = replace(listed, places=tuple(one.entry for one in observed))
        listed = after(present, decide(observed, NODES, need), "p", float(turn))
        names = [one.name for one in listed.places if one.state != "leaving"]
        assert len(names) == len(set(names))
        numbers = [one.number for one in listed.places]
        assert numbers == sorted(set(numbers))
    assert sorted(names) == sorted(["learner", *(f"follower-{at + 1}" for at in range(followers))])
