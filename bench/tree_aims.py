"""What trees and forests are wanted to reach beside CapyMOA and River, and what a run of `bench/trees.py` measured.

    python bench/trees.py --peers river capymoa --seeds 3 --peer-seeds 3 --record runs.jsonl
    python bench/tree_aims.py runs.jsonl      # the same table again, and the aims, from the file

Accuracies are means over seeds. A ratio of rates is that of the medians: a loaded machine slows one run or the other.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import fmean, median
from typing import Any, NamedTuple

FASTER = {"CapyMOA forest": 30.0, "River forest": 70.0}  # the forest, beside a peer's
EQUAL = 12.0  # the forest with CapyMOA's share of the columns
TREE_FASTER, WIDE_FASTER = 35.0, 25.0  # the tree without drift detection, beside CapyMOA's; on covtype20k
LEAST = {"elec2": (0.817, 1.4e6), "covtype20k": (0.655, 0.35e6), "insects_gradual": (0.630, 0.8e6)}  # of that tree
ELEC2, HUNDRED = 0.890, 5000.0  # accuracy of the forest; rows a second of 100 trees on covtype20k


class Mean(NamedTuple):
    """The means of some runs of a learner on a stream; `rate` is their median, rows per second of CPU time."""

    accuracy: float
    log_loss: float
    rate: float
    seeds: int


class Aim(NamedTuple):
    """An aim: what, how much is wanted, and how much was measured, in words and as a verdict."""

    what: str
    wanted: str
    measured: str
    reached: bool


Found = Mapping[tuple[str, str], Mean]


def means(runs: list[dict[str, Any]]) -> dict[tuple[str, str], Mean]:
    """Return the means of runs with labels at once, by stream and learner, in the order of the runs."""
    each: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for run in runs:
        if not run.get("delay"):
            each[run["stream"], run["learner"]].append(run)
    return {
        key: Mean(
            fmean(one["accuracy"] for one in some),
            fmean(one["log_loss"] for one in some),
            median(one["rate"] for one in some),
            len(some),
        )
        for key, some in each.items()
    }


def aims(found: Found) -> Iterator[Aim]:
    """Yield the aims of all streams whose learners were measured."""
    for stream in dict.fromkeys(stream for stream, _ in found):
        ours, plain = found.get((stream, "forest")), found.get((stream, "tree, plain"))
        for peer, times in FASTER.items():
            other = found.get((stream, peer))
            if ours and other:
                yield faster(f"{stream}: forest beside {peer}", ours, other, times)
                yield no_worse(f"{stream}: forest beside {peer}", ours, other.accuracy)
        wide, other = found.get((stream, "forest, share .6")), found.get((stream, "CapyMOA forest"))
        if wide and other:
            yield faster(f"{stream}: forest with share .6 beside CapyMOA forest", wide, other, EQUAL)
        if ours and stream == "elec2":
            yield no_worse("elec2: forest", ours, ELEC2)
        other = found.get((stream, "CapyMOA tree"))
        if plain and other:
            times = WIDE_FASTER if stream == "covtype20k" else TREE_FASTER
            yield faster(f"{stream}: tree, plain beside CapyMOA tree", plain, other, times)
            yield no_worse(f"{stream}: tree, plain beside CapyMOA tree", plain, other.accuracy)
        if plain and stream in LEAST:
            yield no_worse(f"{stream}: tree, plain", plain, LEAST[stream][0])
            yield at_least(f"{stream}: tree, plain", plain, LEAST[stream][1])
        hundred = found.get((stream, "forest of 100"))
        if hundred and stream == "covtype20k":
            yield at_least("covtype20k: forest of 100", hundred, HUNDRED)


def faster(what: str, ours: Mean, other: Mean, times: float) -> Aim:
    """Return the aim of a ratio of rates."""
    ratio = ours.rate / other.rate
    return Aim(what, f"{times:.0f} times the rate", f"{ratio:.1f} times", ratio >= times)


def no_worse(what: str, ours: Mean, accuracy: float) -> Aim:
    """Return the aim of an accuracy, to three places."""
    reached = round(ours.accuracy, 3) >= round(accuracy, 3)
    return Aim(what, f"accuracy {accuracy:.3f}", f"{ours.accuracy:.3f}", reached)


def at_least(what: str, ours: Mean, rate: float) -> Aim:
    """Return the aim of a rate."""
    return Aim(what, f"{rate:,.0f} rows/s", f"{ours.rate:,.0f}", ours.rate >= rate)


def show(found: Found) -> None:
    """Print a table of aims."""
    print("\n| aim | wanted | measured | reached |\n|---|--:|--:|---|")
    for aim in aims(found):
        print(f"| {aim.what} | {aim.wanted} | {aim.measured} | {'yes' if aim.reached else '**no**'} |")


def main() -> None:
    """Print the means and the aims of the runs in some files."""
    runs = [json.loads(line) for name in sys.argv[1:] for line in Path(name).read_text().splitlines()]
    found = means(runs)
    print("| stream | learner | seeds | accuracy | log loss | rows/s |\n|---|---|--:|--:|--:|--:|")
    for (stream, learner), one in found.items():
        print(f"| {stream} | {learner} | {one.seeds} | {one.accuracy:.4f} | {one.log_loss:.4f} | {one.rate:,.0f} |")
    show(found)


if __name__ == "__main__":
    main()
