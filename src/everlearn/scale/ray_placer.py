"""The actor that places: at the head of a Ray cluster it looks at all places twice a second, and replaces lost ones.

Observations go to `placement.decide`, which says what to do. The list of places is written to the shared files of the
loop before anything is done, by compare-and-set: a place that is not in it ends. Ray starts this actor again if its
process or its head is lost, and it takes the list over; meanwhile all places go on.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from contextlib import suppress
from typing import Any

import msgspec
from msgspec.structs import asdict, replace

from everlearn.client.place_records import PlaceEntry, PlaceList
from everlearn.errors import BlobError, ConfigError
from everlearn.scale.place_messages import PLACES, TOKENS, PlaceBeat, PlacesPlan
from everlearn.scale.placement import (
    SUSPECT,
    Need,
    ObservedPlace,
    PlaceAction,
    after,
    decide,
    gpus_of,
    load_of,
    wanted,
)
from everlearn.scale.ray_places import (
    GRACE,
    HEAD,
    ActorReport,
    connect,
    find_place,
    living_nodes,
    namespace_of,
    ray,
    start_place,
    take_full_priority,
)
from everlearn.version.blobs import SharedFiles, shared_files

log = logging.getLogger("everlearn.placer")

TICK = 0.5  # seconds between two looks at all places
WRITE = 2.0  # seconds between two writes of the list, if nothing but loads changed
ADOPTED = 15.0  # seconds more that places have for a heartbeat after this actor was started again
RETRY = (1.0, 30.0)  # seconds before a place that failed is started again: the first time, and at most
PLACER = "placer"


class WatchedPlace:
    """One place as the placer sees it: its actor, its entry in the list, and when it last reported."""

    def __init__(self, entry: PlaceEntry, actor: Any, reported: float | None = None) -> None:
        self.entry, self.actor, self.reported = entry, actor, reported
        self.lost = "" if actor is not None else "the cluster does not know its actor"
        self.call: Any = None  # of a report that has not come yet

    def ask(self) -> None:
        """Ask the actor for a report, unless one is on its way."""
        if self.call is None and self.actor is not None:
            self.call = self.actor.report.remote()

    def hear(self, now: float) -> None:
        """Take over the report that came, or the news that the actor is gone."""
        call, self.call = self.call, None
        try:
            report: ActorReport = ray.get(call)
        except ray.exceptions.ActorUnavailableError:
            return  # it may be the network: silence counts
        except ray.exceptions.RayError as error:
            self.lost = f"its actor is gone: {' '.join(str(error).split())[:1000]}"
            return
        self.lost, self.reported = report.lost, max(self.reported or 0.0, now - report.age)
        if report.beat:
            beat = msgspec.json.decode(report.beat, type=PlaceBeat)
            self.entry = replace(self.entry, **asdict(beat))
            if self.entry.state == "starting":
                self.entry = replace(self.entry, state="answers", since=time.time())

    def observed(self, now: float) -> ObservedPlace:
        """Return what `decide` needs to know."""
        silent = None if self.reported is None else max(0.0, now - self.reported)
        return ObservedPlace(self.entry, max(0.0, time.time() - self.entry.since), silent, self.lost)

    def end(self) -> None:
        """End the server; an actor that cannot hear this ends by itself, or is refused by the log."""
        if self.actor is not None:
            with suppress(ray.exceptions.RayError):
                self.actor.stop.remote()

    def kill(self) -> None:
        """End the actor, whatever it does."""
        if self.actor is not None:
            ray.kill(self.actor, no_restart=True)


class Retries:
    """When places that failed may be started again: ever later, until one has answered."""

    def __init__(self) -> None:
        self._due: dict[str, float] = {}
        self._pauses: dict[str, float] = {}

    def failed(self, name: str, now: float) -> None:
        """Note a failure."""
        pause = self._pauses.get(name, 0.0)
        self._due[name] = now + pause
        self._pauses[name] = min(RETRY[1], max(RETRY[0], 2 * pause))

    def answered(self, name: str) -> None:
        """Forget the failures of a place that answers."""
        self._pauses.pop(name, None)

    def waiting(self, now: float) -> set[str]:
        """Return the names of places that must wait."""
        return {name for name, due in self._due.items() if due > now}


class Placer:
    """The actor. Raises `ConfigError` for a loop without shared files, and `BlobError` if these cannot be used."""

    def __init__(self, plan: bytes) -> None:
        take_full_priority()
        self._plan = msgspec.json.decode(plan, type=PlacesPlan)
        self._need = Need(self._plan.least, gpus_of(self._plan.spec.model), hashlib.sha256(plan).hexdigest()[:12])
        self._store: SharedFiles = shared_files(self._plan.loop, self._plan.spec.log)
        self._tag: str | None = None
        self._list = PlaceList()
        self._watched: dict[int, WatchedPlace] = {}
        self._ending: list[tuple[float, WatchedPlace]] = []  # until when each has time for it
        self._suspects: dict[str, float] = {}  # node: until when
        self._retries = Retries()
        self._scaled, self._written = time.monotonic(), 0.0
        self._adopt()
        threading.Thread(target=self._run, daemon=True).start()

    def epoch(self) -> int:
        """Return the number of this placer among all that the loop had."""
        return self._epoch

    def _adopt(self) -> None:
        """Take over the list of the placer before this one, and find the actors of its places."""
        found = self._store.get(PLACES)
        before = PlaceList()
        if found is not None:
            before, self._tag = msgspec.json.decode(found[0], type=PlaceList), found[1]
        followers = min(self._plan.most, max(self._plan.least, before.wanted))
        self._epoch = before.epoch + 1
        self._put(replace(before, epoch=self._epoch, wanted=followers, stopped=False, time=time.time()))
        reported = time.monotonic() + ADOPTED
        for entry in before.places:
            self._watched[entry.number] = WatchedPlace(entry, find_place(entry), reported)

    def _run(self) -> None:
        while not self._list.stopped:
            began = time.monotonic()
            try:
                self._tick()
            except (BlobError, OSError) as error:  # what runs goes on; nothing is placed until the store answers
                log.error("the list of places cannot be read or written: %s", error)
            except Exception:  # of Ray, whose errors have no common root; its head may be starting
                log.exception("the places cannot be looked at")
            time.sleep(max(0.0, TICK - (time.monotonic() - began)))
        self._leave()

    def _tick(self) -> None:
        now = time.monotonic()
        self._read()
        if self._list.stopped:
            return
        self._hear(now)
        for due, one in self._ending:
            if due < now:
                one.kill()
        self._ending = [(due, one) for due, one in self._ending if due >= now]
        self._suspects = {node: until for node, until in self._suspects.items() if until > now}
        observed = [one.observed(now) for one in self._watched.values()]
        followers = wanted(
            self._list.wanted,
            load_of(one.entry for one in observed),
            self._plan.least,
            self._plan.most,
            now - self._scaled,
        )
        need = self._need._replace(followers=followers)
        actions = decide(observed, living_nodes(), need, self._suspects.keys(), self._retries.waiting(now))
        changed = bool(actions) or followers != self._list.wanted or self._have_moved()
        if changed or now - self._written > WRITE:
            self._carry_out(actions, followers, now)

    def _hear(self, now: float) -> None:
        """Take over the reports that have come, and ask for new ones."""
        for one in self._watched.values():
            one.ask()
        calls = {one.call: one for one in self._watched.values() if one.call is not None}
        if calls:
            ready, _ = ray.wait(list(calls), num_returns=len(calls), timeout=TICK)
            for call in ready:
                calls[call].hear(now)
        for one in self._watched.values():
            if one.entry.state == "answers":
                self._retries.answered(one.entry.name)

    def _have_moved(self) -> bool:
        """Return True if a place has entered another state than the list shows."""
        return any(self._watched[entry.number].entry.state != entry.state for entry in self._list.places)

    def _carry_out(self, actions: list[PlaceAction], followers: int, now: float) -> None:
        """Write the list as it will be, then end and start places."""
        present = replace(self._list, places=tuple(one.entry for one in self._watched.values()))
        new = after(present, actions, self._need.plan, time.time())
        ended = [action for action in actions if action.kind == "end"]
        trouble = "; ".join(f"{action.name}: {action.reason}" for action in ended) or self._list.trouble
        if not actions and all(entry.state == "answers" for entry in new.places):
            trouble = ""
        self._put(replace(new, wanted=followers, trouble=trouble))
        if followers != present.wanted:
            self._scaled = now
        for action in actions:
            log.warning("%s %s: %s", action.kind, action.name, action.reason or (action.node and action.node.address))
        for action in ended:
            lost = self._watched.pop(action.number)
            lost.end()
            self._ending.append((now + 2 * GRACE, lost))
            if lost.entry.state != "leaving" and lost.entry.plan == self._need.plan:
                self._retries.failed(action.name, now)
                self._suspects[lost.entry.node_id] = now + SUSPECT
        for entry in new.places:
            if entry.number in self._watched:
                self._watched[entry.number].entry = entry
            else:
                self._watched[entry.number] = WatchedPlace(entry, self._started(entry))

    def _started(self, entry: PlaceEntry) -> Any:
        """Start the actor of a place; None if the cluster refuses: the place then counts as lost."""
        try:
            return start_place(self._plan, entry)
        except (ray.exceptions.RayError, RuntimeError, ValueError) as error:
            log.error("%s cannot be started: %s", entry.name, error)
            return None

    def _read(self) -> None:
        """Take over an order to stop, and that of another placer, which has begun."""
        found = self._store.get(PLACES, self._tag or "")
        if found is not None:
            listed, self._tag = msgspec.json.decode(found[0], type=PlaceList), found[1]
            if listed.stopped or listed.epoch > self._list.epoch:
                self._list = replace(listed, stopped=True)

    def _put(self, listed: PlaceList) -> None:
        """Write the list. Raises `BlobError` if another process has written it since."""
        tag = self._store.replace(PLACES, msgspec.json.encode(listed), self._tag)
        if tag is None:
            self._tag = None
            raise BlobError("another process has written it; it is read again")
        self._tag, self._list, self._written = tag, listed, time.monotonic()

    def _leave(self) -> None:
        """End all places, unless another placer has them, then this actor."""
        if self._list.epoch == self._epoch:
            calls = [one.actor.stop.remote() for one in self._watched.values() if one.actor is not None]
            if calls:
                ray.wait(calls, num_returns=len(calls), timeout=2 * GRACE)
            with suppress(BlobError):
                self._put(replace(self._list, places=(), wanted=0, time=time.time()))
        ray.kill(ray.get_runtime_context().current_actor, no_restart=True)


def deploy(address: str, plan: PlacesPlan, tokens: bytes | None) -> int:
    """Place a loop on a cluster, or give the loop that is there other settings; return the epoch of its placer.

    `tokens` is the content of the loop's token file. Places with older settings are replaced one by one. Raises
    `ConfigError` for a cluster that cannot be reached or has no GPU for a model on CUDA.
    """
    connect(address, namespace_of(plan))
    gpus = gpus_of(plan.spec.model)
    if gpus and not any(node.gpus >= gpus for node in living_nodes()):
        raise ConfigError("model.device: got 'cuda'; expected a node with a GPU, and the cluster has none. Start one")
    store = shared_files(plan.loop, plan.spec.log)
    if tokens is not None:
        store.put(TOKENS, tokens)
    end = time.monotonic() + GRACE
    while (before := _found()) is not None and time.monotonic() < end:
        ray.kill(before, no_restart=True)
        time.sleep(TICK)
    options = {"name": PLACER, "lifetime": "detached", "max_restarts": -1, "num_cpus": 0, "resources": {HEAD: 0.001}}
    placer = ray.remote(Placer).options(**options).remote(msgspec.json.encode(plan))
    try:
        return int(ray.get(placer.epoch.remote()))
    except ray.exceptions.RayError as error:
        raise ConfigError(f"--on: the placer does not start on the cluster: {error}") from error


def _found() -> Any:
    with suppress(ValueError):
        return ray.get_actor(PLACER)
    return None
