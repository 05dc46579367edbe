"""Functions that make models of other libraries, and pickles that would run code."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from river import linear_model, preprocessing
from sklearn.linear_model import SGDClassifier

TREE = {"family": "foreign", "model": "river.tree:HoeffdingTreeClassifier", "trusted": True, "bytes": 1 << 20}
SGD = {
    "family": "foreign",
    "model": "sklearn.linear_model:SGDClassifier",
    "arguments": {"loss": "log_loss"},
    "trusted": True,
    "bytes": 1 << 16,
}


def scaled(rate: float = 0.0) -> Any:
    """Return a pipeline of River."""
    return preprocessing.StandardScaler() | linear_model.LogisticRegression(l2=rate)


def regression() -> Any:
    """Return a pipeline of River that predicts numbers."""
    return preprocessing.StandardScaler() | linear_model.LinearRegression()


def plain_sgd() -> Any:
    """Return a model of scikit-learn without probabilities."""
    return SGDClassifier(loss="hinge", random_state=0)


class Grows:
    """A model of the form of River that keeps every row."""

    def __init__(self) -> None:
        self.rows: list[Any] = []

    def learn_one(self, x: Any, y: Any) -> None:
        self.rows.append((x, y))

    def predict_one(self, x: Any) -> Any:
        return None

    def predict_proba_one(self, x: Any) -> Any:
        return {}


class Bomb:
    """An object whose pickle makes the file that PICKLE_BOMB names."""

    def __reduce__(self) -> Any:
        return Path.touch, (Path(os.environ["PICKLE_BOMB"]),)


def nothing() -> None:
    """Return no model."""
