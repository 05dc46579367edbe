"""Forecasts of a stream by horizon, from a rolling origin: each is made before the numbers in between are learned.

    forecasts(model, stream, horizons=(1, 24), season=24) -> Forecasts: MASE, sMAPE, pinball loss, coverage by horizon

After each row the model forecasts the rows that come `h` later in the same series, and then learns the next row. So a
forecast of horizon h is made from numbers that are h rows old, never from the one before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from everlearn import model as models
from everlearn.errors import InputError
from everlearn.evaluate.scoring import model_of
from everlearn.model import Model
from everlearn.records import Batch, Examples, Floats, Ints
from everlearn.schema import shape
from everlearn.stream import Stream

LEVEL = 0.9  # of intervals, unless the model has another


class HorizonScores(NamedTuple):
    """The scores of one horizon.

    `mase` is the mean absolute error, and `naive` that of seasonal naive forecasts as far ahead, both in units of the
    mean distance of numbers one season apart (Hyndman and Koehler 2006). `smape` is in percent. `pinball` is the mean
    pinball loss of the two bounds in the same units as `mase`; NaN without intervals, as are `coverage`, the share of
    numbers within the interval, and `width`, its mean width in these units.
    """

    horizon: int
    rows: int
    mase: float
    naive: float
    smape: float
    pinball: float
    coverage: float
    width: float


@dataclass(frozen=True, slots=True)
class Forecasts:
    """The scores of a model by horizon, and its forecasts: float64 (n, horizons), NaN where there is none."""

    scores: tuple[HorizonScores, ...]
    forecasts: Floats
    bounds: Floats
    y: Floats

    def table(self) -> str:
        """Return the scores as a table of text."""
        lines = [
            f"{'horizon':>8}{'rows':>9}{'MASE':>8}{'naive':>8}{'sMAPE':>8}{'pinball':>9}{'coverage':>10}{'width':>8}"
        ]
        for one in self.scores:
            if not one.rows:
                lines.append(f"{one.horizon:8d}{one.rows:9,d}  no row to score: the series are too short")
                continue
            numbers = (
                f"{one.mase:8.3f}{one.naive:8.3f}{one.smape:8.2f}{one.pinball:9.3f}{one.coverage:10.3f}{one.width:8.3f}"
            )
            lines.append(f"{one.horizon:8d}{one.rows:9,d}{numbers}")
        return "\n".join(lines)


def forecasts(
    model: Model | Mapping[str, Any] | str,
    stream: Stream | Examples,
    horizons: Sequence[int] | int = (1, 24),
    season: int = 1,
    after: int | None = None,
) -> Forecasts:
    """Forecast a stream from a rolling origin, and learn it.

    `model` is a model, a spec, or the name of a family. Rows of a stream are in time order; those with equal hashed
    entries are one series. `season` is that of the seasonal naive forecasts, in rows of a series (1: the last number).
    The first `after` rows of each series (default: two seasons, at least 16) are learned and not scored. A model with a
    method `interval` also gets the scores of intervals.

    Raises `InputError` for horizons or a season below 1, and for a model that does not answer with numbers.

    >>> from everlearn.stream import read
    >>> hours = np.arange(24 * 40)
    >>> at = [str(np.datetime64("2026-01-01T00:00") + np.timedelta64(int(hour), "h")) for hour in hours]
    >>> wave = 20.0 + 5.0 * np.sin(hours * 2 * np.pi / 24) + np.random.default_rng(0).normal(size=len(hours))
    >>> stream = read({"at": at, "load": wave}, label="load", task="regression")
    >>> found = forecasts(models.build({"family": "forecast"}), stream, horizons=(1, 24), season=24)
    >>> [one.mase < one.naive for one in found.scores]
    [True, True]
    """
    horizons = (horizons,) if isinstance(horizons, int) else tuple(horizons)
    counts = (*horizons, season)
    if not horizons or not all(isinstance(one, int | np.integer) and one >= 1 for one in counts):
        raise InputError(
            f"forecasts: got horizons {list(horizons)} and season {season}; expected whole numbers from 1, in rows of "
            "a series"
        )
    model = model_of(model, shape(stream.schema) if isinstance(stream, Stream) else {})
    examples = _examples(stream)
    rows = chains(examples.batch)
    n, y = len(examples.y), examples.y
    made, bounds = np.full((n, len(horizons)), np.nan), np.full((n, len(horizons), 2), np.nan)
    interval = getattr(model.built if isinstance(model, models.Deferred) else model, "interval", None)
    for row in range(n):
        part = models.cut(examples, row, row + 1)
        model.learn(part.batch, part.y, part.weight)
        ahead = [(k, rows.later(row, h)) for k, h in enumerate(horizons)]
        ahead = [(k, at) for k, at in ahead if at >= 0]
        if not ahead:
            continue
        batch = models.stack([models.row_slice(examples.batch, at, at + 1) for _, at in ahead])
        answers = model.predict(batch)
        if answers.shape[1] != 1:
            raise InputError(f"forecasts: got a model that answers with {answers.shape[1]} columns; expected a number")
        places = [at for _, at in ahead], [k for k, _ in ahead]
        made[places] = answers[:, 0]
        if interval is not None:
            bounds[places] = interval(batch)
    level = float(model.spec.get("level", LEVEL))
    skipped = max(2 * season, 16) if after is None else after
    scores = [scored(h, y, made[:, k], bounds[:, k], rows, season, skipped, level) for k, h in enumerate(horizons)]
    return Forecasts(tuple(scores), made, bounds, y)


@dataclass(frozen=True, slots=True)
class Chains:
    """The series of some rows: the rows of each in order, and the series and the place in it of each row."""

    series: tuple[Ints, ...]
    of: Ints
    place: Ints

    def later(self, row: int, steps: int) -> int:
        """Return the row `steps` later in the same series; -1 where there is none."""
        rows, at = self.series[self.of[row]], int(self.place[row]) + steps
        return int(rows[at]) if 0 <= at < len(rows) else -1


def chains(batch: Batch) -> Chains:
    """Return the series of n rows: rows with the same hashed entries are one."""
    keys: dict[bytes, list[int]] = {}
    for row in range(len(batch)):
        entries = np.sort(batch.indices[batch.indptr[row] : batch.indptr[row + 1]])
        keys.setdefault(entries.tobytes(), []).append(row)
    of, place = np.zeros(len(batch), np.int64), np.zeros(len(batch), np.int64)
    for number, rows in enumerate(keys.values()):
        of[rows], place[rows] = number, np.arange(len(rows))
    return Chains(tuple(np.array(rows, np.int64) for rows in keys.values()), of, place)


def scored(
    horizon: int, y: Floats, made: Floats, bounds: Floats, rows: Chains, season: int, after: int, level: float
) -> HorizonScores:
    """Return the scores of the forecasts `made`, float64 (n,), of one horizon, with bounds float64 (n, 2)."""
    back = season * (-(-horizon // season))
    naive = np.array([y[at] if (at := rows.later(row, -back)) >= 0 else np.nan for row in range(len(y))])
    before = np.array([y[at] if (at := rows.later(row, -season)) >= 0 else np.nan for row in range(len(y))])
    apart = np.abs(y - before)[np.isfinite(before)]
    unit = (float(apart.mean()) if len(apart) else 0.0) or 1.0
    used = np.isfinite(made) & np.isfinite(naive) & (rows.place >= after + horizon)
    y, made, naive, bounds = y[used], made[used], naive[used], bounds[used]
    if not len(y):
        return HorizonScores(horizon, 0, *[np.nan] * 6)
    size = np.abs(y) + np.abs(made)
    smape = 200.0 * float(np.mean(np.divide(np.abs(y - made), size, out=np.zeros(len(y)), where=size > 0)))
    outside = 0.5 * (1.0 - level)
    losses = [_pinball(y - bounds[:, 0], outside), _pinball(y - bounds[:, 1], 1.0 - outside)]
    inside = (bounds[:, 0] <= y) & (y <= bounds[:, 1])
    known = bool(np.isfinite(bounds).all())
    return HorizonScores(
        horizon,
        len(y),
        float(np.mean(np.abs(y - made))) / unit,
        float(np.mean(np.abs(y - naive))) / unit,
        smape,
        0.5 * sum(losses) / unit,
        float(inside.mean()) if known else np.nan,
        float(np.mean(bounds[:, 1] - bounds[:, 0])) / unit,
    )


def _pinball(away: Floats, share: float) -> float:
    """Return the mean pinball loss of numbers `away` above the quantile `share`."""
    return float(np.mean(np.where(away > 0.0, share * away, (share - 1.0) * away)))


def _examples(stream: Stream | Examples) -> Examples:
    """Return all rows of a stream."""
    if isinstance(stream, Examples):
        return stream
    parts = [chunk.examples for chunk in stream.chunks()]
    return Examples(
        models.stack([part.batch for part in parts]),
        np.concatenate([part.y for part in parts]),
        np.concatenate([part.weight for part in parts]),
        np.concatenate([part.position for part in parts]),
    )
