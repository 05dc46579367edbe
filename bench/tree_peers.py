"""Trees and forests of River and CapyMOA, which `bench/trees.py` runs beside ours on the same rows.

Each predicts a row before it learns it. CapyMOA runs in a Java machine within this process, so that its CPU seconds
count, with those of its garbage collector. Rows reach River as dicts of numbers that were made beforehand.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class Run(NamedTuple):
    """What a peer answered, probabilities float64 (n, K), and the CPU seconds that it took."""

    proba: Array
    seconds: float


def river(kind: str, x: Array, y: Array, classes: int, seed: int) -> Run:
    """Run River's "tree", "adaptive tree", "forest" (of ten) or "mondrian" (ten aggregated trees)."""
    from river import forest, tree

    made: dict[str, Callable[[], Any]] = {
        "tree": lambda: tree.HoeffdingTreeClassifier(),
        "adaptive tree": lambda: tree.HoeffdingAdaptiveTreeClassifier(seed=seed),
        "forest": lambda: forest.ARFClassifier(n_models=10, seed=seed),
        "mondrian": lambda: forest.AMFClassifier(n_estimators=10, seed=seed),
    }
    peer, names = made[kind](), [f"c{j}" for j in range(x.shape[1])]
    rows, labels = [dict(zip(names, row, strict=True)) for row in x.tolist()], y.astype(int).tolist()
    found, start = np.zeros((len(y), classes)), time.process_time()
    for i, row in enumerate(rows):
        for label, p in peer.predict_proba_one(row).items():
            found[i, label] = p
        peer.learn_one(row, labels[i])
    return Run(found, time.process_time() - start)


def capymoa(kind: str, x: Array, y: Array, classes: int, seed: int) -> Run:
    """Run CapyMOA's "tree", "forest" (of ten) or "patches" (ten streaming random patches)."""
    from capymoa.classifier import AdaptiveRandomForestClassifier, HoeffdingTree, StreamingRandomPatches
    from capymoa.stream import NumpyStream

    stream = NumpyStream(x.astype(np.float64), y.astype(int))
    schema = stream.get_schema()
    made: dict[str, Callable[[], Any]] = {
        "tree": lambda: HoeffdingTree(schema, random_seed=seed),
        "forest": lambda: AdaptiveRandomForestClassifier(schema, random_seed=seed, ensemble_size=10),
        "patches": lambda: StreamingRandomPatches(schema, random_seed=seed, ensemble_size=10),
    }
    peer, found = made[kind](), np.zeros((len(y), classes))
    start = time.process_time()
    for i in range(len(y)):
        row = stream.next_instance()
        proba = peer.predict_proba(row)  # short or None before it knows all classes
        if proba is not None:
            found[i, : len(proba)] = proba
        peer.train(row)
    return Run(found, time.process_time() - start)


PEERS: dict[str, tuple[str, Callable[[str, Array, Array, int, int], Run]]] = {
    "River tree": ("tree", river),
    "River adaptive tree": ("adaptive tree", river),
    "River forest": ("forest", river),
    "River mondrian": ("mondrian", river),
    "CapyMOA tree": ("tree", capymoa),
    "CapyMOA forest": ("forest", capymoa),
    "CapyMOA patches": ("patches", capymoa),
}
"""The peers by name."""


def run(name: str, x: Array, y: Array, classes: int, seed: int) -> Run:
    """Run a peer on rows (n, d) with labels (n,); probabilities sum to 1, and are equal where it said nothing."""
    kind, peer = PEERS[name]
    proba, seconds = peer(kind, x, y, classes, seed)
    total = proba.sum(1, keepdims=True)
    return Run(np.where(total > 0, proba / np.where(total > 0, total, 1.0), 1.0 / classes), seconds)
