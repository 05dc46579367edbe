"""Delay and false alarms of the guard, in simulated worlds with a known truth.

    python bench/guard.py [--rows 30000000] [--runs 15] [--quick]

The guard is fed in blocks of 25 rows and asked after each. Null worlds: the champion is as good as the good version on
average, and its spells of being worse are shorter than a block, or are ordinary in a stream that correlates. One
stream of `--rows` rows a world, in which the guard starts again after an alarm; and as many rows in streams of 2,000,
which show what the start costs. Worlds with longer spells are reported apart, with what a rollback gained: the mean
difference over the rows after the alarm. There the guard rests for 10,000 rows after an alarm. Delays: median and
largest number of rows from the change to the alarm.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from everlearn._jit import exact_kernel
from everlearn.gate import deterioration
from everlearn.records import Arrays, Floats

NOISE = 0.2  # standard deviation of the differences
CHUNK = 1_000_000
SHORT = 2_000  # rows of a stream that shows the start
AFTER = (1_000, 10_000)  # rows after an alarm over which a rollback is judged
GOOD = (0, 300, 2_000, 30_000)  # rows before the change
WORSE = (0.1, 0.3, 0.6)
Random = np.random.Generator


class World(NamedTuple):
    """A kind of stream: `make(rng, n)` returns n differences; `weigh(rng, n)` their weights."""

    name: str
    make: Callable[[Random, int], Floats]
    weigh: Callable[[Random, int], Floats] = lambda rng, n: np.ones(n)
    bound: float = 1.0


class Alarm(NamedTuple):
    """An alarm after `row` rows of a stream, `since` rows after the start of the guard."""

    row: int
    since: int


def independent(rng: Random, n: int) -> Floats:
    return rng.normal(0.0, NOISE, n)


def autoregressive(phi: float, spread: float = NOISE, noise: float = 0.0) -> Callable[[Random, int], Floats]:
    return lambda rng, n: spread * _recurse(rng.normal(size=n), rng.normal(), phi) + noise * rng.normal(size=n)


def disasters(p: float) -> Callable[[Random, int], Floats]:
    """Return a world of mean 0: slightly better, except for a share p of the rows with the worst loss."""
    return lambda rng, n: np.where(rng.random(n) < p, 1.0 - p, -p)


def rescues(p: float, noise: float) -> Callable[[Random, int], Floats]:
    """Return a world of mean 0: slightly worse, except for a share p of rows on which the champion is far better."""
    return lambda rng, n: np.where(rng.random(n) < p, p - 1.0, p) + rng.normal(0.0, noise, n)


def disagreements(p: float) -> Callable[[Random, int], Floats]:
    """Return differences of 0/1 errors: a share p of the rows divides the models, in either direction."""
    return lambda rng, n: np.where(rng.random(n) < p, np.where(rng.random(n) < 0.5, 1.0, -1.0), 0.0)


def heavy_tails(rng: Random, n: int) -> Floats:
    return rng.standard_t(2, n)


def growing(rng: Random, n: int) -> Floats:
    """Return noise that grows from 0 over 20,000 rows, as for a learner that leaves its snapshot, and falls back."""
    return rng.normal(0.0, NOISE, n) * (np.arange(n) % 20_000) / 20_000


def bursts(rng: Random, n: int) -> Floats:
    """Return noise that is ten times as large every other 5,000 rows."""
    return rng.normal(0.0, NOISE, n) * np.where(np.arange(n) // 5_000 % 2 == 0, 0.1, 1.0)


def taking_turns(rng: Random, n: int) -> Floats:
    """Return a world of mean 0 whose rows are independent, then correlated, for 20,000 rows each."""
    correlated = autoregressive(0.9)(rng, n)
    return np.where(np.arange(n) // 20_000 % 2 == 0, independent(rng, n), correlated)


def alternating(period: int) -> Callable[[Random, int], Floats]:
    """Return a world worse by 0.1 for half a period, better by 0.1 for the other half, better by 0.002 on average."""

    def make(rng: Random, n: int) -> Floats:
        turn = np.arange(n) / period + rng.random()
        return np.where(turn % 1.0 < 0.5, -0.1, 0.1) - 0.002 + rng.normal(0.0, NOISE, n)

    return make


def pareto_weights(rng: Random, n: int) -> Floats:
    return 1.0 + rng.pareto(1.5, n)


def sampled_weights(rng: Random, n: int) -> Floats:
    """Return weights of a sample: half of the rows left out, of the others one in 20 weighs 20."""
    return np.where(rng.random(n) < 0.5, 0.0, np.where(rng.random(n) < 0.05, 20.0, 1.0))


NULL = [
    World("independent", independent),
    *(World(f"AR(1) {phi}", autoregressive(phi)) for phi in (0.5, 0.9, 0.99)),
    World("rare disasters, 1 in 100", disasters(0.01)),
    World("rare disasters, 1 in 1,000", disasters(0.001)),
    World("rare rescues, 1 in 100", rescues(0.01, 0.005)),
    World("rare rescues, 1 in 1,000", rescues(0.001, 0.005)),
    World("heavy tails (Student, 2), no bound", heavy_tails, bound=0.0),
    World("0/1 errors, 2 % apart", disagreements(0.02)),
    World("noise that grows from 0", growing),
    World("noise in bursts", bursts),
    World("independent, Pareto weights", independent, pareto_weights),
    World("AR(1) 0.9, Pareto weights", autoregressive(0.9), pareto_weights),
    World("independent, weights 0, 1 and 20", independent, sampled_weights),
    World("rare disasters, 1 in 100, weights 0, 1 and 20", disasters(0.01), sampled_weights),
]
APART = [
    World("AR(1) 0.99, sd 0.05, under noise", autoregressive(0.99, 0.05, NOISE)),
    World("AR(1) 0.9 and independent in turn, 20,000 rows each", taking_turns),
    *(World(f"alternating {period:,}", alternating(period)) for period in (200, 1_000, 4_000, 10_000)),
]


@exact_kernel
def _recurse(shocks: Floats, first: float, phi: float) -> Floats:
    x = np.empty(len(shocks))
    last = first
    for i in range(len(shocks)):
        last = phi * last + math.sqrt(1.0 - phi * phi) * shocks[i]
        x[i] = last
    return x


@exact_kernel
def _until_alarm(d: Floats, weight: Floats, counts: deterioration.Counts, sums: Floats, blocks: Floats) -> int:
    """Feed rows until the first alarm; return the number of rows fed, or -1 if all were and there is none."""
    for begin in range(0, len(d), deterioration.BLOCK):
        end = min(begin + deterioration.BLOCK, len(d))
        deterioration.watch(d[begin:end], weight[begin:end], counts, sums, blocks)
        if np.max(blocks[:, deterioration.STATISTIC]) > deterioration.THRESHOLD:
            return end
    return -1


def until_alarm(arrays: Arrays, d: Floats, weight: Floats) -> int:
    return _until_alarm(d, weight, arrays["guard_counts"], arrays["guard_sums"], arrays["guard_blocks"])


def alarms(world: World, d: Floats, weight: Floats, arrays: Arrays, rest: int) -> Iterator[Alarm]:
    """Yield the alarms of a stream; `rest` rows after each, the guard starts again in the same arrays."""
    begin = 0
    while (found := until_alarm(arrays, d[begin:], weight[begin:])) >= 0:
        yield Alarm(begin + found, int(arrays["guard_counts"][deterioration.EXAMPLES]))
        begin += found + rest
        for name, array in deterioration.start(world.bound).items():
            arrays[name][...] = array


def seeded(world: World, *more: int) -> Random:
    return np.random.default_rng([sum(world.name.encode()), *more])


def long_stream(world: World, rows: int, rest: int = 0) -> tuple[list[Alarm], Floats]:
    """Return the alarms in one long stream, and the mean differences after each, (alarms, len(AFTER))."""
    rng, arrays, found, gains = seeded(world), deterioration.start(world.bound), [], []
    for _ in range(max(rows // CHUNK, 1)):
        d, weight = world.make(rng, CHUNK), world.weigh(rng, CHUNK)
        for alarm in alarms(world, d, weight, arrays, rest):
            found.append(alarm)
            if alarm.row + max(AFTER) <= CHUNK:
                gains.append([float(np.mean(d[alarm.row : alarm.row + n])) for n in AFTER])
    return found, np.array(gains).reshape(-1, len(AFTER))


def short_streams(world: World, rows: int) -> float:
    """Return the share of streams of SHORT rows with an alarm."""
    rng, streams = seeded(world, SHORT), max(rows // SHORT, 1)
    found = 0
    for _ in range(streams):
        found += until_alarm(deterioration.start(world.bound), world.make(rng, SHORT), world.weigh(rng, SHORT)) >= 0
    return found / streams


def delays(make: Callable[[Random, int], Floats], good: int, worse: float, runs: int, rows: int = 40_000) -> Floats:
    """Return the rows from the change to the alarm; infinity for none, NaN for an alarm before the change."""
    found = np.empty(runs)
    for run in range(runs):
        rng = np.random.default_rng([good, run])
        d = make(rng, good + rows)
        d[good:] += worse
        at = until_alarm(deterioration.start(1.0), d, np.ones(len(d)))
        found[run] = np.inf if at < 0 else np.nan if at <= good else at - good
    return found


def show_null(rows: int) -> None:
    print(f"\n{rows:,} rows a world; alarms in one stream, and share of streams of {SHORT:,} rows with one\n")
    print("| world | alarms | of these within 2,000 rows of a start | short streams |\n|---|--:|--:|--:|")
    for world in NULL:
        found, _ = long_stream(world, rows)
        early = sum(alarm.since <= SHORT for alarm in found)
        print(f"| {world.name} | {len(found)} | {early} | {short_streams(world, rows):.4f} |", flush=True)


def show_apart(rows: int) -> None:
    print("\n| world with longer spells | alarms in 10^6 rows | short streams | mean difference over the next", end=" ")
    print(" / ".join(f"{n:,}" for n in AFTER), "rows |\n|---|--:|--:|--:|")
    for world in APART:
        found, gains = long_stream(world, rows, max(AFTER))
        mean = " / ".join(f"{gain:+.4f}" for gain in gains.mean(axis=0)) if len(gains) else "-"
        rate = len(found) * 1e6 / (max(rows // CHUNK, 1) * CHUNK)
        print(f"| {world.name} | {rate:,.1f} | {short_streams(world, rows):.4f} | {mean} |", flush=True)


def show_delays(runs: int) -> None:
    print(f"\nRows from the change to the alarm, {runs} runs: median (largest)\n")
    print("| world | good before |", " | ".join(f"worse by {worse}" for worse in WORSE), "|\n|---|--:|--:|--:|--:|")
    for name, make in (("independent", independent), ("AR(1) 0.9", autoregressive(0.9))):
        for good in GOOD:
            cells = []
            for worse in WORSE:
                found = delays(make, good, worse, runs)
                early = int(np.isnan(found).sum())
                note = f", {early} before the change" if early else ""
                cells.append(f"{np.nanmedian(found):,.0f} ({np.nanmax(found):,.0f}{note})")
            print(f"| {name} | {good:,} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Delay and false alarms of the guard.")
    parser.add_argument("--rows", type=int, default=2_000_000, help="rows a world")
    parser.add_argument("--runs", type=int, default=15, help="runs for each delay")
    parser.add_argument("--quick", action="store_true", help="delays only")
    options = parser.parse_args()
    begin = time.perf_counter()
    show_delays(options.runs)
    if not options.quick:
        show_null(options.rows)
        show_apart(options.rows)
    print(f"\n{time.perf_counter() - begin:.0f} s")


if __name__ == "__main__":
    main()
