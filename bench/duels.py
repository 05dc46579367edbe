"""The gate on judged duels: how often it errs, and how many duels it needs.

    python bench/duels.py [--streams 1000] [--duels 2000]

A stream is a sequence of duels between a candidate and the champion, each won, lost or tied with fixed probabilities.
The evidence is the gate's own, on the losses (1 - win, win). It is asked after every 10 duels, with `minimum` 50, alpha
0.05, and half of alpha for each of two challengers, as a loop asks it. False promotions must stay within alpha, and a
candidate that wins 70 % must be promoted within 240 duels in 80 % of streams.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from everlearn import gate
from everlearn.gate.policy import alpha_share
from everlearn.spec import GateSpec

SPEC = GateSpec(loss="error", minimum=50)
SHARE = alpha_share("challenger", 2)
ASKED = 10  # duels between two questions to the gate
WITHIN = 240


def stream(win: float, ties: float, duels: int, random: np.random.Generator) -> tuple[str, int]:
    """Return the first verdict other than "wait" on one stream, and the number of duels before it."""
    arrays = gate.start(SPEC, guard=False)
    drawn = random.random((2, duels))
    lost = np.where(drawn[0] < ties, 0.5, np.where(drawn[1] < win, 0.0, 1.0))
    for begin in range(0, duels, ASKED):
        part = lost[begin : begin + ASKED]
        gate.update(arrays, SPEC, 1.0 - part, part)
        if (found := gate.verdict(arrays, SPEC, SHARE)).action != "wait":
            return found.action, begin + len(part)
    return "wait", duels


def main() -> None:
    """Print a row for each candidate; a figure out of its bounds is marked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--duels", type=int, default=2000)
    given = parser.parse_args()
    print(f"{'win':>5} {'ties':>5} {'promoted':>9} {'rejected':>9} {'within 240':>11} {'median':>7} {'80 % by':>8}")
    for win, ties in ((0.5, 0.0), (0.5, 0.3), (0.45, 0.0), (0.55, 0.0), (0.6, 0.0), (0.7, 0.0), (0.7, 0.3), (0.8, 0.0)):
        began, random = time.perf_counter(), np.random.default_rng([int(win * 100), int(ties * 100)])
        found = [stream(win, ties, given.duels, random) for _ in range(given.streams)]
        needed = np.sort([count if action == "promote" else given.duels + 1 for action, count in found])
        promoted, rejected = (np.mean([one == action for one, _ in found]) for action in ("promote", "reject"))
        within, most = np.mean(needed <= WITHIN), needed[int(0.8 * (len(needed) - 1))]
        middle, most = (f"{one:,}" if one <= given.duels else "-" for one in (int(np.median(needed)), int(most)))
        missed = (win <= 0.5 and promoted > SPEC.alpha) or ((win, ties) == (0.7, 0.0) and within < 0.8)
        line = f"{win:5.2f} {ties:5.2f} {promoted:9.3f} {rejected:9.3f} {within:11.3f} {middle:>7} {most:>8}"
        print(f"{line}  {time.perf_counter() - began:4.0f} s{'  MISSED' if missed else ''}", flush=True)


if __name__ == "__main__":
    main()
