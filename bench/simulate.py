"""A plan for a rate of events: what lags, how stale the answers are, how many machines, what they cost, what breaks.

    python bench/simulate.py [--rates 1e4,1e5,1e6,1e7] [--replicas 10,1e3,1e5] [--family linear|auto]
                             [--log sqlite|postgresql|nats] [--costs costs.json] [--check]

A discrete-event simulation (SimPy) of the processes as they are: workers that commit what has arrived since the last
group, one learner for each partition that folds pieces and publishes snapshots, an uploader, and servers that follow.
Work is split evenly, so one partition with its workers and one follower are simulated, and totals are multiplied. Costs
are those that `bench/simulate_costs.py` measured; prices and the limits of an object store are assumptions (`Prices`).

--check compares shares of busy time with their formula.
"""

from __future__ import annotations

import argparse
import math
import random
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
import simpy

from everlearn.app.learner import BUSY, IDLE, PIECES, SHARE, Pace
from everlearn.app.mirror import FOLLOW, UPLOAD

DESIGN = 0.6  # the share of its time that a process may be busy in a plan
SECONDS = 20.0  # that are simulated
WARM = 4.0  # of which are not counted

Wait = Iterator[simpy.events.Event]


class Line(msgspec.Struct, frozen=True):
    """Seconds of an operation on n things: fixed + each * n."""

    fixed: float
    each: float

    def of(self, n: float) -> float:
        """Return the seconds for `n`."""
        return self.fixed + self.each * n


class Costs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Seconds that were measured; see `bench/simulate_costs.py`."""

    answer: Line  # a group of n predictions in a worker, without the commit: CPU
    label: Line  # a group of n labels in a worker, without the commit: CPU
    fold: dict[str, Line]  # a piece of n events in the learner, by family: CPU
    look: float  # a step of the learner besides the fold: a read of the log, and its share of the status: CPU
    publish: Line  # a snapshot of n bytes: CPU
    commit: dict[str, Line]  # a group of n events, by log: elapsed
    committing: dict[str, Line]  # the CPU of the client in it, by log
    put: Line  # an object of n bytes: elapsed
    get: Line
    size: dict[str, float]  # bytes of a snapshot, by family
    event: float  # bytes of an event in the log
    merge: Line  # a merge of models with n bytes in all: CPU


class Prices(msgspec.Struct, frozen=True):
    """Assumptions in dollars, and limits of an object store that no test here can show."""

    core: float = 0.04  # an hour
    stored: float = 0.08  # a gigabyte and month, one copy on a disk
    requests: float = 0.0000004  # a GET
    days: float = 7.0  # that traffic is kept
    copies: float = 3.0  # of it
    gets: float = 5500.0  # a second, of one prefix
    egress: float = 12.5e9  # bytes a second, of one bucket in its region


# ---- one machine --------------------------------------------------------------------------------------------------


@dataclass
class Seen:
    """What a simulation counts: seconds, one value for each event or group."""

    answers: list[float] = field(default_factory=list)
    served: list[float] = field(default_factory=list)  # from the acknowledgement of a label to what serves
    followed: list[float] = field(default_factory=list)  # to what serves on another machine
    busy: dict[str, float] = field(default_factory=dict)  # seconds of CPU, by process
    groups: list[int] = field(default_factory=list)
    backlog: int = 0


class Partition:
    """One partition with its workers, learner, uploader and one follower; half of its `rate` events are labels."""

    def __init__(
        self, costs: Costs, rate: float, family: str, log: str, workers: int = 1, cores: int = 8, seed: int = 0,
        client: float = 0.0, merge_every: float = 0.0, merge: float = 0.0, snapshot: float = 0.0,
    ) -> None:  # fmt: skip
        self.costs, self.rate, self.family, self.log = costs, rate, family, log
        self.env, self.draw, self.seen = simpy.Environment(), random.Random(seed), Seen()
        self.cores = simpy.PriorityResource(self.env, cores)
        self.writer = simpy.Resource(self.env, 1)  # writers of one log take turns
        self.waiting: list[deque[tuple[float, bool]]] = [deque() for _ in range(workers)]
        self.arrived = [self.env.event() for _ in range(workers)]
        self.written: deque[tuple[float, bool]] = deque()  # acknowledged, not folded
        self.client, self.merge_every, self.merge = client, merge_every, merge
        self.size = snapshot or costs.size[family]
        self.unserved: list[float] = []
        self.uploads: list[float] = []  # acknowledgements in the newest snapshot, not uploaded
        self.travelling: list[float] = []

    def run(self, seconds: float = SECONDS) -> Seen:
        """Simulate some seconds."""
        self.env.process(self._arrivals())
        for index in range(len(self.waiting)):
            self.env.process(self._worker(index))
        self.env.process(self._learner())
        self.env.process(self._uploader())
        self.env.process(self._follower())
        self.env.run(seconds)
        self.seen.backlog = len(self.written) + sum(map(len, self.waiting))
        return self.seen

    def _burn(self, name: str, seconds: float, priority: int = 0) -> Wait:
        """Use a core for a while, in slices as a scheduler would give them."""
        if self.env.now > WARM:
            self.seen.busy[name] = self.seen.busy.get(name, 0.0) + seconds
        while seconds > 0.0:
            part = min(seconds, 0.002)
            with self.cores.request(priority) as core:
                yield core
                yield self.env.timeout(part)
            seconds -= part

    def _arrivals(self) -> Wait:
        number = 0
        while True:
            yield self.env.timeout(self.draw.expovariate(self.rate))
            index = number % len(self.waiting)
            self.waiting[index].append((self.env.now, number % 2 == 1))
            number += 1
            if self.client:
                self.env.process(self._burn("client", self.client))
            if not self.arrived[index].triggered:
                self.arrived[index].succeed()

    def _worker(self, index: int) -> Wait:
        queue = self.waiting[index]
        while True:
            if not queue:
                self.arrived[index] = self.env.event()
                yield self.arrived[index]
            group = [queue.popleft() for _ in range(len(queue))]
            labels = sum(label for _, label in group)
            work = 0.0
            if answers := len(group) - labels:
                work += self.costs.answer.of(answers)
            if labels:
                work += self.costs.label.of(labels)
            yield from self._burn("worker", work)
            with self.writer.request() as turn:
                yield turn
                cpu, elapsed = (
                    self.costs.committing[self.log].of(len(group)),
                    self.costs.commit[self.log].of(len(group)),
                )
                yield from self._burn("worker", cpu)
                yield self.env.timeout(max(0.0, elapsed - cpu))
            now = self.env.now
            self.written.extend((now, label) for _, label in group)
            if now > WARM:
                self.seen.groups.append(len(group))
                self.seen.answers.extend(now - began for began, _ in group)

    def _learner(self) -> Wait:
        """`app.learner.Tail.step` in a loop, with its own pace."""
        pace, sleep, since = Pace(), BUSY, 0.0
        while True:
            piece = [self.written.popleft() for _ in range(min(pace.limit, len(self.written)))]
            yield from self._burn("learner", self.costs.look, 1)
            if piece:
                work = self.costs.fold[self.family].of(len(piece))
                yield from self._burn("learner", work, 1)
                pace.folded(len(piece), work)
                self.unserved += [at for at, label in piece if label]
                since += len(piece)
                if self.merge_every and since >= self.merge_every:
                    since -= self.merge_every
                    yield self.env.timeout(self.costs.put.of(self.size) + self.costs.get.of(self.size))
                    yield from self._burn("learner", self.merge, 1)
            if self.unserved and self.env.now >= pace.due:
                began, work = self.env.now, self.costs.publish.of(self.size)
                yield from self._burn("learner", work, 1)
                pace.published(began, work)
                if self.env.now > WARM:
                    self.seen.served += [self.env.now - at for at in self.unserved]
                self.uploads += self.unserved
                self.unserved = []
            if len(piece) < PIECES[0]:
                if piece:
                    sleep = BUSY
                else:
                    sleep = min(IDLE, sleep * 1.5)
                    if self.unserved:
                        sleep = min(sleep, max(BUSY, pace.due - self.env.now))
                yield self.env.timeout(sleep)

    def _uploader(self) -> Wait:
        while True:
            yield self.env.timeout(UPLOAD)
            if not self.uploads:
                continue
            taken, self.uploads = self.uploads, []
            yield self.env.timeout(self.costs.put.of(self.size) + self.costs.put.of(500))
            self.travelling += taken

    def _follower(self) -> Wait:
        while True:
            yield self.env.timeout(FOLLOW)
            yield self.env.timeout(self.costs.get.of(500))
            if not self.travelling:
                continue
            taken, self.travelling = self.travelling, []
            yield self.env.timeout(self.costs.get.of(self.size))
            if self.env.now > WARM:
                self.seen.followed += [self.env.now - at for at in taken]


# ---- the plan -----------------------------------------------------------------------------------------------------


@dataclass
class Plan:
    """The processes for a rate, each busy for at most `DESIGN` of its time."""

    rate: float
    partitions: int
    workers: int  # of all partitions
    reason: str  # what decides the number of partitions


def planned(costs: Costs, rate: float, family: str, log: str) -> Plan:
    """Return the number of partitions and workers for `rate` events a second, half of them labels."""
    learner = costs.fold[family].of(512) / 512
    group = 256
    writer = costs.commit[log].of(group) / group
    worker = (costs.answer.of(group / 2) + costs.label.of(group / 2) + costs.committing[log].of(group)) / group
    needs = {"learner": rate * learner / DESIGN, "log": rate * writer / DESIGN}
    reason = max(needs, key=lambda name: needs[name])
    partitions = max(1, math.ceil(needs[reason]))
    return Plan(rate, partitions, max(partitions, math.ceil(rate * worker / DESIGN)), reason)


def row(costs: Costs, rate: float, family: str, log: str, prices: Prices, every: float) -> str:
    """Simulate the plan for a rate, and return a line of the table."""
    plan = planned(costs, rate, family, log)
    merge = costs.merge.of(costs.size[family] * plan.partitions) if plan.partitions > 1 else 0.0
    part = Partition(
        costs, rate / plan.partitions, family, log, max(1, round(plan.workers / plan.partitions)), 64,
        merge_every=every if plan.partitions > 1 else 0.0, merge=merge,
    )  # fmt: skip
    seen = part.run()
    cores = plan.partitions + plan.workers
    month = cores * prices.core * 730
    stored = rate * costs.event * 86400 * prices.days * prices.copies / 1e9 * prices.stored
    ms = {name: 1000 * np.percentile(values, 99) if values else math.nan for name, values in seen_series(seen).items()}
    kept = "" if seen.backlog < rate / plan.partitions else "  (falls behind)"
    return (
        f"{rate:12,.0f} {plan.partitions:11,} {plan.reason:>8} {plan.workers:8,} {cores:7,} {ms['answers']:9.1f}"
        f" {ms['served']:9.0f} {ms['followed']:10.0f} {month:11,.0f} {stored:11,.0f}{kept}"
    )


def seen_series(seen: Seen) -> dict[str, list[float]]:
    return {"answers": seen.answers, "served": seen.served, "followed": seen.followed}


def spread(costs: Costs, replicas: float, family: str, prices: Prices) -> str:
    """Return a line: what `replicas` followers ask of one object store, and the look that it bears."""
    snapshots = 1 / (UPLOAD + costs.put.of(costs.size[family]))  # a second, at most
    gets = replicas * (1 / FOLLOW + min(snapshots, 1 / FOLLOW))
    most = min(snapshots, 1 / FOLLOW) * replicas * costs.size[family]
    every = max(FOLLOW, 2 * replicas / prices.gets)  # the head and a snapshot each time
    month = min(gets, prices.gets) * prices.requests * 86400 * 30
    first = "nothing" if gets < prices.gets and most < prices.egress else "requests" if gets >= prices.gets else "bytes"
    return f"{replicas:12,.0f} {gets:12,.0f} {most / 1e9:10.2f} {first:>10} {every:14.2f} {month:13,.0f}"


def breaking(costs: Costs, family: str, log: str, prices: Prices) -> list[tuple[float, str]]:
    """Return the events a second at which each part is full, if there is one of it, lowest first."""
    group = 256
    worker = (costs.answer.of(group / 2) + costs.label.of(group / 2) + costs.committing[log].of(group)) / group
    found = [
        (1 / worker, "one worker"),
        (group / costs.commit[log].of(group), f"one log in {log} (groups of {group})"),
        (4096 / costs.commit[log].of(4096), f"one log in {log} (groups of 4,096)"),
        (PIECES[1] / costs.fold[family].of(PIECES[1]) * (1 - SHARE), f"one learner ({family})"),
    ]
    return sorted(found)


# ---- known truth --------------------------------------------------------------------------------------------------


def check(costs: Costs) -> None:
    """Compare the share of time in which worker and learner are busy with the product of rate and cost.

    With groups and pieces of one event each (a low rate) the product is exact; the simulation must come near it.
    """
    rate = 50.0
    part = Partition(costs, rate, "linear", "sqlite")
    seen = part.run(400.0)
    spent = 400.0 - WARM
    worker = rate / 2 * (costs.answer.of(1) + costs.label.of(1)) + rate * costs.committing["sqlite"].of(1)
    fold = rate * costs.fold["linear"].of(1) + rate / 2 * costs.publish.of(costs.size["linear"])
    looks = rate * costs.look  # besides those that find nothing
    for name, share in (("worker", worker), ("learner", fold + looks)):
        print(f"{name}: simulated {seen.busy[name] / spent:.4f} of a core, product of rate and cost {share:.4f}")
    print("the learner's share also has the looks that find nothing")


def numbers(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", type=numbers, default=[1e4, 1e5, 1e6, 1e7], help="events a second")
    parser.add_argument("--replicas", type=numbers, default=[10, 100, 1e3, 1e4, 1e5])
    parser.add_argument("--family", default="linear")
    parser.add_argument("--log", default="postgresql", help="one of the logs in the costs")
    parser.add_argument("--merge-every", type=float, default=4096.0, help="events of a partition between two merges")
    parser.add_argument("--costs", type=Path, default=Path(__file__).with_name("simulate_costs.json"))
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    costs = msgspec.json.decode(options.costs.read_bytes(), type=Costs)
    if options.check:
        check(costs)
        return
    prices = Prices()
    print(
        f"{options.family}, log in {options.log}; milliseconds are 99th percentiles; dollars are a month; see Prices\n"
    )
    head = ("partitions", "decides", "workers", "cores", "answer", "served", "followed", "cores $", "log $")
    widths = (11, 8, 8, 7, 9, 9, 10, 11, 11)
    print(f"{'events/s':>12} " + " ".join(f"{name:>{width}}" for name, width in zip(head, widths, strict=True)))
    for rate in options.rates:
        print(row(costs, rate, options.family, options.log, prices, options.merge_every), flush=True)
    head = ("GETs/s", "GB/s", "breaks", "look every s", "dollars")
    print(
        f"\n{'replicas':>12} "
        + " ".join(f"{name:>{width}}" for name, width in zip(head, (12, 10, 10, 14, 13), strict=True))
    )
    for replicas in options.replicas:
        print(spread(costs, replicas, options.family, prices))
    print("\nfull first, with one of each:")
    for rate, what in breaking(costs, options.family, options.log, prices):
        print(f"{rate:12,.0f} events/s  {what}")


if __name__ == "__main__":
    main()
