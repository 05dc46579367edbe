"""Models of River and scikit-learn as contestants of a comparison, each with the input that it prefers.

A name such as "river:arf" gives a function that makes the contestant. River reads raw records where all fields are
numbers, truth values or categories, and else the encoded row as a dict. scikit-learn reads the encoded row as a matrix,
in blocks of 100 rows: all rows of a block are predicted before the block is learned. Nothing here is imported before a
model of the library is made.
"""

from __future__ import annotations

import importlib
import importlib.util
import pickle
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

from everlearn.errors import ConfigError
from everlearn.evaluate.entrants import Entrant, Maker, Piece, Terms
from everlearn.records import Batch, Floats, Singles

BLOCK = 100  # rows that scikit-learn predicts, and then learns, at a time
FOLDED = 256  # columns that hashed features are folded to for a model that needs a dense matrix
_PLAIN = ("numeric", "integer", "boolean", "categorical")

RIVER = {
    "river:arf": "adaptive random forest",
    "river:hat": "Hoeffding adaptive tree",
    "river:linear": "logistic or linear regression with a standard scaler",
    "river:amf": "aggregated Mondrian forest",
}
SKLEARN = {
    "sklearn:sgd": "SGD with log loss (or squared loss), standardised",
    "sklearn:bayes": "Gaussian naive Bayes (classes only)",
    "sklearn:pa": "passive-aggressive, standardised",
}
PEERS = RIVER | SKLEARN


def installed() -> list[str]:
    """Return the names of the peers whose library is installed."""
    found: dict[str, str] = {}
    for library, names in (("river", RIVER), ("sklearn", SKLEARN)):
        if importlib.util.find_spec(library) is not None:
            found |= names
    return list(found)


def maker(name: str) -> Maker:
    """Return the function that makes the contestant `name`. Raises `ConfigError` for a name that is not in `PEERS`.

    >>> maker("river:rf")
    Traceback (most recent call last):
    everlearn.errors.ConfigError: model: got 'river:rf'; expected one of river:arf, river:hat, river:linear, \
river:amf, sklearn:sgd, sklearn:bayes, sklearn:pa
    """
    if name not in PEERS:
        raise ConfigError(f"model: got {name!r}; expected one of {', '.join(PEERS)}")
    make: Callable[[str, Terms], Entrant] = RiverEntrant if name in RIVER else SklearnEntrant
    return lambda terms: make(name, terms)


class RiverEntrant:
    """A model of River, one record after the other."""

    def __init__(self, name: str, terms: Terms) -> None:
        plain = _PLAIN[:3] if name == "river:amf" else _PLAIN  # its splits compare numbers
        self.raw = terms.schema is not None and all(kind in plain for kind in terms.schema.fields.values())
        self.reads = "raw records" if self.raw else "encoded rows as dicts"
        self._classes = 0 if terms.shape["task"] == "regression" else max(int(terms.shape.get("classes") or 2), 2)
        self._model, self._delay = _river(name, self._classes), terms.delay
        self._pending: deque[tuple[dict[Any, Any], float]] = deque()

    def step(self, piece: Piece) -> Singles:
        """Predict each record, and learn those whose labels have come."""
        rows = piece.records if self.raw else _dicts(piece.examples.batch)
        scores = np.zeros((len(rows), max(self._classes, 1)), np.float32)
        model, late = self._model, self._pending
        for row, (x, y) in enumerate(zip(rows, piece.examples.y.tolist(), strict=True)):
            if self._classes:
                for label, share in model.predict_proba_one(x).items():
                    scores[row, int(label)] = share
            else:
                scores[row, 0] = model.predict_one(x) or 0.0
            late.append((x, y))
            if len(late) > self._delay:
                known, label = late.popleft()
                model.learn_one(known, int(label) if self._classes else label)
        return _shares(scores) if self._classes else scores

    def size(self) -> int:
        """Return the bytes of the model, as River counts them."""
        return int(self._model._raw_memory_usage)


class SklearnEntrant:
    """A model of scikit-learn with `partial_fit`, a block of rows at a time.

    Blocks are counted from the first row, so the scores do not depend on how the stream is cut into pieces.
    """

    raw = False

    def __init__(self, name: str, terms: Terms) -> None:
        self._classes = 0 if terms.shape["task"] == "regression" else max(int(terms.shape.get("classes") or 2), 2)
        self._model = _sklearn(name, self._classes)
        self._scaler = importlib.import_module("sklearn.preprocessing").StandardScaler()
        self._dense, self._hashed = int(terms.shape["dense"]), int(terms.shape.get("hashed") or 0)
        self._delay, self._rows, self._learned = terms.delay, 0, 0
        self._waiting: deque[tuple[Any, Any, Floats]] = deque()  # dense, hashed, labels
        self.reads = f"encoded rows in blocks of {BLOCK}"
        if name == "sklearn:bayes" and self._hashed:
            self._folds, self._hashed = (0, 0) if self._dense else (FOLDED, self._hashed)
            self.reads += ", without categories" if self._dense else f", folded to {FOLDED} columns"
        else:
            self._folds = 0

    def step(self, piece: Piece) -> Singles:
        """Predict each row, and learn the blocks whose labels have come."""
        examples = piece.examples
        scores = np.full((len(examples.y), max(self._classes, 1)), 1.0 / max(self._classes, 1), np.float32)
        begin = 0
        while begin < len(examples.y):
            stop = min(len(examples.y), begin + BLOCK - self._rows % BLOCK)
            part = slice(begin, stop)
            dense, hashed = examples.batch.dense[part].astype(np.float64), self._hashed_part(examples.batch, part)
            if self._learned:
                scores[part] = self._scores(self._matrix(dense, hashed))
            self._waiting.append((dense, hashed, examples.y[part]))
            self._rows += stop - begin
            if self._rows % BLOCK == 0:
                self._learn()
            begin = stop
        return scores

    def size(self) -> int:
        """Return the bytes of the pickled model."""
        return len(pickle.dumps((self._model, self._scaler)))

    def _learn(self) -> None:
        """Learn the whole blocks whose labels have come."""
        while self._rows - self._delay - self._learned >= BLOCK:
            parts = [self._waiting.popleft()]
            while sum(len(labels) for _, _, labels in parts) < BLOCK:
                parts.append(self._waiting.popleft())
            dense, y = np.concatenate([one[0] for one in parts]), np.concatenate([one[2] for one in parts])
            hashed = None if parts[0][1] is None else _stacked([one[1] for one in parts])
            if self._dense:
                self._scaler.partial_fit(dense)
            extra = {"classes": np.arange(self._classes)} if self._classes and not self._learned else {}
            x = self._matrix(dense, hashed)
            self._model.partial_fit(x, y.astype(np.int64) if self._classes else y, **extra)
            self._learned += BLOCK

    def _scores(self, x: Any) -> Any:
        if not self._classes:
            return self._model.predict(x)[:, None]
        if callable(getattr(self._model, "predict_proba", None)):
            return self._model.predict_proba(x)
        return np.eye(self._classes, dtype=np.float32)[self._model.predict(x)]

    def _matrix(self, dense: Floats, hashed: Any) -> Any:
        """Return rows as a matrix: standardised dense columns (0 where missing), then the hashed ones."""
        if self._dense:
            dense = np.nan_to_num(self._scaler.transform(dense), copy=False, posinf=0.0, neginf=0.0)
        if hashed is None:
            return dense
        if self._folds:
            return np.hstack([dense, hashed])
        return importlib.import_module("scipy.sparse").hstack([dense, hashed], format="csr")

    def _hashed_part(self, batch: Batch, part: slice) -> Any:
        """Return the hashed columns of rows: None where there are none, sparse, or folded to few columns."""
        if not self._hashed:
            return None
        start, stop = int(batch.indptr[part.start]), int(batch.indptr[part.stop])
        indptr = batch.indptr[part.start : part.stop + 1] - start
        indices, values = batch.indices[start:stop], batch.values[start:stop].astype(np.float64)
        rows = part.stop - part.start
        if self._folds:
            folded = np.zeros((rows, self._folds))
            np.add.at(folded, (np.repeat(np.arange(rows), np.diff(indptr)), indices % self._folds), values)
            return folded
        sparse = importlib.import_module("scipy.sparse")
        return sparse.csr_matrix((values, indices, indptr), shape=(rows, self._hashed))


def _stacked(parts: list[Any]) -> Any:
    """Return blocks of rows as one, sparse or not."""
    if len(parts) == 1:
        return parts[0]
    if isinstance(parts[0], np.ndarray):
        return np.concatenate(parts)
    return importlib.import_module("scipy.sparse").vstack(parts, format="csr")


def _river(name: str, classes: int) -> Any:
    """Return a model of River with its default settings."""
    forest, tree = importlib.import_module("river.forest"), importlib.import_module("river.tree")
    if name == "river:arf":
        return forest.ARFClassifier(seed=1) if classes else forest.ARFRegressor(seed=1)
    if name == "river:hat":
        return tree.HoeffdingAdaptiveTreeClassifier(seed=1) if classes else tree.HoeffdingAdaptiveTreeRegressor(seed=1)
    if name == "river:amf":
        return forest.AMFClassifier(seed=1) if classes else forest.AMFRegressor(seed=1)
    compose, linear = importlib.import_module("river.compose"), importlib.import_module("river.linear_model")
    preprocessing = importlib.import_module("river.preprocessing")
    numbers = compose.SelectType(int, float) | preprocessing.StandardScaler()
    words = compose.SelectType(str, bool) | preprocessing.OneHotEncoder()
    model = linear.LogisticRegression() if classes else linear.LinearRegression()
    if classes > 2:
        model = importlib.import_module("river.multiclass").OneVsRestClassifier(model)
    return (numbers + words) | model


def _sklearn(name: str, classes: int) -> Any:
    """Return a model of scikit-learn with its default settings."""
    linear = importlib.import_module("sklearn.linear_model")
    if name == "sklearn:bayes":
        if not classes:
            raise ConfigError("sklearn:bayes: got a regression; expected classes. Leave it out of --models")
        return importlib.import_module("sklearn.naive_bayes").GaussianNB()
    if name == "sklearn:sgd":
        return linear.SGDClassifier(loss="log_loss", random_state=1) if classes else linear.SGDRegressor(random_state=1)
    settings = {"learning_rate": "pa1", "eta0": 1.0, "penalty": None, "random_state": 1}  # what replaced the class
    if classes:
        return linear.SGDClassifier(loss="hinge", **settings)
    return linear.SGDRegressor(loss="epsilon_insensitive", **settings)


def _dicts(batch: Batch) -> list[dict[Any, Any]]:
    """Return encoded rows as dicts: keys say if a column is dense or hashed; missing values are left out."""
    rows = []
    for row, values in enumerate(batch.dense.tolist()):
        found: dict[Any, Any] = {f"d{j}": value for j, value in enumerate(values) if value == value}
        entries = slice(batch.indptr[row], batch.indptr[row + 1])
        keys, weights = batch.indices[entries].tolist(), batch.values[entries].tolist()
        found |= {f"h{key}": value for key, value in zip(keys, weights, strict=True)}
        rows.append(found)
    return rows


def _shares(scores: Singles) -> Singles:
    """Return probabilities that add up to 1; equal ones where a model knows none."""
    scores = np.maximum(scores, 0.0)
    totals = scores.sum(axis=1, keepdims=True)
    found: Singles = np.where(totals > 0, scores / np.where(totals > 0, totals, 1.0), 1.0 / scores.shape[1])
    return found.astype(np.float32)
