"""The bandit: its arrays, the checks of a batch, and the calls of kernels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from everlearn.errors import InputError
from everlearn.families import batches, specs
from everlearn.families.bandit import kernels, settings
from everlearn.families.bandit.settings import HASHED_VARIANCE, PRIOR_VARIANCE, BanditSettings, full
from everlearn.families.batches import Labels, Rows
from everlearn.model import described
from everlearn.records import Arrays, Batch, Floats, Loss, Singles

UNWANTED = np.empty((0, 0), np.float32)  # the place of a result that the caller does not want
NAMES = ("weights", "covariance", "hashed", "shared", "shared_covariance", "moments", "counts")


class Bandit:
    """A contextual bandit with a linear model of the reward of each action.

    A row has the record's columns, then for each action `available` and its features, then the served action and its
    propensity (NaN where unknown). `learn` "mtr" fits the reward of the served action; a row weighs one over its
    propensity, 2 at most (importance-weighted regression: Bietti, Agarwal & Langford 2021, "A contextual bandit
    bake-off", sec. 2.3). "ips" fits every action: the served one to its reward over its propensity, the others to the
    lowest reward. "dr" fits every action to the doubly robust estimate (Dudik, Langford & Li 2011), with a second model
    of rewards whose rows all weigh alike. For both, one over a propensity counts as 100 at most, which biases them
    where propensities below 0.01 occur.

    Arrays: `weights` float64 (models, actions, d + 1), the intercept last; `covariance` float64 (models, actions,
    d + 1 or 1, d + 1), in units of the noise; `hashed` float32 (models, hash space, actions, 2), weight and variance;
    `shared` and `shared_covariance` the same of the weights that actions share; `moments` float64 (3, d + m): count,
    mean and squared deviations of the columns; `counts` float64 (3 + actions,): rows learned, squared errors, their
    weight, and the rows at which each action was last learned.
    There are 2 models for "dr" (the second is the one of rewards), else 1.
    """

    trace = 2

    def __init__(self, spec: dict[str, Any], chosen: BanditSettings) -> None:
        self.spec: Mapping[str, Any] = spec
        self.loss = Loss("squared")
        self._settings = settings.kernel_settings(chosen)
        self._columns, self._hashed, self._actions = chosen.dense, chosen.hashed, chosen.actions
        models, width, shared = (2 if chosen.learn == "dr" else 1), chosen.columns + 1, chosen.shared
        self.arrays: Arrays = {
            "weights": np.zeros((models, chosen.actions, width)),
            "covariance": _covariance((models, chosen.actions), width, models * chosen.actions),
            "hashed": np.zeros((models, chosen.hashed, chosen.actions, 2), np.float32),
            "shared": np.zeros((models, shared)),
            "shared_covariance": _covariance((models,), shared, models),
            "moments": np.zeros((3, chosen.columns + chosen.action_features)),
            "counts": np.array([0.0, 0.25, 1.0] + [0.0] * chosen.actions),
        }
        self.arrays["hashed"][..., 1] = HASHED_VARIANCE

    def __repr__(self) -> str:
        return described(self)

    def predict(self, batch: Batch) -> Singles:
        """Return the expected reward of each row's action, or of the best one where it has none, float32 (n, 1).

        Raises `InputError` if the batch does not fit the model.
        """
        return self._predicted(batch, UNWANTED, UNWANTED)

    def policy(self, batch: Batch) -> Singles:
        """Return the probability of each action in each row, float32 (n, actions); 0 for those not on offer.

        A row in which none is on offer counts as one in which all are.

        Raises `InputError` if the batch does not fit the model.
        """
        found = np.empty((len(batch), self._actions), np.float32)
        self._predicted(batch, found, UNWANTED)
        return found

    def predict_traced(self, batch: Batch) -> tuple[Singles, Singles]:
        """Return the scores of `predict`, and the trace, float32 (n, 2).

        The trace is the probability that this policy gives to the row's action (1 without one), and the reward that is
        expected of the policy: the sum over actions of probability times expected reward.
        """
        trace = np.empty((len(batch), 2), np.float32)
        return self._predicted(batch, UNWANTED, trace), trace

    def learn(self, batch: Batch, y: Floats, weight: Singles, trace: Singles | None = None) -> Singles:
        """Predict and then learn the rewards `y` of n rows, in order; return the predictions, float32 (n, 1).

        A row without an action, a finite reward or a weight above 0 is only predicted. A propensity that is unknown
        counts as 1. The trace is not needed. Raises `InputError`, with nothing learned, if the batch does not fit.
        """
        return batches.learned(self._read(batch), y, weight, 1, self._hashed, self._learn_rows)

    def play(self, batch: Batch, y: Floats, weight: Singles, u: Floats, delay: int = 0) -> Singles:
        """Draw an action for each of n rows and learn its reward: the highest if it is the label y, else the lowest.

        `u` float64 (n,) in [0, 1) decides each draw; a reward is learned after the choice for the row that is `delay`
        rows later. The same bits as calls of `policy` and `learn`. Returns float32 (n, 3): action, its probability, and
        the expected reward of the best action.
        """
        given = self._read(batch)
        (y, weight), out = batches.labels(y, weight, len(batch)), np.empty((len(batch), 3), np.float32)
        u = np.ascontiguousarray(u, np.float64)
        if u.shape != (len(batch),) or delay < 0:
            raise InputError(f"play: got u {u.shape} and delay {delay}; expected ({len(batch)},) and a delay from 0")
        if fault := kernels.player()(self._settings, *self._state(), *given, y, weight, u, delay, out):
            raise batches.refusal(fault, given[2], None, 0, self._hashed)
        return out

    def _read(self, batch: Batch) -> Rows:
        return batches.rows(batch, self._columns)

    def _state(self) -> list[Any]:
        return [self.arrays[name] for name in NAMES]

    def _predicted(self, batch: Batch, policy: Singles, trace: Singles) -> Singles:
        def run(given: Rows, out: Singles) -> int:
            return kernels.predictor()(self._settings, *self._state(), *given, out, policy, trace)

        return batches.predicted(self._read(batch), 1, self._hashed, run)

    def _learn_rows(self, given: Rows, labels: Labels, out: Singles) -> int:
        return kernels.learner()(self._settings, *self._state(), *given, *labels, out)


def _covariance(shape: tuple[int, ...], inputs: int, blocks: int) -> Floats:
    """Return covariances of so many inputs: float64 (*shape, inputs, inputs), or diagonals (*shape, 1, inputs)."""
    if not full(inputs, blocks):
        return np.full((*shape, 1, inputs), PRIOR_VARIANCE)
    return np.broadcast_to(PRIOR_VARIANCE * np.eye(inputs), (*shape, inputs, inputs)).copy()


def build(spec: Mapping[str, Any]) -> Bandit:
    """Make an untrained bandit; see `everlearn.families.bandit.settings.BanditSettings`.

    Raises `ConfigError` for an unknown setting or a wrong value.

    >>> model = build({"dense": 1 + 2 + 2, "actions": 2})
    >>> sign = np.where(np.arange(2000) % 3 == 0, 1.0, -1.0)
    >>> dense = np.column_stack([sign, np.ones((2000, 2)), np.full((2000, 2), np.nan)]).astype(np.float32)
    >>> rows = Batch(dense, np.zeros(2001, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))
    >>> u = np.random.default_rng(0).random(2000)
    >>> played = model.play(rows, (sign > 0).astype(float), np.ones(2000, np.float32), u)
    >>> bool((played[:, 0] == (sign > 0))[200:].mean() > 0.95)
    True
    """
    chosen = settings.read(spec)
    return Bandit(specs.written(chosen, {}), chosen)
