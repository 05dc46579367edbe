"""False promotions of the gate, and its delay in promoting a better candidate.

    python bench/gate.py [--streams 1000] [--length 20000] [--quick]

Each world makes streams of paired losses. In a null world the candidate is not better; there the table shows the share
of streams that were ever promoted by the gate (evaluated after every 100 examples), by a one-sided t-test and by a
betting e-process on single examples (both evaluated after every example), all at alpha 0.05 and from example 500 on.
Where the candidate is better, the table shows the median number of examples to a promotion, and the ratio of gate to
bet.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from everlearn import gate
from everlearn._jit import exact_kernel
from everlearn.records import Floats
from everlearn.spec import GateSpec

ALPHA = 0.05
NOISE = 0.2  # standard deviation of the differences of independent examples
STAKES = 0.8 * 2.0 ** -np.arange(8.0)
Random = np.random.Generator
Pairs = tuple[Floats, Floats]


class World(NamedTuple):
    """A kind of stream: `make(rng, length)` returns reference and candidate losses; `spec` is that of the gate.

    Streams with weights return them as a third array.
    """

    name: str
    make: Callable[[Random, int], tuple[Floats, ...]]
    spec: GateSpec = GateSpec()


class Counts(NamedTuple):
    """The example at which each rule first promoted, int64 (streams,); 0 for never."""

    gate: NDArray[np.int64]
    t_test: NDArray[np.int64]
    bet: NDArray[np.int64]


def losses(difference: Floats) -> Pairs:
    """Return two losses in [0, 1] with this difference."""
    half = 0.5 * np.clip(difference, -1.0, 1.0)
    return 0.5 + half, 0.5 - half


def independent(better: float = 0.0) -> Callable[[Random, int], Pairs]:
    return lambda rng, n: losses(rng.normal(better, NOISE, n))


def rare_disasters(p: float) -> Callable[[Random, int], Pairs]:
    """Return a world of mean 0: slightly better, except for a share p of the examples with the worst loss."""
    return lambda rng, n: losses(np.where(rng.random(n) < p, p - 1.0, p))


def heavy_tails(rng: Random, n: int) -> Pairs:
    """Return two losses without a variance (Pareto, index 1.5)."""
    return rng.pareto(1.5, n), rng.pareto(1.5, n)


def autoregressive(
    phi: float, spread: float = NOISE, noise: float = 0.0, better: float = 0.0
) -> Callable[[Random, int], Pairs]:
    def make(rng: Random, n: int) -> Pairs:
        x = _recurse(rng.normal(size=n), rng.normal(), phi)
        return losses(better + spread * x + noise * rng.normal(size=n))

    return make


def alternating(period: int, phases: tuple[float, ...], better: float = -0.002) -> Callable[[Random, int], Pairs]:
    """Return a world that alternates between better and worse by 0.1, and is `better` on average."""

    def make(rng: Random, n: int) -> Pairs:
        turn = np.arange(n) / period + rng.choice(phases)
        return losses(np.where(turn % 1.0 < 0.5, 0.1, -0.1) + better + rng.normal(0.0, NOISE, n))

    return make


def regimes(mean: float, good_first: float, better: float = -0.002) -> Callable[[Random, int], Pairs]:
    """Return a world like `alternating`, with regimes of random lengths (exponential) of this mean.

    `good_first` is the probability that it starts in a good one.
    """

    def make(rng: Random, n: int) -> Pairs:
        ends = np.cumsum(rng.exponential(mean, int(4 * n / mean) + 50))
        turn = np.searchsorted(ends, np.arange(n), "right") + (0 if rng.random() < good_first else 1)
        return losses(np.where(turn % 2 == 0, 0.1, -0.1) + better + rng.normal(0.0, NOISE, n))

    return make


def class_weights(rng: Random, n: int) -> tuple[Floats, ...]:
    """Return a world whose weighted mean is 0: better on light rows, worse on the tenth of rows that weigh nine."""
    heavy = rng.random(n) < 0.1
    return *losses(np.where(heavy, -0.05, 0.05) + rng.normal(0.0, NOISE, n)), np.where(heavy, 9.0, 1.0)


def heavy_weights(rng: Random, n: int) -> tuple[Floats, ...]:
    """Return independent differences of mean 0 with weights without a variance (Pareto, index 1.5)."""
    return *losses(rng.normal(0.0, NOISE, n)), 0.1 + rng.pareto(1.5, n)


def weighted(make: Callable[[Random, int], tuple[Floats, ...]]) -> Callable[[Random, int], tuple[Floats, ...]]:
    """Return a world with weights 1 and 5 that depend on nothing."""
    return lambda rng, n: (*make(rng, n)[:2], rng.choice([1.0, 5.0], n))


def disaster(better: float, p: float) -> Callable[[Random, int], Pairs]:
    """Return absolute losses: the candidate's are lower by a share `better`, but 1,000 in a share p of the rows."""

    def make(rng: Random, n: int) -> Pairs:
        reference = np.abs(rng.normal(size=n))
        return reference, np.where(rng.random(n) < p, 1000.0, (1.0 - better) * reference)

    return make


def regression(loss: str, better: float = 0.0) -> Callable[[Random, int], Pairs]:
    """Return losses of two forecasts with a common noise of 1 and errors of their own, 0.5 for the reference."""

    def make(rng: Random, n: int) -> Pairs:
        noise, own = rng.normal(size=n), (0.5, 0.5 * (1.0 - better))
        errors = [noise + spread * rng.normal(size=n) for spread in own]
        if loss == "squared":
            return errors[0] ** 2, errors[1] ** 2
        if loss == "pinball":
            return tuple(np.where(error > 0.0, 0.05, 0.95) * np.abs(error) for error in errors)  # type: ignore[return-value]
        return np.abs(errors[0]), np.abs(errors[1])

    return make


def surprises(better: float = 0.0) -> Callable[[Random, int], Pairs]:
    """Return log losses of two forecasts of a binary label; the reference's logit has the larger error."""

    def make(rng: Random, n: int) -> Pairs:
        logit = 2.0 * rng.normal(size=n)
        sign = np.where(rng.random(n) < 1.0 / (1.0 + np.exp(-logit)), 1.0, -1.0)
        spreads = (0.5, 0.5 * (1.0 - better))
        found = [np.logaddexp(0.0, -sign * (logit + spread * rng.normal(size=n))) for spread in spreads]
        return np.minimum(found[0], math.log(1000.0)), np.minimum(found[1], math.log(1000.0))

    return make


def late(at: int, better: float) -> Callable[[Random, int], Pairs]:
    return lambda rng, n: losses(np.where(np.arange(n) < at, 0.0, better) + rng.normal(0.0, NOISE, n))


WORSE_FIRST = (0.5, 0.75)  # the stream starts at the beginning, or in the middle, of a bad stretch
BETTER_FIRST = (0.0, 0.25)
PERIODS = (200, 1000, 4000, 10000)
REGIMES = (300, 2000)
LOSSES = ("absolute", "squared", "pinball")

NULL = [
    World("independent", independent()),
    World("independent, worse by 0.01", independent(-0.01)),
    World("rare disasters, 1 in 100", rare_disasters(0.01)),
    World("rare disasters, 1 in 1,000", rare_disasters(0.001)),
    World("heavy tails, squared loss", heavy_tails, GateSpec(loss="squared")),
    *(World(f"AR(1) {phi}", autoregressive(phi)) for phi in (0.5, 0.9, 0.99)),
    World("AR(1) 0.9 under noise", autoregressive(0.9, 0.05, NOISE)),
    World("AR(1) 0.99 under noise", autoregressive(0.99, 0.05, NOISE)),
    *(World(f"alternating {p}, worse first", alternating(p, WORSE_FIRST)) for p in PERIODS),
    *(World(f"alternating {p}, better first", alternating(p, BETTER_FIRST)) for p in PERIODS),
    *(
        World(f"alternating {p}, cycle declared", alternating(p, WORSE_FIRST + BETTER_FIRST), GateSpec(cycle=p))
        for p in PERIODS
    ),
    World("AR(1) 0.99, cycle 100 declared", autoregressive(0.99), GateSpec(cycle=100)),
    World("AR(1) 0.99, cycle 1000 declared", autoregressive(0.99), GateSpec(cycle=1000)),
    World("independent, cycle 1000 declared", independent(), GateSpec(cycle=1000)),
    World("class weights 1 and 9", class_weights),
    World("Pareto weights", heavy_weights),
    World("AR(1) 0.9, weights 1 and 5", weighted(autoregressive(0.9))),
    World("rare disasters 1 in 1,000, weights 1 and 5", weighted(rare_disasters(0.001))),
    *(World(f"{loss} loss", regression(loss), GateSpec(loss=loss)) for loss in LOSSES),  # type: ignore[arg-type]
    World("log loss", surprises(), GateSpec(loss="log_loss")),
    *(World(f"regimes of {mean} on average, worse first", regimes(mean, 0.0)) for mean in REGIMES),
    *(World(f"regimes of {mean} on average, better first", regimes(mean, 1.0)) for mean in REGIMES),
    *(
        World(f"regimes of {mean}, any start, minimum {8 * mean}", regimes(mean, 0.5), GateSpec(minimum=8 * mean))
        for mean in REGIMES
    ),
]
UNDECIDABLE = ("better first", "on average")  # a stream so far *is* one on which the candidate is better
DECIDABLE = [world for world in NULL if not any(words in world.name for words in UNDECIDABLE)]
DISASTERS = [
    World(f"better by {share:.0%}, awful on 1 row in 500", disaster(share, 0.002), GateSpec(loss="absolute"))
    for share in (0.05, 0.1, 0.3)
]

POWER = [
    *(World(f"independent, better by {d}", independent(d)) for d in (0.01, 0.02, 0.05, 0.1)),
    *(
        World(f"the same {d}, tolerance 0.01", independent(d), GateSpec(tolerance=0.01))
        for d in (0.02, 0.05)
    ),
    World("independent 0.02, cycle 1000", independent(0.02), GateSpec(cycle=1000)),
    *(World(f"AR(1) {phi}, better by 0.05", autoregressive(phi, better=0.05)) for phi in (0.5, 0.9, 0.99)),
    World("alternating 1000, better by 0.02", alternating(1000, WORSE_FIRST + BETTER_FIRST, 0.02)),
    World("the same, cycle declared", alternating(1000, WORSE_FIRST + BETTER_FIRST, 0.02), GateSpec(cycle=1000)),
]  # fmt: skip


@exact_kernel
def _recurse(shocks: Floats, first: float, phi: float) -> Floats:
    x = np.empty(len(shocks))
    last = first
    for i in range(len(shocks)):
        last = phi * last + math.sqrt(1.0 - phi * phi) * shocks[i]
        x[i] = last
    return x


@exact_kernel
def t_test(d: Floats, minimum: int) -> int:
    """Return the example after which a one-sided t-test (its normal limit) first rejects, 0 if never."""
    mean = 0.0
    squares = 0.0
    for i in range(len(d)):
        step = d[i] - mean
        mean += step / (i + 1)
        squares += step * (d[i] - mean)
        if i + 1 >= minimum and i > 0 and mean * math.sqrt((i + 1.0) * i) > 1.6449 * math.sqrt(squares):
            return i + 1
    return 0


@exact_kernel
def bet(d: Floats, minimum: int, threshold: float) -> int:
    """Return the example after which the mean capital of fixed stakes first reaches the threshold, 0 if never."""
    capital = np.zeros(len(STAKES))
    for i in range(len(d)):
        most = 0.0
        for k in range(len(STAKES)):
            capital[k] += math.log1p(STAKES[k] * d[i])
            most = max(most, capital[k])
        if i + 1 >= minimum and most > threshold:
            total = 0.0
            for k in range(len(STAKES)):
                total += math.exp(capital[k] - most)
            if most + math.log(total / len(STAKES)) >= threshold:
                return i + 1
    return 0


def promoted(
    spec: GateSpec, reference: Floats, candidate: Floats, weight: Floats, tick: int, share: float = 1.0
) -> int:
    """Return the example after which the gate first promotes if it is evaluated after each tick, 0 if never."""
    arrays = gate.start(spec, guard=False)
    for begin in range(0, len(reference), tick):
        gate.update(arrays, spec, *(column[begin : begin + tick] for column in (reference, candidate, weight)))
        if gate.verdict(arrays, spec, share).action == "promote":
            return min(begin + tick, len(reference))
    return 0


def simulate(world: World, streams: int, length: int, tick: int = 100) -> Counts:
    found = np.zeros((3, streams), np.int64)
    for stream in range(streams):
        rng = np.random.default_rng([len(world.name), sum(world.name.encode()), stream])
        reference, candidate, *rest = world.make(rng, length)
        weight = rest[0] if rest else np.ones(length)
        difference = weight / weight.max() * (np.clip(reference - candidate, -1.0, 1.0) - world.spec.tolerance)
        minimum = world.spec.minimum
        found[0, stream] = promoted(world.spec, reference, candidate, weight, tick)
        found[1, stream] = t_test(difference, minimum)
        found[2, stream] = bet(difference / (1.0 + world.spec.tolerance), minimum, math.log(1.0 / ALPHA))
    return Counts(*found)


def median(found: NDArray[np.int64]) -> float:
    """Return the median number of examples; infinity if fewer than half of the streams were promoted."""
    return float(np.median(np.where(found > 0, found, np.inf)))


def show_null(streams: int, length: int) -> None:
    limit = ALPHA + 2.0 * math.sqrt(ALPHA * (1.0 - ALPHA) / streams)
    print(
        f"Ever promoted, {streams} null streams of {length:,} examples; limit {limit:.3f} (alpha, 2 standard errors)\n"
    )
    print("| world | gate | t-test | bet on examples |\n|---|--:|--:|--:|")
    worst = 0.0
    for world in NULL:
        shares = [float(np.mean(found > 0)) for found in simulate(world, streams, length)]
        if world in DECIDABLE:
            worst = max(worst, shares[0])
        print(f"| {world.name} | {shares[0]:.3f} | {shares[1]:.3f} | {shares[2]:.3f} |", flush=True)
    judged = "within" if worst <= limit else "ABOVE"
    print(f"\nworst of the worlds where a rule can decide: {worst:.3f}, {judged} the limit\n")


def show_every_example(streams: int, length: int) -> None:
    for world in (NULL[0], World("AR(1) 0.9", autoregressive(0.9))):
        sooner = World(world.name, world.make, GateSpec(minimum=1))
        found = simulate(sooner, streams, length, tick=1).gate
        print(f"evaluated after every example, {world.name}, {streams} x {length:,}: {np.mean(found > 0):.3f}")


def show_shared(streams: int, length: int, challengers: int = 4) -> None:
    spec = GateSpec()
    for name, make in (("independent", independent()), ("AR(1) 0.9", autoregressive(0.9))):
        false = 0
        for stream in range(streams):
            rng = np.random.default_rng([challengers, stream])
            false += any(
                promoted(spec, *make(rng, length), np.ones(length), 100, 1.0 / challengers) for _ in range(challengers)
            )
        print(f"any of {challengers} null challengers that share alpha, {name}: {false / streams:.3f}")


def show_late(streams: int, length: int) -> None:
    at = length // 2
    for better in (0.02, 0.05, 0.1):
        found = simulate(World(f"late {better}", late(at, better)), streams, 2 * length).gate
        early, then = np.mean((found > 0) & (found <= at)), found[(found == 0) | (found > at)]
        print(
            f"better by {better} from example {at:,} on: promoted before {early:.3f}, by {2 * length:,} "
            f"{np.mean(then > 0):.3f}, median {median(then) - at:,.0f} examples later"
        )


def show_disasters(streams: int, length: int) -> None:
    """Show how often a candidate is promoted whose capped loss is lower and whose mean loss is higher."""
    for world in DISASTERS:
        found = [
            simulate(world._replace(spec=msgspec.structs.replace(world.spec, layout=layout)), streams, length).gate
            for layout in (1, 2)
        ]
        shares = " / ".join(f"{np.mean(one > 0):.3f}" for one in found)
        print(f"{world.name}: ever promoted, fixed scale of release 0.1 / running cap: {shares}")


def show_losses(streams: int, length: int) -> None:
    """Compare the time to a promotion under the running cap with that under the fixed scale of release 0.1."""
    print("\n| loss, minimum 1, evaluated every 10 | fixed scale | running cap | ratio |\n|---|--:|--:|--:|")
    kinds = [(f"{loss}, own error {d:.0%} lower", regression(loss, d), loss) for loss in LOSSES for d in (0.3, 0.6)]
    kinds += [(f"log loss, own error {d:.0%} lower", surprises(d), "log_loss") for d in (0.6, 0.9)]
    for name, make, loss in kinds:
        specs = (GateSpec(loss=loss, minimum=1, layout=layout) for layout in (1, 2))  # type: ignore[arg-type]
        before, now = (median(simulate(World(name, make, spec), streams, length, 10).gate) for spec in specs)
        print(f"| {name} | {before:,.0f} | {now:,.0f} | {now / before:.2f} |", flush=True)


def show_power(streams: int, length: int) -> None:
    print(f"\nMedian examples to a promotion, {streams} streams\n")
    print("| difference, sd 0.2, minimum 1 | gate | bet on examples | ratio |\n|---|--:|--:|--:|")
    for difference, tick in ((0.01, 10), (0.02, 5), (0.05, 1)):
        world = World(f"better by {difference}", independent(difference), GateSpec(minimum=1))
        found = simulate(world, streams, length, tick)
        ours, bets = median(found.gate), median(found.bet)
        print(f"| {difference} | {ours:,.0f} | {bets:,.0f} | {ours / bets:.2f} |", flush=True)
    print("\n| world, default minimum 500, evaluated every 100 | gate | promoted by the end |\n|---|--:|--:|")
    for world in POWER:
        ours = simulate(world, streams, 3 * length).gate
        print(f"| {world.name} | {median(ours):,.0f} | {np.mean(ours > 0):.3f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="False promotions and power of the gate.")
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--length", type=int, default=20_000)
    parser.add_argument("--quick", action="store_true", help="100 streams")
    options = parser.parse_args()
    streams = 100 if options.quick else options.streams
    begin = time.perf_counter()
    show_null(streams, options.length)
    show_every_example(max(streams // 5, 1), options.length // 4)
    show_shared(max(streams // 2, 1), options.length)
    show_late(streams, options.length)
    show_disasters(max(streams // 4, 1), options.length)
    show_losses(max(streams // 4, 1), options.length)
    show_power(max(streams // 2, 1), options.length)
    print(f"\n{time.perf_counter() - begin:.0f} s")


if __name__ == "__main__":
    main()
