"""Mondrian forests as models: their arrays, the checks of a batch, and the calls of kernels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from everlearn.families import batches
from everlearn.families.batches import Labels, Rows
from everlearn.families.mondrian import kernels, layout, settings
from everlearn.families.mondrian.columns import draw_columns
from everlearn.families.mondrian.settings import MondrianSettings
from everlearn.model import LEARN, described
from everlearn.records import Arrays, Batch, Floats, Singles


class Mondrian:
    """An aggregated Mondrian forest that learns one row at a time.

    Arrays, for T trees of N nodes, K classes, and m columns that a tree looks at: `nodes` int32 (T, N, 5), `beliefs`
    float64 (T, N, 2), `counts` float32 (T, N, K + 1), `trees` int64 (T, 37), and `columns` int32 (T, dense columns of a
    tree). Only learning needs `learn/boxes` float32 (T, N, 2, m), `learn/windows` float64 (T, 390) of ADWIN,
    `learn/moments` float64 (3, d) of the columns of the stream, and `learn/clock` int64 (1,): rows learned. See
    `everlearn.families.mondrian.layout`. No shape depends on how much was learned; pages of memory that no node uses
    yet are not taken from the system.

    A regression has `beliefs` float64 (T, N, 6), and in `counts` the linear model of each node: with d columns,
    3d + d (d + 1) / 2 + 1 numbers, the last of them its weight; 1 if there are more than 40 columns. `learn/windows` is
    float64 (T, 394 + d), `target` float64 (6,) holds origin, unit and range of the targets, and `centres` float64 (d,)
    the means of columns, which missing values are taken for.
    """

    def __init__(self, spec: dict[str, Any], chosen: MondrianSettings) -> None:
        self.spec: Mapping[str, Any] = spec
        self._settings = settings.kernel_settings(chosen)
        self._numbers = chosen.task == "regression"
        self._predict, self._learn = kernels.predictor(self._numbers), kernels.learner(self._numbers)
        self._columns, self._hashed, self._outputs = chosen.dense, chosen.hashed, chosen.classes or 1
        self.loss = settings.own_loss(chosen)
        size, trees, lined = settings.sizes(chosen), chosen.trees, layout.lined(chosen.classes, chosen.dense)
        self._wide = size.drawn + size.sketched
        beliefs = layout.NUMBER_BELIEFS if self._numbers else layout.BELIEFS
        self._arrays: Arrays = {
            "nodes": np.zeros((trees, size.nodes, layout.LINKS), np.int32),
            "beliefs": np.zeros((trees, size.nodes, beliefs)),
            "counts": np.zeros((trees, size.nodes, layout.node_sums(chosen.classes, chosen.dense)), np.float32),
            "trees": np.zeros((trees, layout.SIZES + layout.WINDOW_ROWS + 1), np.int64),
            "columns": draw_columns(chosen.seed, trees, chosen.dense, size.drawn),
            "learn/boxes": np.zeros((trees, size.nodes, layout.SIDES, self._wide), np.float32),
            "learn/windows": np.zeros((trees, layout.window_floats(chosen.classes, chosen.dense))),
            "learn/moments": np.zeros((layout.MOMENTS, chosen.dense)),
            "learn/clock": np.zeros(1, np.int64),
        }
        if self._numbers:
            self._arrays["centres"] = np.zeros(lined)
            self._arrays["target"] = np.zeros(layout.TARGET)
        self._arrays["trees"][:, -1] = 1  # rows of ADWIN in use

    def __repr__(self) -> str:
        return described(self)

    @property
    def arrays(self) -> Arrays:
        return self._arrays

    @arrays.setter
    def arrays(self, arrays: Arrays) -> None:
        self._arrays = self._arrays | arrays

    def predict(self, batch: Batch) -> Singles:
        """Score n rows: class probabilities float32 (n, classes), or float32 (n, 1) for a regression.

        Raises `InputError` if the batch does not fit the model.
        """
        return batches.predicted(batches.rows(batch, self._columns), self._outputs, self._hashed, self._predict_rows)

    def learn(self, batch: Batch, y: Floats, weight: Singles) -> Singles:
        """Predict and then learn each of n rows, in order; return the predictions, as `predict` does.

        A row with a label that is not finite, or a weight that is not a finite number above 0, is only predicted.
        Raises `InputError`, with nothing learned, if the batch does not fit or a label is not a class.
        """
        rows = batches.rows(batch, self._columns)
        return batches.learned(rows, y, weight, self._outputs, self._hashed, self._learn_rows)

    def train_every(self, first: int, step: int) -> None:
        """Train only the trees `first`, `first` + `step` and so on from now on; the others vote, and stay as they are.

        This is not part of the spec or the arrays: the learner of a partition trains the trees that it owns.
        """
        self._settings = self._settings.copy()  # copies of this model share it
        self._settings[[layout.FIRST, layout.STEP]] = first, step

    def operations(self) -> float:
        """Return the operations to predict and learn a row: an estimate from nodes, columns and classes, no clock.

        One is about a nanosecond. Fitted to times on fifteen streams, within a factor of two.

        >>> build({"family": "mondrian", "task": "binary", "dense": 10}).operations()
        2000.0
        """
        trees = self._arrays["trees"]
        depth = float(np.log2(1.0 + trees[:, layout.USED_PAIRS]).mean())
        return len(trees) * (200.0 + depth * (100.0 + 4.0 * self._wide + 5.0 * self._outputs))

    def _predict_rows(self, rows: Rows, out: Singles) -> int:
        held = self._arrays
        state = (*self._pool(), self._wide, *((held["centres"], held["target"]) if self._numbers else ()))
        return self._predict(self._hashed, self._settings, *state, *rows, out)

    def _learn_rows(self, rows: Rows, labels: Labels, out: Singles) -> int:
        held = self._arrays
        state = [held[f"{LEARN}{name}"] for name in ("boxes", "windows", "moments", "clock")]
        if self._numbers:
            state += [held["centres"], held["target"]]
        return self._learn(self._hashed, self._settings, *self._pool(), *state, *rows, *labels, out)

    def _pool(self) -> tuple[NDArray[Any], ...]:
        held = self._arrays
        return held["trees"], held["nodes"], held["beliefs"], held["counts"], held["columns"]


def build(spec: Mapping[str, Any]) -> Mondrian:
    """Make an untrained Mondrian forest; see `everlearn.families.mondrian.settings.MondrianSettings`.

    Raises `ConfigError` for an unknown setting or a wrong value.

    >>> from everlearn.records import Batch
    >>> model = build({"family": "mondrian", "task": "binary", "dense": 2})
    >>> x = np.random.default_rng(0).random((1000, 2)).astype(np.float32)
    >>> y = ((x[:, 0] > 0.5) ^ (x[:, 1] > 0.5)).astype(float)
    >>> rows = Batch(x, np.zeros(1001, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))
    >>> scores = model.learn(rows, y, np.ones(1000, np.float32))
    >>> float((scores.argmax(1) == y)[500:].mean()) > 0.9
    True
    """
    chosen = settings.read(spec)
    return Mondrian(settings.written(chosen), chosen)
