"""Forecasters: their arrays, the checks of a batch, and the calls of kernels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from everlearn.families import batches
from everlearn.families.batches import Labels, Rows
from everlearn.families.forecast import combining, kernels, periods, regression, series, settings
from everlearn.families.forecast.rows import PENDING, TRACE, UNKNOWN
from everlearn.families.forecast.settings import EXPERTS, HORIZONS, ForecastSettings
from everlearn.model import described
from everlearn.records import Arrays, Batch, Floats, Ints, Singles
from everlearn.schema import moments

_STATE = (
    *("clock", "keys", "stamps", "values", "present", "levels", "smooth", "shares", "weights", "offsets", "errors"),
    "horizons",
)
_LEARNING = ("gaps", "inverses", "pending", "due", "served", "losses")


class Forecast:
    """A forecaster of one or more series, which learns one row at a time.

    The horizon of a row is the number of periods from the newest learned number of its series to the row's time. Its
    trace is the forecast, the bounds of its interval and the horizon, so that a late number is compared with the
    interval that was given.

    Arrays, for S series of a history of H periods, and G horizons: `clock` int64 (8,), `keys` int64 (S,), `stamps`
    int64 (S, 4), `values` float64 (S, H), `present` uint8 (S, H), `levels` float64 (S, 4), `smooth` float64 (S, 3,
    514), `shares` float64 (G, 7), `weights` float64 (G, 20), `offsets` float64 (G, 3), `errors` float64 (G, 2) and
    `horizons` int64 (G,). Only learning needs `learn/gaps` int64 (8,), `learn/inverses` float64 (G, 20, 20),
    `learn/pending` float64 (S, P, 11) and `learn/due` int64 (S, P), the forecasts that wait for their numbers, and
    `learn/served` float64 (G, 2): rows learned with a trace, and those within their interval; `learn/losses` float64
    (G, 7) of the experts.
    """

    trace = TRACE
    bounds = (1, 2)  # the places of the bounds of the interval in the trace

    def __init__(self, spec: dict[str, Any], chosen: ForecastSettings) -> None:
        self.spec: Mapping[str, Any] = spec
        self.loss = settings.own_loss(chosen)
        self._columns, self._hashed, self._clock = chosen.dense, chosen.hashed, chosen.clock
        share = chosen.loss_parameter if chosen.loss == "quantile" else 0.5
        reach = NormalDist().inv_cdf(0.5 + 0.5 * chosen.level) * math.sqrt(0.5 * math.pi)  # in mean errors
        self._settings = np.array([chosen.level, share, chosen.season, reach])
        self._arrays = _arrays(chosen)

    def __repr__(self) -> str:
        return described(self)

    @property
    def arrays(self) -> Arrays:
        return self._arrays

    @arrays.setter
    def arrays(self, arrays: Arrays) -> None:
        self._arrays = self._arrays | arrays

    def predict(self, batch: Batch) -> Singles:
        """Forecast n rows, float32 (n, 1). Raises `InputError` if the batch does not fit the model."""
        return np.ascontiguousarray(self._scored(batch)[:, :1])

    def predict_traced(self, batch: Batch) -> tuple[Singles, Singles]:
        """Forecast n rows, and return their trace, float32 (n, 4): forecast, lower and upper bound, horizon."""
        found = self._scored(batch)
        return np.ascontiguousarray(found[:, :1]), found

    def interval(self, batch: Batch) -> Singles:
        """Return the bounds within which the share `level` of the numbers falls, float32 (n, 2).

        Raises `InputError` if the batch does not fit the model.
        """
        return np.ascontiguousarray(self._scored(batch)[:, 1:3])

    def learn(self, batch: Batch, y: Floats, weight: Singles, trace: Singles | None = None) -> Singles:
        """Forecast and then learn each of n rows, in order; return the forecasts, as `predict` does.

        A row with a label that is not finite, or a weight that is not a finite number above 0, is only forecast; other
        weights count as 1. Raises `InputError`, with nothing learned, if the batch does not fit.
        """
        rows = batches.rows(batch, self._columns)
        given = np.zeros((0, TRACE), np.float32) if trace is None else np.ascontiguousarray(trace, np.float32)

        def kernel(rows: Rows, labels: Labels, out: Singles) -> int:
            held = self._arrays
            state = (self._state(), *(held[f"learn/{name}"] for name in _LEARNING))
            batch_rows = (self._minutes(rows[0]), *rows[1:], *labels, given)
            return kernels.learner()(self._hashed, self._settings, *state, *batch_rows, out)

        return np.ascontiguousarray(batches.learned(rows, y, weight, TRACE, self._hashed, kernel)[:, :1])

    def coverage(self) -> Floats:
        """Return horizon, rows learned with a trace, and those within the interval given, float64 (horizons, 3)."""
        return np.column_stack([self._arrays["horizons"], self._arrays["learn/served"]])

    def _scored(self, batch: Batch) -> Singles:
        def kernel(rows: Rows, out: Singles) -> int:
            return kernels.predictor()(self._hashed, self._state(), self._minutes(rows[0]), *rows[1:], out)

        return batches.predicted(batches.rows(batch, self._columns), TRACE, self._hashed, kernel)

    def _minutes(self, dense: Singles) -> Ints:
        """Return the minutes since 1970 of n rows; unknown where the time is missing, not finite, or far out."""
        if self._clock < 0:
            return np.full(len(dense), UNKNOWN)
        time = dense[:, self._clock : self._clock + 5]
        usable: NDArray[np.bool_] = np.all(np.abs(time) < 1e4, axis=1)
        return np.where(usable, moments.minutes(np.where(usable[:, None], time, 0.0).astype(np.float32), 0), UNKNOWN)

    def _state(self) -> tuple[NDArray[Any], ...]:
        return tuple(self._arrays[name] for name in _STATE)


def _arrays(chosen: ForecastSettings) -> Arrays:
    """Return the arrays of an untrained forecaster."""
    groups, slots, waiting = len(HORIZONS), chosen.series, sum(HORIZONS)
    uses = np.array(settings.USES[chosen.method])
    shares, weights = np.zeros((groups, EXPERTS)), np.zeros((groups, regression.INPUTS))
    shares[:, uses] = 1.0 / len(uses)
    weights[:, regression.SEASONAL] = 1.0
    stamps = np.zeros((slots, series.STAMPS), np.int64)
    stamps[:, series.NEWEST], stamps[:, series.MINUTE] = -1, UNKNOWN
    arrays: Arrays = {
        "clock": np.zeros(periods.CLOCK + 1, np.int64),
        "keys": np.full(slots, series.FREE, np.int64),
        "stamps": stamps,
        "values": np.zeros((slots, chosen.history)),
        "present": np.zeros((slots, chosen.history), np.uint8),
        "levels": np.zeros((slots, series.LEVELS)),
        "smooth": np.zeros((slots, 3, 2 + periods.LONGEST)),
        "shares": shares,
        "weights": weights,
        "offsets": np.zeros((groups, combining.OFFSETS)),
        "errors": np.zeros((groups, 2)),
        "horizons": np.array(HORIZONS, np.int64),
        "learn/gaps": np.zeros(periods.GAPS, np.int64),
        "learn/inverses": np.tile(np.eye(regression.INPUTS), (groups, 1, 1)),
        "learn/pending": np.zeros((slots, waiting, PENDING)),
        "learn/due": np.full((slots, waiting), series.FREE, np.int64),
        "learn/served": np.zeros((groups, 2)),
        "learn/losses": np.zeros((groups, EXPERTS)),
    }
    clock = arrays["clock"]
    clock[[periods.FIRST, periods.SECOND, periods.SMOOTHED]] = 1
    if chosen.clock < 0 or chosen.period:
        kernels.begin(chosen.period or 1, chosen.season, chosen.history, chosen.clock >= 0, clock)
    return arrays


def build(spec: Mapping[str, Any]) -> Forecast:
    """Make an untrained forecaster; see `everlearn.families.forecast.settings.ForecastSettings`.

    Raises `ConfigError` for an unknown setting or a wrong value.

    >>> from everlearn.records import Batch
    >>> model = build({"family": "forecast", "task": "regression", "dense": 0, "season": 12})
    >>> rows = Batch(np.zeros((600, 0), np.float32), np.zeros(601, np.int64), np.zeros(0, np.int32), np.zeros(0, "f4"))
    >>> y = 10.0 + np.sin(np.arange(600) * 2.0 * np.pi / 12)
    >>> forecasts = model.learn(rows, y, np.ones(600, np.float32))[:, 0]
    >>> float(abs(forecasts - y)[300:].max()) < 0.2
    True
    """
    chosen = settings.read(spec)
    return Forecast(settings.written(chosen), chosen)
