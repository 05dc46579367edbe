"""Models of Everlearn as estimators of scikit-learn.

`fit` forgets what was learned and shuffles the rows; `partial_fit` goes on, in the order of the rows. Estimators take
arrays, sparse matrices and data frames of any library, also with text; missing values need no imputer. A pickle of an
estimator holds the spec and the arrays of its model, and no code.

>>> from sklearn.datasets import load_breast_cancer
>>> from sklearn.model_selection import cross_val_score
>>> x, y = load_breast_cancer(return_X_y=True)
>>> bool(cross_val_score(EverlearnClassifier("linear"), x, y).mean() > 0.95)
True
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np

from everlearn import model as contract
from everlearn.bridges import rows
from everlearn.errors import MissingExtra
from everlearn.model import Model, restore
from everlearn.records import Batch, Floats, Singles
from everlearn.schema import shape
from everlearn.spec import Schema

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
    from sklearn.utils import check_random_state
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import _check_sample_weight, check_is_fitted, column_or_1d, validate_data
except ImportError as error:
    raise MissingExtra("an estimator of scikit-learn", "sklearn") from error

BLOCK = 8192  # rows that a model learns in one call


class EverlearnClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A classifier of scikit-learn over a model of any family.

    `model` is the name of a family ("auto", "linear", "forest", "mondrian", ...) or a spec such as
    `{"family": "forest", "trees": 30}`. `fit` learns the rows `passes` times, each time in another order unless
    `shuffle` is false. Fitted attributes: `classes_`, `n_features_in_`, `feature_names_in_` for a data frame, and
    `model_`, the model itself.

    >>> frame = {"age": [20.0, 70.0] * 50, "town": ["Delft", "Ghent"] * 50}
    >>> import polars
    >>> learner = EverlearnClassifier("linear").fit(polars.DataFrame(frame), ["young", "old"] * 50)
    >>> learner.predict(polars.DataFrame({"age": [25.0], "town": ["Delft"]})).tolist()
    ['young']
    """

    def __init__(
        self,
        model: str | Mapping[str, Any] = "auto",
        *,
        passes: int = 1,
        shuffle: bool = True,
        random_state: int | None = 0,
    ) -> None:
        self.model = model
        self.passes = passes
        self.shuffle = shuffle
        self.random_state = random_state

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> EverlearnClassifier:
        """Learn n rows, (n, features), with their labels, (n,), from the start. Raises ValueError for bad input."""
        x, y, weight = _checked(self, X, y, sample_weight, reset=True)
        y = _labels_of(y)
        self.classes_ = np.unique(y)
        _start(self, x, y, len(self.classes_))
        order = np.searchsorted(self.classes_, y).astype(np.float64)
        _learn_all(self, _batch(self, x), order, weight)
        return self

    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> EverlearnClassifier:
        """Learn n more rows, in their order. The first call names all `classes`, unless its rows have them all.

        Raises ValueError for bad input, and for a label that is not among the classes.
        """
        first = not _is_fitted(self)
        x, y, weight = _checked(self, X, y, sample_weight, reset=first)
        y = _labels_of(y)
        if first:
            self.classes_ = np.unique(y if classes is None else np.asarray(classes))
        elif classes is not None and not np.array_equal(np.unique(np.asarray(classes)), self.classes_):
            raise ValueError(
                f"classes: got {np.unique(np.asarray(classes)).tolist()}; expected {self.classes_.tolist()}, those of "
                "the first call of partial_fit. Leave them out, or call fit"
            )
        place = np.minimum(np.searchsorted(self.classes_, y), len(self.classes_) - 1)
        if (unknown := self.classes_[place] != y).any():
            raise ValueError(
                f"y: got label {y[unknown].tolist()[0]!r}; expected one of {self.classes_.tolist()}. Name all "
                "classes in the first call: partial_fit(X, y, classes=...)"
            )
        if first:
            _start(self, x, y, len(self.classes_))
        _learn(self, _batch(self, x), place.astype(np.float64), weight)
        return self

    def predict_proba(self, X: Any) -> Floats:
        """Return the probability of each class of `classes_`, float64 (n, classes)."""
        scores = _scores(self, X).astype(np.float64)[:, : len(self.classes_)]
        proba: Floats = scores / scores.sum(axis=1, keepdims=True)
        return proba

    def predict(self, X: Any) -> Any:
        """Return the likeliest class of each row, (n,)."""
        proba = self.predict_proba(X)
        return self.classes_[proba.argmax(axis=1)]

    def __getstate__(self) -> dict[str, Any]:
        return _state(self, super().__getstate__())

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(_restored(state))

    def __sklearn_tags__(self) -> Any:
        return _with_tags(super().__sklearn_tags__())


class EverlearnRegressor(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """A regressor of scikit-learn over a model of any family; see `EverlearnClassifier` for the settings.

    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.model_selection import cross_val_score
    >>> x, y = load_diabetes(return_X_y=True)
    >>> bool(cross_val_score(EverlearnRegressor("linear"), x, y).mean() > 0.4)
    True
    """

    def __init__(
        self,
        model: str | Mapping[str, Any] = "auto",
        *,
        passes: int = 1,
        shuffle: bool = True,
        random_state: int | None = 0,
    ) -> None:
        self.model = model
        self.passes = passes
        self.shuffle = shuffle
        self.random_state = random_state

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> EverlearnRegressor:
        """Learn n rows, (n, features), with their numbers, (n,), from the start. Raises ValueError for bad input."""
        x, y, weight = _checked(self, X, y, sample_weight, reset=True)
        y = _numbers_of(y)
        _start(self, x, y, 0)
        _learn_all(self, _batch(self, x), y, weight)
        return self

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> EverlearnRegressor:
        """Learn n more rows, in their order. Raises ValueError for bad input."""
        first = not _is_fitted(self)
        x, y, weight = _checked(self, X, y, sample_weight, reset=first)
        y = _numbers_of(y)
        if first:
            _start(self, x, y, 0)
        _learn(self, _batch(self, x), y, weight)
        return self

    def predict(self, X: Any) -> Floats:
        """Return the predicted number of each row, float64 (n,)."""
        return _scores(self, X)[:, 0].astype(np.float64)

    def __getstate__(self) -> dict[str, Any]:
        return _state(self, super().__getstate__())

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(_restored(state))

    def __sklearn_tags__(self) -> Any:
        return _with_tags(super().__sklearn_tags__())


Estimator = EverlearnClassifier | EverlearnRegressor


def _is_fitted(estimator: Estimator) -> bool:
    return "model_" in vars(estimator)


def _checked(estimator: Estimator, x: Any, y: Any, weight: Any, reset: bool) -> tuple[Any, Any, Singles]:
    """Return rows, labels and weights, checked by scikit-learn; a frame with text stays as it is.

    With `reset`, number and names of the features are those of these rows.
    """
    if y is None:
        validate_data(estimator, x, y, reset=reset)  # which says that y is required
    if rows.has_text(x):
        validate_data(estimator, x, reset=reset, skip_check_array=True)
        y = column_or_1d(y, warn=True)
        if len(y) != len(x):
            raise ValueError(f"y: got {len(y)} labels for {len(x)} rows; expected one for each")
    else:
        kinds = [np.float64, np.float32]
        x, y = validate_data(
            estimator, x, y, reset=reset, accept_sparse="csr", dtype=kinds, ensure_all_finite="allow-nan"
        )
        y = column_or_1d(y, warn=True)
    if weight is None:
        return x, y, np.ones(len(y), np.float32)
    weight = _check_sample_weight(weight, np.zeros((len(y), 1)), dtype=np.float32, ensure_non_negative=True)
    if not weight.any():
        raise ValueError("sample_weight: got only zeros; expected at least one weight that is not zero")
    return x, y, weight


def _labels_of(y: Any) -> Any:
    check_classification_targets(y)
    return y


def _numbers_of(y: Any) -> Floats:
    numbers: Floats = np.asarray(y, np.float64)
    if not np.isfinite(numbers).all():
        raise ValueError("y: got NaN or infinity; expected finite numbers")
    return numbers


def _start(estimator: Estimator, x: Any, y: Any, classes: int) -> None:
    """Build an untrained model for rows like these; `classes` is 0 for a regression."""
    given = estimator.model
    spec: dict[str, Any] = dict(given) if isinstance(given, Mapping) else {"family": given}
    if contract.family_of(spec) in contract.FAMILIES:
        seed = check_random_state(estimator.random_state).randint(np.iinfo(np.int32).max)
        spec.setdefault("seed", int(seed))
    known = {"task": "regression", "classes": 0}
    if classes:
        known = {"task": "binary" if classes <= 2 else "multiclass", "classes": max(classes, 2)}
    estimator.schema_ = None
    if rows.has_text(x):
        estimator.schema_ = rows.schema_of(x, y, classes > 0)
        inputs = shape(estimator.schema_)
        known |= {"dense": inputs["dense"], "hashed": inputs["hashed"]}
    elif callable(getattr(x, "tocsr", None)):
        known |= {"dense": 0, "hashed": x.shape[1]}
    else:
        known |= {"dense": x.shape[1], "hashed": 0}
    estimator.model_ = contract.build(spec, known)


def _batch(estimator: Estimator, x: Any) -> Batch:
    """Return checked rows as the batch that the estimator's model takes."""
    if estimator.schema_ is not None:
        return rows.encoded(estimator.schema_, x)
    sparse = callable(getattr(x, "tocsr", None))
    if estimator.model_.spec["dense"]:
        return rows.dense_batch(x.toarray() if sparse else x)
    if not sparse:
        from scipy.sparse import csr_array

        x = csr_array(x)
    return rows.sparse_batch(x)


def _learn_all(estimator: Estimator, batch: Batch, y: Floats, weight: Singles) -> None:
    """Learn all rows as often as `passes` says, in random orders."""
    if isinstance(estimator.passes, bool) or not isinstance(estimator.passes, int) or estimator.passes < 1:
        raise ValueError(f"passes: got {estimator.passes!r}; expected a whole number from 1")
    random = check_random_state(estimator.random_state)
    for _ in range(estimator.passes):
        order = random.permutation(len(y)) if estimator.shuffle else np.arange(len(y))
        _learn(estimator, _ordered(batch, order), y[order], weight[order])


def _ordered(batch: Batch, order: Any) -> Batch:
    """Return the rows of a batch in another order."""
    lengths = np.diff(batch.indptr)[order]
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    places = np.repeat(batch.indptr[:-1][order] - indptr[:-1], lengths) + np.arange(indptr[-1])
    return Batch(batch.dense[order], indptr, batch.indices[places], batch.values[places])


def _learn(estimator: Estimator, batch: Batch, y: Floats, weight: Singles) -> None:
    for start in range(0, len(y), BLOCK):
        stop = min(start + BLOCK, len(y))
        part = contract.row_slice(batch, start, stop)
        estimator.model_.learn(part, y[start:stop], weight[start:stop])


def _scores(estimator: Estimator, x: Any) -> Singles:
    """Return what the model predicts for rows, which are checked first."""
    check_is_fitted(estimator)
    if estimator.schema_ is not None:
        validate_data(estimator, x, reset=False, skip_check_array=True)
    else:
        kinds = [np.float64, np.float32]
        x = validate_data(estimator, x, reset=False, accept_sparse="csr", dtype=kinds, ensure_all_finite="allow-nan")
    model: Model = estimator.model_
    return model.predict(_batch(estimator, x))


def _state(estimator: Estimator, state: dict[str, Any]) -> dict[str, Any]:
    """Return what a pickle holds: settings, and of the model its spec and arrays."""
    state = dict(state)
    if "model_" in state:
        model: Model = state.pop("model_")
        state["model_spec"], state["model_arrays"] = dict(model.spec), contract.copied(model.arrays)
        state["schema_"] = None if state["schema_"] is None else msgspec.to_builtins(state["schema_"])
    return state


def _restored(state: dict[str, Any]) -> dict[str, Any]:
    """Return the attributes of an estimator from what a pickle holds."""
    state = dict(state)
    if "model_spec" in state:
        model = contract.build(state.pop("model_spec"))
        restore(model, state.pop("model_arrays"))
        state["model_"] = model
        state["schema_"] = None if state["schema_"] is None else msgspec.convert(state["schema_"], Schema)
    return state


def _with_tags(tags: Any) -> Any:
    """Say what estimators take: missing values, sparse matrices, and text in data frames."""
    tags.input_tags.allow_nan = True
    tags.input_tags.sparse = True
    return tags
