"""Trees and forests as models: their arrays, the checks of a batch, and the calls of kernels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from everlearn.families import batches
from everlearn.families.batches import Labels, Rows
from everlearn.families.trees import kernels, layout, settings
from everlearn.families.trees.settings import TreeSettings
from everlearn.families.trees.tables import tables
from everlearn.model import described
from everlearn.records import Arrays, Batch, Floats, Singles


class Trees:
    """A Hoeffding tree, or a forest of them, that learns one row at a time.

    Arrays, for T trees of N nodes and L blocks, K classes and d columns, of which a leaf draws m: `nodes` int32
    (T, N, 4), `counts` float32 (T, N, K), `blocks` float32 (T, L, numbers), `choices` int32 (T, L, 2 + m + entries),
    `trees` int64 (T, 41), `windows` float64 (T, 390) of ADWIN, `moments` float64 (6, d) of the columns of the stream,
    and `clock` int64 (1,): rows learned. A regression has `counts` float64 (T, N, 3): weight, mean and squares of the
    targets of each node; `windows` float64 (T, 392); and `moments` float64 (6, d + 1), last of the targets. See
    `everlearn.families.trees.layout`. No array depends on how much was learned in its shape; pages of memory that no
    leaf uses yet are not taken from the system.
    """

    def __init__(self, spec: dict[str, Any], chosen: TreeSettings) -> None:
        self.spec: Mapping[str, Any] = spec
        self._settings = settings.kernel_settings(chosen)
        self._table = tables(chosen.rate or 0.0)
        self._numbers = numbers = chosen.task == "regression"
        scored = chosen.prior == settings.PARENT
        self._predict, self._learn = kernels.predictor(numbers, scored), kernels.learner(numbers, scored)
        self._columns, self._hashed, self._outputs = chosen.dense, chosen.hashed, chosen.classes or 1
        self.loss = settings.own_loss(chosen)
        size, trees = settings.sizes(chosen), chosen.trees or 1
        self._drawn = size.drawn
        width = layout.NODE_SUMS if numbers else chosen.classes
        floats = layout.block_floats(chosen.classes, size.drawn, size.entries, chosen.dense, scored)
        self.arrays: Arrays = {
            "nodes": np.zeros((trees, size.nodes, 4), np.int32),
            "counts": np.zeros((trees, size.nodes, width), np.float64 if numbers else np.float32),
            "blocks": np.zeros((trees, size.blocks, floats), np.float32),
            "choices": np.zeros((trees, size.blocks, layout.CHOICES + size.drawn + size.entries), np.int32),
            "trees": np.zeros((trees, layout.SIZES + layout.WINDOW_ROWS + 1), np.int64),
            "windows": np.zeros((trees, layout.window_floats(chosen.classes))),
            "moments": np.zeros((layout.MOMENTS, chosen.dense + numbers)),
            "clock": np.zeros(1, np.int64),
        }
        self.arrays["trees"][:, [layout.ROOT, layout.BACKGROUND, layout.FREE_PAIR, layout.FREE_BLOCK]] = layout.NONE
        self.arrays["trees"][:, -1] = 1  # rows of ADWIN in use

    def __repr__(self) -> str:
        return described(self)

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

        >>> build({"family": "forest", "task": "binary", "dense": 9}).operations()
        4700.0
        """
        trees, columns = self.arrays["trees"], min(self._columns, layout.MOST_LINE)
        depth = float(np.log2(1.0 + trees[:, layout.USED_PAIRS]).mean())
        leaf = columns * columns + 40.0 * self._drawn if self._numbers else 10.0 * self._outputs * self._drawn
        return len(trees) * (350.0 + 30.0 * depth + leaf + 600.0 * (self._hashed > 0))

    def _predict_rows(self, rows: Rows, out: Singles) -> int:
        state = (*self._pool(), self.arrays["windows"], self.arrays["moments"])
        return self._predict(self._hashed, self._settings, *state, self._drawn, *rows, out)

    def _learn_rows(self, rows: Rows, labels: Labels, out: Singles) -> int:
        state = (*self._pool(), self.arrays["windows"], self.arrays["moments"], self.arrays["clock"])
        return self._learn(self._hashed, self._settings, self._table, *state, self._drawn, *rows, *labels, out)

    def _pool(self) -> tuple[NDArray[Any], ...]:
        held = self.arrays
        return held["trees"], held["nodes"], held["counts"], held["blocks"], held["choices"]


def build(spec: Mapping[str, Any]) -> Trees:
    """Make an untrained tree or forest; see `everlearn.families.trees.settings.TreeSettings`.

    Raises `ConfigError` for an unknown setting or a wrong value.

    >>> from everlearn.records import Batch
    >>> model = build({"family": "tree", "task": "binary", "dense": 2})
    >>> x = np.random.default_rng(0).random((3000, 2)).astype(np.float32)
    >>> y = ((x[:, 0] > 0.5) ^ (x[:, 1] > 0.5)).astype(float)
    >>> rows = Batch(x, np.zeros(3001, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))
    >>> scores = model.learn(rows, y, np.ones(3000, np.float32))
    >>> float((scores.argmax(1) == y)[1500:].mean()) > 0.8
    True
    """
    chosen = settings.read(spec)
    return Trees(settings.written(chosen), chosen)
