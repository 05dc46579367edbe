"""What a cluster and the server process of a place send each other, and the names of the files that they share."""

from __future__ import annotations

from msgspec import Struct

from everlearn.spec import Spec

PLACES = "places.json"  # a `PlaceList`, written by compare-and-set by the one process that places
TOKENS = "tokens.json"  # the API tokens of the loop, as hashes


class PlaceOrder(Struct, frozen=True, kw_only=True):
    """The settings of one place. `loop` is the name of the loop's folder, `node` the address of the machine.

    `evicts` is true if a learner was here or elsewhere before: the session that holds its lease is ended.
    """

    spec: Spec
    loop: str
    name: str
    number: int
    node: str = ""
    follows: bool = False
    evicts: bool = False
    certificate: str = ""
    key: str = ""
    logs: str = "text"


class PlaceBeat(Struct, frozen=True, kw_only=True):
    """The address and the load of a place, see `PlaceEntry`."""

    url: str
    requests: float = 0.0
    seconds: float | None = None
    busy: float = 0.0
    position: int = 0
    staleness: float | None = None


class PlacesPlan(Struct, frozen=True, kw_only=True):
    """What `everlearn serve --on` asks of a cluster: the loop, and from `least` to `most` followers."""

    spec: Spec
    loop: str
    least: int = 1
    most: int = 1
    certificate: str = ""
    key: str = ""
    logs: str = "text"
