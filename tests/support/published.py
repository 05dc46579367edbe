"""Models whose numbers show a torn read, and the processes that publish and read their snapshots."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from everlearn import model
from everlearn.errors import BlobError
from everlearn.records import Arrays, Batch, Floats, Singles
from everlearn.serve.snapshot import Answering, Publisher, Reader


class Filled:
    """A model whose numbers are all equal, so that half an update shows."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self.spec = dict(spec)
        size = int(spec.get("size", 500))
        self.arrays: Arrays = {"a": np.zeros(size), "b": np.zeros((3, size), np.float32), "c": np.zeros(7, np.int8)}

    def fill(self, value: int) -> None:
        for array in self.arrays.values():
            array[...] = value % 100

    def predict(self, batch: Batch) -> Singles:
        return np.full((len(batch), 1), self.arrays["a"][0], np.float32)

    def learn(self, batch: Batch, y: Floats, weight: Singles) -> Singles:
        return self.predict(batch)


class Pinned:
    """A model that keeps its own arrays, and copies into them those that it is given."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self.spec = dict(spec)
        self._inside = {"a": np.zeros(4)}

    @property
    def arrays(self) -> Arrays:
        return self._inside

    @arrays.setter
    def arrays(self, arrays: Arrays) -> None:
        for name, array in arrays.items():
            self._inside[name][...] = array

    def predict(self, batch: Batch) -> Singles:
        return np.full((len(batch), 1), self._inside["a"][0], np.float32)

    def learn(self, batch: Batch, y: Floats, weight: Singles) -> Singles:
        return self.predict(batch)


class Averaged:
    """A model that answers with the mean of what it has seen, and keeps the last rows, which only learning needs."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self.spec = dict(spec)
        self._own: Arrays = {"mean": np.zeros(1), "learn/seen": np.zeros((), np.int64), "learn/rows": np.zeros(50_000)}

    @property
    def arrays(self) -> Arrays:
        return self._own

    @arrays.setter
    def arrays(self, arrays: Arrays) -> None:
        self._own = self._own | arrays

    def predict(self, batch: Batch) -> Singles:
        return np.full((len(batch), 1), self._own["mean"][0], np.float32)

    def learn(self, batch: Batch, y: Floats, weight: Singles) -> Singles:
        scores = self.predict(batch)
        for label in y:
            self._own["learn/rows"][int(self._own["learn/seen"])] = label
            self._own["learn/seen"] += 1
            self._own["mean"][0] = self._own["learn/rows"][: int(self._own["learn/seen"])].mean()
        return scores


def filled(value: int = 0, **spec: Any) -> Filled:
    made = Filled({"family": "tests.support.published:Filled", **spec})
    made.fill(value)
    return made


def publish_for_ever(folder: Path, size: int) -> None:
    """Publish one snapshot after the other until this process is killed."""
    publisher, made = Publisher(folder), filled(size=size)
    while True:
        made.fill(publisher.sequence + 1)
        publisher.publish(Answering("v", made), None, publisher.sequence + 1, {"x": made.arrays["c"]})


def read_many(folder: Path, reads: int) -> tuple[int, int]:
    """Read snapshots; return how many different ones were seen, and how many reads were torn."""
    reader, torn, seen, last = Reader(folder, model.build), 0, 0, -1
    for _ in range(reads):
        held = reader.current()
        seen += held.sequence != last
        torn += held.sequence < last or held.position != held.sequence
        last = held.sequence
        value, arrays = last % 100, held.champion.model.arrays
        whole = all((array == value).all() for array in (*arrays.values(), held.arrays["x"]))
        torn += not whole
        try:
            reader.check()
        except BlobError:
            torn += 1
    return seen, torn
