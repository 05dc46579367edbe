"""Decide which server of a loop runs on which node of a cluster: observations in, instructions out, without a cluster.

A loop has one place that learns, and some that follow. `decide` replaces lost places, adds missing ones, and removes
those that are too many; `wanted` says how many followers the traffic needs. Both are pure, so a table of situations
tests them. `ray_placer` observes a cluster, and carries the instructions out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from math import ceil
from typing import Literal, NamedTuple

from msgspec.structs import replace

from everlearn.client.place_records import PlaceEntry, PlaceList, PlaceRole

LEARNER = "learner"
PATIENCE = 8.0  # seconds without a heartbeat after which a place is lost
PENDING = 60.0  # seconds that a new place has for its first heartbeat: the cluster may have to start a process for it
STARTING = 330.0  # seconds until it answers: kernels may have to be compiled
DRAIN = 5.0  # seconds between the announcement that a place leaves and its end, for load balancers to see it
GONE = 3.0  # seconds without a heartbeat after which a place is lost if the cluster does not list its node
SUSPECT = 60.0  # seconds for which a node that lost a place is taken only if there is no other

BUSY = 0.6  # the share of their time in which workers should compute
LATE = 0.25  # seconds, the 99th percentile of replies from which on a place is added
SOON, CALM = 10.0, 60.0  # seconds since the last change before places are added, and before one is removed


class PlaceNode(NamedTuple):
    """A living node of the cluster, with its processors and GPUs, used or not; `head` also runs the control plane."""

    id: str
    address: str
    cpus: float
    gpus: float = 0.0
    head: bool = False


class ObservedPlace(NamedTuple):
    """A place, the seconds in its state and since its last heartbeat (None before the first), and why it is lost."""

    entry: PlaceEntry
    age: float
    silent: float | None = None
    lost: str = ""


class PlaceAction(NamedTuple):
    """Start a place of a `name` and `role` on `node`; or let place `number` leave, or end it, for a reason."""

    kind: Literal["start", "leave", "end"]
    name: str
    role: PlaceRole = "follower"
    node: PlaceNode | None = None
    number: int = 0
    reason: str = ""


class Need(NamedTuple):
    """The places that a loop needs: `followers` beside the learner, each with `gpus`, of the settings `plan`."""

    followers: int
    gpus: float = 0.0
    plan: str = ""


class PlaceLoad(NamedTuple):
    """The load of the places that answer: mean busy share, slowest 99th percentile in seconds, requests a second."""

    busy: float
    seconds: float
    requests: float


def decide(
    places: Sequence[ObservedPlace],
    nodes: Sequence[PlaceNode],
    need: Need,
    suspects: Set[str] = frozenset(),
    waiting: Set[str] = frozenset(),
) -> list[PlaceAction]:
    """Return what to do now, in order.

    `suspects` are ids of nodes that lost a place lately, `waiting` the names of places that must not be started yet.
    Lost places end and are replaced at once. A place too many leaves, and ends `DRAIN` seconds later. If nothing else
    is to be done, one place with older settings is replaced.

    >>> nodes = [PlaceNode("a", "10.0.0.1", 4, head=True), PlaceNode("b", "10.0.0.2", 4), PlaceNode("c", "10.0.0.3", 4)]
    >>> [(action.kind, action.name, action.node.id) for action in decide([], nodes, Need(followers=2))]
    [('start', 'learner', 'b'), ('start', 'follower-1', 'c'), ('start', 'follower-2', 'a')]
    """
    actions = [_end(one, why) for one in places if (why := _lost(one, nodes))]
    suspects = suspects | {one.entry.node_id for one in places if _lost(one, nodes)}
    actions += [_end(one, "it has left") for one in places if _has_left(one)]
    ended = {action.number for action in actions}
    kept = [one for one in places if one.entry.number not in ended]
    named = [LEARNER, *(f"follower-{number}" for number in range(1, need.followers + 1))]
    staying = {one.entry.name: one for one in kept if one.entry.state != "leaving"}
    actions += [
        PlaceAction("leave", one.entry.name, one.entry.role, number=one.entry.number, reason="it is not needed now")
        for name, one in staying.items()
        if name not in named
    ]
    used = [one.entry.node_id for one in kept]
    for name in named:
        if name in staying or name in waiting:
            continue
        node = choose(nodes, used, suspects, need.gpus, learns=name == LEARNER)
        if node is not None:
            used.append(node.id)
            actions.append(PlaceAction("start", name, "learner" if name == LEARNER else "follower", node))
    settled = len(staying) == len(named) and all(one.entry.state == "answers" for one in staying.values())
    old = [one for one in staying.values() if one.entry.plan != need.plan]
    if old and settled and not actions:
        first = min(old, key=lambda one: (one.entry.name == LEARNER, one.entry.name))
        actions.append(_end(first, "its settings are older"))
    return actions


def after(listed: PlaceList, actions: Iterable[PlaceAction], plan: str, now: float) -> PlaceList:
    """Return the list of places once these actions are decided; `now` is in seconds since 1970.

    An ended place is no longer in it, so its server ends itself if nothing else reaches it.
    """
    places = {entry.number: entry for entry in listed.places}
    number = listed.started
    for action in actions:
        if action.kind == "end":
            del places[action.number]
        elif action.kind == "leave":
            places[action.number] = replace(places[action.number], state="leaving", since=now)
        elif action.node is not None:
            number += 1
            places[number] = PlaceEntry(
                name=action.name,
                number=number,
                role=action.role,
                node=action.node.address,
                node_id=action.node.id,
                plan=plan,
                since=now,
            )
    return replace(listed, started=number, time=now, places=tuple(places.values()))


def choose(
    nodes: Sequence[PlaceNode],
    used: Sequence[str],
    suspects: Set[str] = frozenset(),
    gpus: float = 0.0,
    learns: bool = False,
) -> PlaceNode | None:
    """Return the node for a place: with the fewest places, the head last; None if no node has room.

    `used` has the id of a node once for each of its places. A place takes one processor, and `gpus`. Suspects are taken
    only if there is no other node. A place that `learns` is on the head only if no other node has room, since it is the
    only one of its kind, and nothing replaces it while the head is gone.

    >>> nodes = [PlaceNode("a", "10.0.0.1", 4, head=True), PlaceNode("b", "10.0.0.2", 4)]
    >>> choose(nodes, ["b"]).id, choose(nodes, ["b"], learns=True).id
    ('a', 'b')
    """
    number = {node.id: list(used).count(node.id) for node in nodes}
    room = [node for node in nodes if node.cpus - number[node.id] >= 1.0 and node.gpus - gpus * number[node.id] >= gpus]
    trusted = [node for node in room if node.id not in suspects] or room
    return min(trusted, key=lambda node: (learns and node.head, number[node.id], node.head, node.id), default=None)


def wanted(followers: int, load: PlaceLoad, least: int, most: int, since: float) -> int:
    """Return how many followers are wanted, given those there are now and the seconds since their number changed.

    The number follows the busy share of all places that answer, the learner's among them, as a horizontal autoscaler
    does (desired = places * busy / target); late replies add one. It grows at once by as many as are needed, and
    shrinks by one at a time, only if the rest would be far from busy.

    >>> wanted(2, PlaceLoad(busy=0.95, seconds=0.02, requests=900.0), least=1, most=8, since=30.0)
    4
    >>> wanted(4, PlaceLoad(busy=0.05, seconds=0.02, requests=9.0), least=1, most=8, since=90.0)
    3
    """
    places = followers + 1
    desired = ceil(places * load.busy / BUSY - 1e-9)
    if load.seconds > LATE and load.requests > 0.0:
        desired = max(desired, places + 1)
    if desired > places and since >= SOON:
        followers += desired - places
    elif since >= CALM and load.seconds <= LATE and places * load.busy < 0.8 * BUSY * (places - 1):
        followers -= 1
    return max(least, min(most, followers))


def load_of(entries: Iterable[PlaceEntry]) -> PlaceLoad:
    """Return the load of the places that answer; zeros if none does."""
    answering = [entry for entry in entries if entry.state == "answers"]
    if not answering:
        return PlaceLoad(0.0, 0.0, 0.0)
    return PlaceLoad(
        busy=sum(entry.busy for entry in answering) / len(answering),
        seconds=max(entry.seconds or 0.0 for entry in answering),
        requests=sum(entry.requests for entry in answering),
    )


def gpus_of(model: object) -> float:
    """Return the GPUs of a place, given the model of a spec: 1 if any part of it is on CUDA.

    >>> gpus_of({"family": "neural", "device": "cuda:0"}), gpus_of({"family": "linear"})
    (1.0, 0.0)
    """
    if isinstance(model, Mapping):
        if str(model.get("device", "")).startswith("cuda"):
            return 1.0
        return max((gpus_of(part) for part in model.values()), default=0.0)
    if isinstance(model, list | tuple):
        return max((gpus_of(part) for part in model), default=0.0)
    return 0.0


def _lost(one: ObservedPlace, nodes: Sequence[PlaceNode]) -> str:
    """Return why a place is lost; "" if it is not."""
    if one.lost:
        return one.lost
    if one.entry.node_id not in {node.id for node in nodes} and min(one.age, one.silent or one.age) > GONE:
        return "its node left the cluster"
    if one.silent is None:
        return f"it gave no sign for {PENDING:.0f} seconds after its start" if one.age > PENDING else ""
    if one.silent > PATIENCE:
        return f"it gave no sign for {PATIENCE:.0f} seconds"
    if one.entry.state == "starting" and one.age > STARTING:
        return f"it did not answer within {STARTING:.0f} seconds"
    return ""


def _has_left(one: ObservedPlace) -> bool:
    return one.entry.state == "leaving" and not one.lost and one.age > DRAIN


def _end(one: ObservedPlace, reason: str) -> PlaceAction:
    return PlaceAction("end", one.entry.name, one.entry.role, number=one.entry.number, reason=reason)
