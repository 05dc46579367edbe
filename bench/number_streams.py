"""Streams of numbers for benchmarks: generated ones, with and without drift, and columns of real streams.

River's generators make Friedman's function without drift, with drift that expands, recurs or is local, and planes with
mixed columns. A seasonal series has a jump in its middle. Real targets are a price, a demand and a flight's wing beats.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

Rows = tuple[NDArray[Any], NDArray[Any]]
FOLDER = Path(os.environ.get("EVERLEARN_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


def taken(stream: Iterable[Any], n: int) -> Rows:
    """Return n rows of a generator of River's; texts become numbers in order of appearance."""
    codes: dict[str, int] = {}
    rows = list(itertools.islice(iter(stream), n))
    dense = [[codes.setdefault(v, len(codes)) if isinstance(v, str) else v for v in x.values()] for x, _ in rows]
    return np.array(dense, float), np.array([y for _, y in rows], float)


def friedman(drift: str, n: int) -> Rows:
    """Return Friedman's function, with a drift of River's, or "" for none."""
    from river.datasets import synth

    if drift == "lea":
        return taken(synth.FriedmanDrift(drift_type=drift, position=(n // 4, n // 2, 3 * n // 4), seed=1), n)
    if drift:
        position = (n // 3, 2 * n // 3)
        return taken(synth.FriedmanDrift(drift, position=position, transition_window=n // 20, seed=1), n)
    return taken(synth.Friedman(seed=1), n)


def planes(n: int) -> Rows:
    """Return River's two planes."""
    from river.datasets import synth

    return taken(synth.Planes2D(seed=1), n)


def mixed(n: int) -> Rows:
    """Return River's artificial stream with mixed columns, "mv"."""
    from river.datasets import synth

    return taken(synth.Mv(seed=1), n)


def plane(n: int) -> Rows:
    """Return a linear function of eight columns, with noise, far from zero."""
    random = np.random.default_rng(0)
    x = random.normal(size=(n, 8))
    return x, x @ random.normal(size=8) + 0.5 * random.normal(size=n) + 1000


def pieces(n: int) -> Rows:
    """Return three linear functions, each in its part of the space."""
    random = np.random.default_rng(1)
    x = random.random((n, 6))
    part = (x[:, 0] > 0.3).astype(int) + (x[:, 1] > 0.6)
    slopes = 4 * random.normal(size=(3, 6))
    return x, (x * slopes[part]).sum(1) + 3 * part + 0.3 * random.normal(size=n)


def seasonal(n: int) -> Rows:
    """Return a daily and weekly series that jumps in the middle; columns are hour, day and three lags."""
    random = np.random.default_rng(2)
    hours, noise = np.arange(n + 30), np.zeros(n + 30)
    for i in range(1, n + 30):
        noise[i] = 0.8 * noise[i - 1] + 0.5 * random.normal()
    y = 100 + 5 * np.sin(hours * np.pi / 12) + 3 * (hours // 24 % 7 >= 5) + 8 * (hours > n // 2) + noise
    lags = [y[30 - lag : -lag] for lag in (1, 2, 24)]
    return np.stack([hours[30:] % 24, hours[30:] // 24 % 7, *lags], 1), y[30:]


def column(stream: str, target: str) -> Callable[[int], Rows]:
    """Return a function that reads n rows of a Parquet stream, with one of its columns as the target."""

    def read(n: int) -> Rows:
        table = pq.read_table(FOLDER / f"{stream}.parquet").slice(0, n)
        names = [name for name in table.column_names if name not in ("label", target)]
        return np.stack([table[name].to_numpy() for name in names], 1).astype(float), table[target].to_numpy()

    return read


STREAMS: dict[str, Callable[[int], Rows]] = {
    "friedman": lambda n: friedman("", n),
    "friedman_gra": lambda n: friedman("gra", n),
    "friedman_gsg": lambda n: friedman("gsg", n),
    "friedman_lea": lambda n: friedman("lea", n),
    "planes": planes,
    "mv": mixed,
    "plane": plane,
    "pieces": pieces,
    "seasonal": seasonal,
    "elec2_price": column("elec2", "nswprice"),
    "elec2_demand": column("elec2", "nswdemand"),
    "insects_f4": column("insects_gradual", "f4"),
}
