"""Models of Everlearn as models of River: dicts come in, one at a time or as a frame of pandas.

Features may appear and vanish, and labels need not be known before. They work in River's pipelines, metrics and
evaluations. A pickle of one holds the spec and the arrays of its model, and no code of ours.

>>> from river import datasets, evaluate, metrics
>>> metric = evaluate.progressive_val_score(datasets.Phishing(), EverlearnOnlineClassifier(), metrics.Accuracy())
>>> metric.get() > 0.9
True
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from everlearn import model as contract
from everlearn.bridges.dicts import DictModel
from everlearn.errors import MissingExtra

try:
    from river.base import MiniBatchClassifier, MiniBatchRegressor
except ImportError as error:
    raise MissingExtra("a model of River", "river") from error

if TYPE_CHECKING:
    import pandas as pd


class EverlearnOnlineClassifier(MiniBatchClassifier):
    """A classifier of River over a model of any family.

    Parameters
    ----------
    model
        The name of a family ("auto", "linear", "forest", ...), or a spec such as `{"family": "forest", "trees": 30}`.
    seed
        The seed of the model, where the spec has none.

    """

    def __init__(self, model: str | Mapping[str, Any] = "auto", seed: int = 0) -> None:
        self.model = model
        self.seed = seed
        self._learner = DictModel(_spec(model, seed), classes=True)

    @property
    def _multiclass(self) -> bool:
        return True

    def learn_one(self, x: dict[Any, Any], y: Any, w: float = 1.0) -> None:
        """Learn a dict of features with its label, of weight w."""
        self._learner.learn([x], [y], [w])

    def predict_proba_one(self, x: dict[Any, Any], **kwargs: Any) -> dict[Any, float]:
        """Return the probability of each label known so far; an empty dict before the first one."""
        shares = self._learner.shares([x])[0].tolist()
        return dict(zip(self._learner.labels, shares, strict=True))

    def learn_many(self, X: pd.DataFrame, y: pd.Series) -> None:
        """Learn the rows of a frame, in order."""
        self._learner.learn(_records(X), y.tolist())

    def predict_proba_many(self, X: pd.DataFrame) -> pd.DataFrame:
        """Return the probabilities of each row, with a column for each label."""
        import pandas

        shares = self._learner.shares(_records(X))
        return pandas.DataFrame(shares, index=X.index, columns=pandas.Index(self._learner.labels, dtype=object))


class EverlearnOnlineRegressor(MiniBatchRegressor):
    """A regressor of River over a model of any family.

    Parameters
    ----------
    model
        The name of a family ("auto", "linear", "forest", ...), or a spec such as `{"family": "forest", "trees": 30}`.
    seed
        The seed of the model, where the spec has none.

    """

    def __init__(self, model: str | Mapping[str, Any] = "auto", seed: int = 0) -> None:
        self.model = model
        self.seed = seed
        self._learner = DictModel(_spec(model, seed), classes=False)

    def learn_one(self, x: dict[Any, Any], y: float, w: float = 1.0) -> None:
        """Learn a dict of features with its number, of weight w."""
        self._learner.learn([x], [y], [w])

    def predict_one(self, x: dict[Any, Any]) -> float:
        """Return the predicted number; 0 before the first label."""
        return float(self._learner.scores([x])[0, 0])

    def learn_many(self, X: pd.DataFrame, y: pd.Series) -> None:
        """Learn the rows of a frame, in order."""
        self._learner.learn(_records(X), y.tolist())

    def predict_many(self, X: pd.DataFrame) -> pd.Series:
        """Return the predicted number of each row."""
        import pandas

        return pandas.Series(self._learner.scores(_records(X))[:, 0].astype(float), index=X.index)


def _spec(model: str | Mapping[str, Any], seed: int) -> dict[str, Any]:
    spec: dict[str, Any] = dict(model) if isinstance(model, Mapping) else {"family": model}
    return {"seed": seed, **spec} if contract.family_of(spec) in contract.FAMILIES else spec


def _records(frame: pd.DataFrame) -> list[dict[Any, Any]]:
    """Return the rows of a frame as dicts."""
    columns = [frame[name].tolist() for name in frame.columns]
    return [dict(zip(frame.columns, row, strict=True)) for row in zip(*columns, strict=True)]
