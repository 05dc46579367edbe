"""Models of anomalies: their arrays, the checks of a batch, and the calls of kernels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from everlearn.families import batches
from everlearn.families.anomaly import half_space, kernels, ranks, rows, settings
from everlearn.families.anomaly.isolation import FAR, LEAF
from everlearn.families.anomaly.settings import HALF_SPACE, ISOLATION, QUANTILE, AnomalySettings
from everlearn.families.batches import Labels, Rows
from everlearn.model import described
from everlearn.records import Arrays, Batch, Floats, Singles


class Anomaly:
    """A detector of anomalies that learns one row at a time, whatever its label is.

    Arrays, for d dense columns, a window of w rows, T trees of 255 tests and C cells: `counters` int64 (9,); of
    half-space trees `half_columns` int32 (T, 255), `half_cuts` float32 (T, 255) and `half_values` float32 (T, 511); of
    columns `sorted` float32 (d, w) and `known` int64 (d,); of categories `rare` float64 (C + 1,); of isolation trees
    with N nodes `nodes` int32 (T, N, 2) and `node_cuts` float32 (T, N); `moments` float64 (3, 3) of the scores, and
    `ranked` float64 (1024,), a sorted sample of them. Only learning needs `learn/shares` float64 (T, 255),
    `learn/window` float32 (w, d), `learn/latest` float64 (C + 1,), `learn/limit` float64 (1,), `learn/boxes` float32
    (T, N, 2, m) and `learn/tree_columns` int32 (T, m), the m columns of an isolation tree. Detectors not in use have
    arrays of 0 trees.
    """

    def __init__(self, spec: dict[str, Any], chosen: AnomalySettings) -> None:
        self.spec: Mapping[str, Any] = spec
        self._columns, self._hashed = chosen.dense, chosen.hashed
        uses = settings.USES[chosen.method]
        flags = [chosen.seed, settings.LEAF_ROWS, QUANTILE in uses, not chosen.learn_anomalies]
        self._settings = np.array(flags, np.int64)
        self._logs: Floats = np.log(np.arange(chosen.window + 1) + 0.5)
        halves = chosen.trees if HALF_SPACE in uses and chosen.dense else 0
        tests = (1 << settings.HEIGHT) - 1
        cells = max(min(chosen.hashed, settings.CELLS), 1)
        dense = chosen.dense if ISOLATION not in uses else 0
        self._arrays: Arrays = {
            "counters": np.zeros(rows.COUNTERS, np.int64),
            "half_columns": np.zeros((halves, tests), np.int32),
            "half_cuts": np.zeros((halves, tests), np.float32),
            "half_values": np.zeros((halves, 2 * tests + 1), np.float32),
            "sorted": np.zeros((dense, chosen.window), np.float32),
            "known": np.zeros(dense, np.int64),
            "rare": np.zeros(cells + 1),
            "moments": np.full((3, 3), -1.0),
            "ranked": np.zeros(ranks.HELD),
            "learn/shares": np.zeros((halves, tests)),
            "learn/window": np.zeros((chosen.window, chosen.dense), np.float32),
            "learn/latest": np.zeros(cells + 1),
            "learn/limit": np.zeros(1),
            **_isolation_arrays(chosen, chosen.trees if ISOLATION in uses else 0),
        }
        self._arrays["counters"][rows.DUE] = rows.FIRST
        self._arrays["moments"][list(uses)] = 0.0
        if halves:
            draws = self._arrays["half_columns"], self._arrays["learn/shares"]
            half_space.draw(chosen.seed, halves, settings.HEIGHT, chosen.dense, *draws)

    def __repr__(self) -> str:
        return described(self)

    @property
    def arrays(self) -> Arrays:
        return self._arrays

    @arrays.setter
    def arrays(self, arrays: Arrays) -> None:
        self._arrays = self._arrays | arrays

    def predict(self, batch: Batch) -> Singles:
        """Score n rows, float32 (n, 2): 1 - rank, and the rank in (0, 1) of the row among recent ones; 1 is anomalous.

        Raises `InputError` if the batch does not fit the model.
        """
        return batches.predicted(batches.rows(batch, self._columns), 2, self._hashed, self._predict_rows)

    def learn(self, batch: Batch, y: Floats, weight: Singles) -> Singles:
        """Score and then learn each of n rows, in order; return the scores, as `predict` does.

        A row with a label that is not finite, or a weight that is not a finite number above 0, is only scored; other
        weights count as 1. Raises `InputError`, with nothing learned, if the batch does not fit or a label is not 0 or
        1.
        """
        found = batches.rows(batch, self._columns)
        return batches.learned(found, y, weight, 2, self._hashed, self._learn_rows)

    def raw(self, batch: Batch, skip: int = -1) -> Floats:
        """Return the scores of n rows before they are ranked, float64 (n,).

        `skip` is a dense column that is left out, or `rows.ENTRY` + the number of a hashed entry.
        """
        scores = np.empty(len(batch))
        out = np.empty((len(batch), 2), np.float32)
        self._score(batches.rows(batch, self._columns), skip, scores, out)
        return scores

    def _predict_rows(self, found: Rows, out: Singles) -> int:
        return self._score(found, -1, np.empty(len(out)), out)

    def _score(self, found: Rows, skip: int, raw: Floats, out: Singles) -> int:
        return kernels.predictor()(self._hashed, skip, *self._state(), *found, raw, out)

    def _learn_rows(self, found: Rows, labels: Labels, out: Singles) -> int:
        held = self._arrays
        names = ("shares", "window", "latest", "limit", "boxes", "tree_columns")
        state = (*self._state(), *(held[f"learn/{name}"] for name in names))
        return kernels.learner()(self._hashed, *state, *found, *labels, out)

    def _state(self) -> tuple[NDArray[Any], ...]:
        held = self._arrays
        halves = held["half_columns"], held["half_cuts"], held["half_values"]
        by_column = held["sorted"], held["known"], self._logs, held["rare"]
        trees = held["nodes"], held["node_cuts"]
        return self._settings, held["counters"], *halves, *by_column, *trees, held["moments"], held["ranked"]


def _isolation_arrays(chosen: AnomalySettings, trees: int) -> Arrays:
    """Return the arrays of isolation trees."""
    nodes = (2 << settings.depth(chosen)) - 1
    wide = min(chosen.dense, settings.WIDEST)
    random = np.random.Generator(np.random.PCG64(chosen.seed))
    columns = [np.sort(random.permutation(chosen.dense)[:wide]) for _ in range(trees)]
    boxes = np.zeros((trees, nodes, 2, wide), np.float32)
    boxes[:, :, 0], boxes[:, :, 1] = FAR, -FAR
    links = np.zeros((trees, nodes, 2), np.int32)
    links[:, :, 0] = LEAF
    return {
        "nodes": links,
        "node_cuts": np.zeros((trees, nodes), np.float32),
        "learn/boxes": boxes,
        "learn/tree_columns": np.array(columns, np.int32).reshape(trees, wide),
    }


def build(spec: Mapping[str, Any]) -> Anomaly:
    """Make an untrained detector; see `everlearn.families.anomaly.settings.AnomalySettings`.

    Raises `ConfigError` for an unknown setting or a wrong value.

    >>> from everlearn.records import Batch
    >>> model = build({"family": "anomaly", "task": "binary", "dense": 2})
    >>> x = np.random.default_rng(0).normal(size=(2000, 2)).astype(np.float32)
    >>> x[1999] = 9.0
    >>> rows = Batch(x, np.zeros(2001, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))
    >>> scores = model.learn(rows, np.zeros(2000), np.ones(2000, np.float32))[:, 1]
    >>> int(scores[1000:].argmax()), bool(abs((scores[1000:] > 0.9).mean() - 0.1) < 0.03)
    (999, True)
    """
    chosen = settings.read(spec)
    return Anomaly(settings.written(chosen), chosen)
