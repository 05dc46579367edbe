"""What each reaction to drift is worth: the scores of what answered, against the reaction "note", which only logs.

    python bench/reactions.py [--mode live] [--seeds 10] [--rows 20000] [--real] [--reactions note reset ...]

Each loop has the defaults but for its reaction. The generated streams have no drift, sudden drift (three changes),
gradual drift (three changes, each over a tenth of the stream) or recurring drift (two concepts that alternate seven
times), and are made with one seed each. A table has a line for each kind of drift: the regret against "note" in log
loss and in accuracy (above 0: worse than "note"), the mean over generators and seeds with its standard error, then the
drifts, promotions and rollbacks in a stream, and the CPU time as a multiple of that of "note". `--real` takes the first
rows of the Parquet files in $EVERLEARN_DATA, or in the folder shared/data beside the checkout, instead.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import numpy as np

from everlearn.loop.loop import Loop
from everlearn.spec import DriftSpec, Spec
from everlearn.stream import Stream, read

FOLDER = Path(os.environ.get("EVERLEARN_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
REACTIONS = ("note", "rate", "reset", "challenger")
DRIFTS = ("none", "sudden", "gradual", "recurring")
CONCEPTS = 4
NOISE = 0.1  # share of labels drawn at random

Columns = dict[str, np.ndarray]
Labels = Callable[[int], np.ndarray]  # of a concept


def sea(rng: np.random.Generator, n: int) -> tuple[Columns, Labels]:
    """Return the SEA concepts (Street and Kim 2001): the sum of two of three fields against a threshold."""
    x = rng.random((3, n)) * 10
    return _named(x), lambda concept: (x[0] + x[1] <= (8.0, 9.0, 7.0, 9.5)[concept]).astype(int)


def hyperplane(rng: np.random.Generator, n: int) -> tuple[Columns, Labels]:
    """Return hyperplanes through ten fields, each concept with other weights (Hulten et al. 2001)."""
    x, weights = rng.normal(size=(10, n)), rng.normal(size=(CONCEPTS, 10))
    return _named(x), lambda concept: (weights[concept] @ x > 0).astype(int)


def swapped(rng: np.random.Generator, n: int) -> tuple[Columns, Labels]:
    """Return one hyperplane whose labels turn round with each concept."""
    x, weights = rng.normal(size=(5, n)), rng.normal(size=5)
    return _named(x), lambda concept: ((weights @ x > 0) ^ (concept % 2 == 1)).astype(int)


def stagger(rng: np.random.Generator, n: int) -> tuple[Columns, Labels]:
    """Return the STAGGER concepts (Schlimmer and Granger 1986) on three categorical fields."""
    size, color, shape = rng.integers(3, size=(3, n))
    rules = (
        (size == 0) & (color == 0),
        (color == 1) | (shape == 1),
        (size == 1) | (size == 2),
        (color == 0) & (shape == 2),
    )
    columns = {name: np.array(["a", "b", "c"])[at] for name, at in zip("xyz", (size, color, shape), strict=True)}
    return columns, lambda concept: rules[concept].astype(int)


def rbf(rng: np.random.Generator, n: int) -> tuple[Columns, Labels]:
    """Return three classes around fifteen centres; a concept gives the centres to other classes."""
    centres, of = rng.normal(size=(15, 6)) * 2.0, rng.integers(15, size=n)
    classes = rng.integers(3, size=(CONCEPTS, 15))
    return _named((centres[of] + rng.normal(size=(n, 6))).T), lambda concept: classes[concept][of]


def led(rng: np.random.Generator, n: int) -> tuple[Columns, Labels]:
    """Return ten digits shown by seven noisy segments among seventeen (Breiman et al. 1984); concepts permute them."""
    segments = np.array([[int(bit) for bit in f"{code:07b}"] for code in (119, 18, 93, 91, 58, 107, 111, 82, 127, 123)])
    digit, orders = rng.integers(10, size=n), [rng.permutation(10) for _ in range(CONCEPTS)]
    shown = (segments[digit] ^ (rng.random((n, 7)) < NOISE)).astype(float)
    return _named(np.vstack([shown.T, rng.integers(2, size=(10, n))])), lambda concept: orders[concept][digit]


GENERATORS = {"sea": sea, "hyperplane": hyperplane, "swapped": swapped, "stagger": stagger, "rbf": rbf, "led": led}


def generated(name: str, drift: str, seed: int, n: int) -> Stream:
    """Return a stream of n rows with a kind of drift."""
    rng = np.random.default_rng([seed, *name.encode()])
    columns, labels = GENERATORS[name](rng, n)
    of_concept = np.stack([labels(concept) for concept in range(CONCEPTS)])
    at = np.arange(n) / n
    if drift == "sudden":
        concept = (at * CONCEPTS).astype(int)
    elif drift == "gradual":
        concept = np.clip(np.floor(at * CONCEPTS + 0.4 * (rng.random(n) - 0.5)), 0, CONCEPTS - 1).astype(int)
    else:
        concept = (at * 8).astype(int) % 2 if drift == "recurring" else np.zeros(n, int)
    y = of_concept[concept, np.arange(n)]
    drawn = rng.random(n) < NOISE
    y = np.where(drawn, rng.integers(of_concept.max() + 1, size=n), y)
    return read({**columns, "y": y}, label="y")


def scores(stream: Stream, mode: Any, reaction: Any) -> dict[str, float]:
    """Return the metrics and counts of one loop, and the CPU seconds that it took."""
    spec = msgspec.structs.replace(
        Spec(schema=stream.schema, model={"family": "linear"}), mode=mode, drift=DriftSpec(reaction=reaction)
    )
    began = time.process_time()
    with TemporaryDirectory() as home, Loop(spec, Path(home)) as loop:
        result = loop.run(stream)
    found = result["metrics"]["champion"]
    counts = {name: float(result[name]) for name in ("drifts", "promotions", "rollbacks")}
    measured = {"log_loss": found["log_loss"], "accuracy": found["accuracy"]}
    return {**measured, **counts, "seconds": time.process_time() - began}


def streams(options: argparse.Namespace) -> Iterator[tuple[str, Stream]]:
    """Yield the group of each stream, and the stream."""
    if options.real:
        import pyarrow.parquet

        for path in sorted(FOLDER.glob("*.parquet")):
            if options.names and path.stem not in options.names:
                continue
            table = pyarrow.parquet.read_table(path).slice(0, options.rows)
            yield path.stem, read(table, label="label")
        return
    for drift in options.drifts:
        for name in options.generators:
            for seed in range(options.seeds):
                yield drift, generated(name, drift, seed, options.rows)


def main() -> None:
    """Print one table for each reaction but "note"."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mode", default="live", choices=("live", "gated"))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--real", action="store_true", help="the streams in $EVERLEARN_DATA")
    parser.add_argument("--names", nargs="*", default=[], help="real streams, without .parquet; default: all")
    parser.add_argument("--reactions", nargs="+", default=list(REACTIONS))
    parser.add_argument("--drifts", nargs="+", default=list(DRIFTS), choices=DRIFTS)
    parser.add_argument("--generators", nargs="+", default=list(GENERATORS), choices=list(GENERATORS))
    options = parser.parse_args()
    found: dict[str, dict[str, list[dict[str, float]]]] = {}
    for name in options.generators:  # compile every kernel before the first one is timed
        scores(generated(name, "sudden", 0, 2000), options.mode, "challenger")
    for group, stream in streams(options):
        for reaction in options.reactions:
            one = scores(stream, options.mode, reaction)
            found.setdefault(reaction, {}).setdefault(group, []).append(one)
    base = found["note"]
    for group, notes in base.items():
        means = " ".join(f"{name} {np.mean([one[name] for one in notes]):.4f}" for name in ("log_loss", "accuracy"))
        print(f"note, {group}: {means}, drifts {np.mean([one['drifts'] for one in notes]):.1f}")
    for reaction in options.reactions[1:]:
        print(f"\n| {reaction} | log loss | accuracy | drifts | promotions | rollbacks | CPU time |")
        print("|---|--:|--:|--:|--:|--:|--:|")
        for group, results in found[reaction].items():
            print(f"| {group} | {_line(results, base[group])} |", flush=True)
        pooled = [one for results in found[reaction].values() for one in results]
        print(f"| all | {_line(pooled, [one for notes in base.values() for one in notes])} |", flush=True)


def _line(results: list[dict[str, float]], notes: list[dict[str, float]]) -> str:
    cells = []
    for name, sign in (("log_loss", 1.0), ("accuracy", -1.0)):
        regret = sign * np.array([one[name] - note[name] for one, note in zip(results, notes, strict=True)])
        error = regret.std(ddof=1) / np.sqrt(len(regret)) if len(regret) > 1 else 0.0
        cells.append(f"{regret.mean():+.5f} ± {error:.5f}")
    cells += [f"{np.mean([one[name] for one in results]):.1f}" for name in ("drifts", "promotions", "rollbacks")]
    ratio = np.sum([one["seconds"] for one in results]) / np.sum([note["seconds"] for note in notes])
    return " | ".join([*cells, f"{ratio:.2f}"])


def _named(rows: np.ndarray) -> Columns:
    return {f"x{i}": row for i, row in enumerate(rows)}


if __name__ == "__main__":
    main()
