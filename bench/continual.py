"""Continual learning of networks, beside Avalanche and hand-written loops: python bench/continual.py

    python bench/continual.py [--only accuracy,speed,stream,compute,domain,images,matrix] [--seeds 5] [--peer-seeds 5]
                              [--rows 60000] [--python avalanche=/path/to/python] [--pictures FOLDER] [--keep FILE]

Split-MNIST, class-incremental, one pass, batch 10, MLP 784-400-400-10, SGD 0.1: the same network, memory, batch and
stream for all, each run in a separate process with one thread. "accuracy" is the table of methods by memory, mean and
spread over seeds; "speed" the time of 1,000 examples in five big tasks; "stream" the same with ten examples at a time
and no borders; "compute" the accuracy at a fixed budget of processor time; "domain" permuted and rotated images;
"images" a convolutional network on CIFAR-10; "matrix" pictures of the accuracy on each task after each task. Needs the
data sets (EVERLEARN_DATA); Avalanche is left out if it is not installed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import mean, median, pstdev
from typing import Any

HERE = Path(__file__).resolve().parent
OURS = HERE / "continual_ours.py"
PEERS = HERE / "continual_peers.py"
MEMORIES = (500, 1000, 2000)
BEST = {500: 0.915, 1000: 0.947, 2000: 0.949}  # the best figures published before
SHARED = ("er", "er_ace", "derpp", "agem", "ewc", "gdumb")  # methods that Avalanche has too
EVERYWHERE = (
    "er",
    "er_ace",
    "derpp",
    "er+balance+evenly",
    "derpp+balance+evenly",
    "er+ema",
    "derpp+ema+balance+evenly",
    "er+ema+balance+evenly+shift",
)  # others at one memory only
OWN = (
    "er+balance+evenly",
    "derpp+balance+evenly",
    "er+ema",
    "er_ace+ema",
    "agem+ema",
    "derpp+ema+balance+evenly",
    "er+ema+balance+evenly",
    "er+ema+shift",
    "er+ema+balance+evenly+shift",
    "er+ema+balance+restart+shift",
)
BEST_METHOD = "er+ema+balance+evenly+shift"
FEW_STEPS = "er+ema0.98+balance+evenly"  # a thousand steps in all: the average is of the last fifty
Result = dict[str, Any]


def run(python: str, script: Path, *words: object) -> Result:
    """Run one process and return the JSON of its last line."""
    done = subprocess.run([python, str(script), *map(str, words)], capture_output=True, text=True, cwd=HERE)
    if done.returncode:
        raise SystemExit(f"{script.name} {' '.join(map(str, words))} failed:\n{done.stderr[-2000:]}")
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def ours(method: str, memory: int, seed: int, form: str, rows: int) -> Result:
    return run(sys.executable, OURS, method, memory, seed, form, rows)


def avalanche(options: argparse.Namespace, method: str, memory: int, seed: int, form: str, rows: int) -> Result:
    return run(options.pythons["avalanche"], PEERS, "avalanche", method, memory, seed, form, rows)


def hand(method: str, memory: int, seed: int, rows: int) -> Result:
    return run(sys.executable, PEERS, "hand", method, memory, seed, "tasks", rows)


def spread(values: Iterable[float]) -> str:
    found = [100 * value for value in values]
    return f"{mean(found):.1f} ± {pstdev(found):.1f}"


def table(title: str, heads: Iterable[str], rows: Mapping[str, Iterable[str]], note: str = "") -> None:
    print(f"\n== {title}")
    print(" ".join([f"{'':34}", *(f"{head:>16}" for head in heads)]))
    for name, cells in rows.items():
        print(" ".join([f"{name:34}", *(f"{cell:>16}" for cell in cells)]), flush=True)
    if note:
        print(note)


def accuracy(options: argparse.Namespace) -> None:
    rows: dict[str, list[str]] = {}
    best: dict[int, tuple[float, str]] = {}
    kept: dict[str, Result] = {}
    if options.keep and Path(options.keep).exists():
        kept = dict(map(json.loads, Path(options.keep).read_text().splitlines()))

    def measure(name: str, method: str, peer: bool, memories: tuple[int, ...] = MEMORIES) -> None:
        def measured(memory: int, seed: int) -> Result:
            key = f"{name} {memory} {seed} {options.rows}"
            if key not in kept:
                run = partial(avalanche, options) if peer else ours
                kept[key] = run(method, memory, seed, "tasks", options.rows)
                if options.keep:
                    with Path(options.keep).open("a") as file:
                        file.write(json.dumps([key, kept[key]]) + "\n")
            return kept[key]

        seeds = range(options.peer_seeds if peer else options.seeds)
        grid = [(memory, seed) for memory in memories for seed in seeds]
        with ThreadPoolExecutor(options.jobs) as pool:
            found = dict(zip(grid, pool.map(lambda key: measured(*key), grid), strict=True))
        rows[name] = []
        for memory in memories:
            right = [found[memory, seed]["accuracy"] for seed in seeds]
            rows[name].append(spread(right))
            best[memory] = max(best.get(memory, (0.0, "")), (0.0 if method == "joint" else mean(right), name))
        online = [result["online"] for result in found.values() if "online" in result]
        rows[name] += [""] * (len(MEMORIES) - len(memories)) + [spread(online) if online else ""]
        print(name, rows[name], flush=True)

    for method in (*SHARED, *OWN):
        memories = MEMORIES if method in EVERYWHERE else MEMORIES[:1]
        measure(f"everlearn {method}", method, peer=False, memories=memories)
        if options.has_avalanche and method in SHARED:
            measure(f"avalanche {method}", method, peer=True, memories=memories)
    for method in ("naive", "joint"):
        measure(f"{method}, no memory", method, peer=False, memories=MEMORIES[:1])
    heads = [*(f"memory {memory:,}" for memory in MEMORIES), "online"]
    note = "\n".join(
        f"best with {memory:,}: {100 * value:.1f} by {name}; target: at least {100 * BEST[memory]:.1f}"
        for memory, (value, name) in best.items()
    )
    table(f"split-MNIST, accuracy (%), {options.seeds} seeds", heads, rows, note)


def speed(options: argparse.Namespace) -> None:
    """Measure speed in turns, so that other load affects all alike."""
    pairs = {"naive": "naive+answers", "er": "er+answers", "er+ema": "er+ema+answers", "er_ace": "er_ace+answers"}
    pairs["derpp"] = "derpp+answers"
    rows: dict[str, list[str]] = {}
    for method, written in pairs.items():
        times: dict[str, list[float]] = {"ours": [], "hand": [], "avalanche": []}
        for seed in range(options.rounds):
            times["ours"].append(ours(method, 500, seed, "tasks", options.rows)["wall"])
            times["hand"].append(hand(written, 500, seed, options.rows)["wall"])
            if options.has_avalanche and "+" not in method:
                times["avalanche"].append(avalanche(options, method, 500, seed, "tasks", options.rows)["wall"])
        middle = {name: median(found) for name, found in times.items() if found}
        peer = middle.get("avalanche")
        rows[method] = [
            f"{middle['ours']:.3f}",
            f"{middle['hand']:.3f}",
            f"{middle['ours'] / middle['hand']:.2f} x",
            f"{peer:.3f}" if peer else "",
            f"{middle['ours'] / peer:.2f} x" if peer else "",
        ]
        print(method, rows[method], flush=True)
    heads = ("everlearn", "by hand", "ours/hand", "avalanche", "ours/avalanche")
    note = "target: at most 1.15 x by hand (each predicts before it learns), at most 0.8 x Avalanche (which does not)"
    table("seconds for 1,000 examples, five big tasks, memory 500", heads, rows, note)


def stream(options: argparse.Namespace) -> None:
    rows: dict[str, list[str]] = {}
    for memory in (500, 2000):
        found = ours("er+ema", memory, 0, "stream", options.rows)
        rows[f"everlearn er+ema, memory {memory:,}"] = [*_tenths(found), ""]
        if options.has_avalanche:
            peer = avalanche(options, "er", memory, 0, "stream", options.rows)
            ratio = f"{peer['wall'] / found['wall']:.1f} x"
            rows[f"avalanche er, memory {memory:,}"] = [*_tenths(peer), ratio]
    heads = ("s for 1,000", "first tenth s", "last tenth s", "last/first", "over everlearn")
    note = "target: at least 10 x faster, and flat from the first event to the last"
    table("as a stream: ten examples at a time, no borders", heads, rows, note)


def _tenths(found: Result) -> list[str]:
    first, last = found["tenths"][0], found["tenths"][-1]
    return [f"{found['wall']:.3f}", f"{first:.2f}", f"{last:.2f}", f"{last / first:.2f}"]


def compute(options: argparse.Namespace) -> None:
    """Measure accuracy on a stream that does not wait: rows that come while a method is busy are not learned."""
    rows: dict[str, list[str]] = {}
    budgets = (0.05, 0.1, 0.2)
    for method in ("naive", "er", "er_ace", "derpp", "agem", "er+ema", BEST_METHOD):
        rows[method] = [
            spread(
                ours(method, 500, seed, f"budget:{budget}", options.rows)["accuracy"] for seed in range(options.seeds)
            )
            for budget in budgets
        ]
        print(method, rows[method], flush=True)
    heads = [f"{budget} s/1,000" for budget in budgets]
    table("accuracy (%) at a fixed processor time, memory 500", heads, rows)


def domain(options: argparse.Namespace) -> None:
    """Measure accuracy on ten tasks of 6,000 rows."""
    rows: dict[str, list[str]] = {}
    for method in ("naive", "er", "er+ema", "derpp", "derpp+ema", "agem", "gdumb", "joint"):
        rows[method] = [
            spread(ours(method, 500, seed, form, options.rows)["accuracy"] for seed in range(options.seeds))
            for form in ("permuted", "rotated")
        ]
        print(method, rows[method], flush=True)
    table("domain-incremental, ten tasks, memory 500, accuracy over all (%)", ("permuted", "rotated"), rows)


def matrix(options: argparse.Namespace) -> None:
    """Draw pictures of the accuracy on each task after each task."""
    if not options.pictures:
        print("no pictures: give a folder with --pictures")
        return
    folder = Path(options.pictures).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    for form, memory, methods in (
        ("split", 500, ("naive", "er", "er+ema+balance+restart+shift", BEST_METHOD)),
        ("cifar", 1000, ("naive", f"{FEW_STEPS}+flip")),
    ):
        for method in methods:
            path = folder / f"{form}-{method}.png"
            found = run(sys.executable, OURS, method, memory, 0, form, options.rows, path)
            print(f"{path.name}: accuracy {100 * found['accuracy']:.1f}, forgetting {100 * found['forgetting']:.1f}")


def images(options: argparse.Namespace) -> None:
    rows: dict[str, list[str]] = {}
    served = "er+ema0.98+balance+restart"
    for method in ("naive", "er", "er+ema", "er+ema0.98", FEW_STEPS, f"{FEW_STEPS}+flip", served, "joint"):
        found = [ours(method, 1000, seed, "cifar", options.rows) for seed in range(options.seeds)]
        rows[method] = [
            spread(result["accuracy"] for result in found),
            spread(result["online"] for result in found),
            "" if method == "joint" else spread(result["forgetting"] for result in found),
            f"{mean(result['wall'] for result in found):.2f}",
        ]
        print(method, rows[method], flush=True)
    heads = ("accuracy (%)", "online", "forgetting (%)", "s for 1,000")
    table("split-CIFAR-10 (10,000 images), convolutional network, memory 1,000", heads, rows)


PARTS = {
    "accuracy": accuracy,
    "speed": speed,
    "stream": stream,
    "compute": compute,
    "domain": domain,
    "images": images,
    "matrix": matrix,
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--peer-seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1, help="runs at once where no time is measured")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--keep", default="", help="a file of accuracies; runs found in it are skipped")
    parser.add_argument("--pictures", default="", help="folder for the pictures")
    parser.add_argument("--python", action="append", default=[], metavar="PEER=PATH", help="an interpreter for a peer")
    options = parser.parse_args()
    options.pythons = {"avalanche": sys.executable} | dict(pair.split("=", 1) for pair in options.python)
    probe = "import importlib.util, sys; sys.exit(importlib.util.find_spec('avalanche') is None)"
    options.has_avalanche = not subprocess.run([options.pythons["avalanche"], "-c", probe]).returncode
    if not options.has_avalanche:
        print("Avalanche is not installed; left out (see --python)")
    for name in options.only.split(","):
        PARTS[name](options)


if __name__ == "__main__":
    main()
