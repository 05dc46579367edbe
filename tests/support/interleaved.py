"""Loops that read rows of a file between events, and loops from which persons are erased, by a random plan."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import msgspec

from everlearn.errors import BlobError, EverlearnError
from everlearn.loop.erase import erase
from everlearn.loop.loop import Loop
from everlearn.spec import DriftSpec, FeedbackSpec, GateSpec, ReplaySpec, Spec
from tests.support.homes import SPEC, rows

PERSONS = 9
_TURNS = 250  # rows after which the label turns
_DRIFT = DriftSpec(detector="page_hinkley", grace_period=50, sensitivity=0.05)

KINDS: dict[str, Spec] = {
    "live": SPEC,
    "gated": msgspec.structs.replace(SPEC, mode="gated"),
    "warm": msgspec.structs.replace(SPEC, warm_start=30),
    "share": msgspec.structs.replace(SPEC, warm_start=0.3),
    "snapshot": msgspec.structs.replace(SPEC, mode="gated", gate=GateSpec(minimum=20, alpha=0.4, promote="snapshot")),
    "reset": msgspec.structs.replace(SPEC, mode="gated", drift=msgspec.structs.replace(_DRIFT, reaction="reset")),
    "rate": msgspec.structs.replace(
        SPEC, drift=msgspec.structs.replace(_DRIFT, reaction="rate"), replay=ReplaySpec(kind="reservoir", bytes=4000)
    ),
}


def written(path: Path, last: int) -> None:
    """Write the first rows of the stream to a file."""
    lines = [f"{features['a']!r},{features['c']},{label}\n" for features, label in _stream()[:last]]
    path.write_text("a,c,y\n" + "".join(lines), encoding="utf-8")


def _stream() -> list[tuple[dict[str, Any], int]]:
    return [(features, y ^ int((row // _TURNS) % 2)) for row, (features, y) in enumerate(rows(4000))]


class Traffic:
    """One loop, and the steps of a plan; each step is one of the methods."""

    def __init__(self, spec: Spec, folder: Path, seed: int) -> None:
        now = count(1)
        self.clock: Callable[[], float] = lambda: float(next(now))
        self.draw, self.erased = random.Random(seed), list[str]()
        self.home, self.path, self.taken, self._given = folder / "home", folder / "rows.csv", 0, _stream()[1500:]
        self.spec = msgspec.structs.replace(spec, source="" if spec.subject else str(self.path))
        self.loop = Loop(self.spec, self.home, clock=self.clock)

    def take(self, plan: list[str]) -> None:
        """Do the steps of a plan; an order that cannot be carried out changes nothing."""
        for step in plan:
            with suppress(EverlearnError):
                getattr(self, step)()
        self.again()

    def run(self) -> None:
        self.taken += self.draw.choice([1, 7, 40, 90, 130, 200])
        written(self.path, self.taken)
        self.loop.run(str(self.path))

    def learn(self) -> None:
        for _ in range(self.draw.choice([1, 5, 40, 120])):
            record, label = self._next()
            self.loop.learn(record, label)

    def predict(self) -> None:
        for _ in range(self.draw.choice([1, 20, 60, 120])):
            record, label = self._next()
            given = self.loop.predict(record)
            if self.draw.random() < 0.7:
                self.loop.feedback(given.id, label)

    def rollback(self) -> None:
        self.loop.rollback()

    def without(self) -> None:
        for _ in range(12):
            record, label = self._next()
            self.loop.learn(record, 1 - label, source="bad")
        self.loop.rollback(without={"source": "bad"})

    def pause(self) -> None:
        self.loop.pause()
        self.learn()
        if not self.spec.subject:
            self.run()
        self.loop.resume()

    def challenge(self) -> None:
        self.loop.challenge({"family": "linear", "optimizer": "sgd", "rate": 0.01})

    def again(self) -> None:
        self.loop.close()
        self.loop = Loop(self.spec, self.home, clock=self.clock)

    def change(self) -> None:
        self.loop.close()
        mode, tick = self.draw.choice(["live", "gated"]), self.draw.choice([10, 20])
        self.spec = msgspec.structs.replace(self.spec, mode=mode, tick=tick)
        self.loop = Loop(self.spec, self.home, clock=self.clock)

    def kill(self) -> None:
        self.loop.home.close()  # what came since the last checkpoint is only in the log
        self.loop = Loop(self.spec, self.home, clock=self.clock)

    def erase(self) -> None:
        if self.draw.random() < 0.3:
            self.loop.home.close()
        self.loop.close()
        person = self.draw.choice([one for one in map(_person, range(PERSONS)) if one not in self.erased])
        try:
            erase(self.home, self.spec, {"user": person}, "asked by mail")
            self.erased.append(person)
        finally:
            self.loop = Loop(self.spec, self.home, clock=self.clock)

    def _next(self) -> tuple[dict[str, Any], int]:
        record, label = self._given.pop(0)
        known = [one for one in map(_person, range(PERSONS)) if one not in self.erased]
        return record | ({"user": self.draw.choice(known)} if self.spec.subject else {}), label


def _person(number: int) -> str:
    return f"person-{number}-quux"


MIXED = [
    "run",
    "run",
    "run",
    "learn",
    "predict",
    "rollback",
    "without",
    "pause",
    "challenge",
    "again",
    "change",
    "kill",
]
ERASED = [
    "learn",
    "learn",
    "predict",
    "predict",
    "rollback",
    "without",
    "challenge",
    "again",
    "change",
    "kill",
    "erase",
]


def mixed(kind: str, folder: Path, seed: int) -> Traffic:
    """Return a loop that has read rows of a file between events; it is open."""
    traffic = Traffic(KINDS[kind], folder, seed)
    traffic.take(traffic.draw.choices(MIXED, k=traffic.draw.randint(7, 12)))
    return traffic


def erased(kind: str, folder: Path, seed: int) -> Traffic:
    """Return a loop from which persons were erased; it is open."""
    plain = {"subject": "user", "feedback": FeedbackSpec(), "replay": ReplaySpec(), "warm_start": 0.0, "keep": 50}
    traffic = Traffic(msgspec.structs.replace(KINDS[kind], **plain), folder, seed)
    traffic.take([*traffic.draw.choices(ERASED[:-1], k=4), "predict", "erase", *traffic.draw.choices(ERASED, k=5)])
    return traffic


def models(loop: Loop) -> tuple[dict[str, bytes], dict[str, dict[str, bytes]], dict[str, list[str]]]:
    """Return the arrays of all models that serve or learn, those of all versions that have any, and the aliases."""
    held, stored, roster = dict[str, bytes](), dict[str, dict[str, bytes]](), loop.fold.roster
    for contestant in roster.contestants:
        if (role := roster.role_of(contestant)) != "candidate":
            name = f"{role} {contestant.version}"
            held |= {f"{name} {array}": value.tobytes() for array, value in contestant.model.arrays.items()}
    for version in loop.versions():
        with suppress(BlobError):
            arrays = loop.home.versions.load(version.id)
            stored[version.id] = {name: array.tobytes() for name, array in arrays.items()}
    return held, stored, loop.aliases()
