"""The places of a loop on a cluster, as `GET /places` and `everlearn places --json` show them."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

PlaceRole = Literal["learner", "follower"]
PlaceState = Literal["starting", "answers", "leaving"]


class PlaceEntry(Struct, frozen=True, kw_only=True):
    """One place: a server of the loop on a node of the cluster, with its own port.

    `number` is unique among all places that the loop ever had. `node` is the address of the node, `node_id` its id in
    the cluster, and `plan` the digest of the settings it was started with. `since` is when the place entered its state,
    in seconds since 1970. `requests` a second, `seconds` (the 99th percentile of replies, null without any) and `busy`
    (the share of the workers' time in which they computed) are of the last seconds. `position` is what the served model
    includes of the log, and `staleness` how many seconds behind it is; null while unknown.
    """

    name: str
    number: int
    role: PlaceRole
    node: str
    node_id: str
    plan: str = ""
    url: str = ""
    state: PlaceState = "starting"
    since: float = 0.0
    requests: float = 0.0
    seconds: float | None = None
    busy: float = 0.0
    position: int = 0
    staleness: float | None = None


class PlaceList(Struct, frozen=True, kw_only=True):
    """All places of a loop; empty where the loop is not on a cluster.

    `epoch` counts the processes that placed them, `started` the places started so far, and `wanted` is the number of
    followers wanted now. `time` is when the list was written, in seconds since 1970: an old one says that nothing
    replaces lost places at the moment. `stopped` is true once the loop was ordered to leave the cluster. `trouble` is
    what keeps a wanted place from answering.
    """

    epoch: int = 0
    started: int = 0
    wanted: int = 0
    time: float = 0.0
    stopped: bool = False
    trouble: str = ""
    places: tuple[PlaceEntry, ...] = ()
