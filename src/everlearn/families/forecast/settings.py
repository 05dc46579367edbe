"""The settings of the family "forecast": read, checked, and completed with their defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from msgspec import Struct

from everlearn.errors import ConfigError
from everlearn.families import specs
from everlearn.records import Loss

HORIZONS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 168)
"""Periods ahead that are learned apart; a horizon in between is forecast like the next longer one."""

SERIES = 64  # by default, where rows have a key
LAST, DAILY, WEEKLY, SMOOTH, REGRESSION, EXPERTS = 0, 1, 2, 3, 6, 7  # experts; three of smoothing
USES = {
    "auto": tuple(range(EXPERTS)),
    "seasonal_naive": (DAILY, WEEKLY),
    "holt_winters": (SMOOTH, SMOOTH + 1, SMOOTH + 2),
    "autoregressive": (REGRESSION,),
}


class ForecastSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The settings of a forecaster.

    `clock` is the dense column where the time of a row starts (-1: none, and rows are one period apart); a schema gives
    it. `method` is "auto" (all, weighted by their errors), "seasonal_naive", "holt_winters" or "autoregressive". The
    hashed entries of a row are the key of its series; `series` are kept at most, the longest unused go first. `period`
    is the distance of rows in minutes (0: found from the first rows, months too), and `season` a number of periods (0:
    day and week, or year). `level` is the share of observations within an interval. `loss` is "absolute" or "quantile",
    of which `loss_parameter` is the share.
    """

    family: Literal["forecast"] = "forecast"
    task: Literal["regression"]
    dense: int
    hashed: int = 0
    classes: int = 0
    clock: int = -1
    method: Literal["auto", "seasonal_naive", "holt_winters", "autoregressive"] = "auto"
    series: int = 0
    history: int = 2048
    period: int = 0
    season: int = 0
    level: float = 0.9
    loss: Literal["absolute", "quantile"] = "absolute"
    loss_parameter: float = 0.5
    seed: int = 0


def read(spec: Mapping[str, Any]) -> ForecastSettings:
    """Check a spec and fill in its defaults.

    Raises `ConfigError`, which names the setting, its value and the right values.

    >>> read({"family": "forecast", "task": "regression", "dense": 5, "clock": 0}).series
    1
    """
    given = dict(spec)
    if given.get("task", "regression") != "regression":
        raise ConfigError(
            f"forecast model: task: got {given['task']!r}; expected 'regression', since a forecast is a number. Give "
            "the schema a numeric label, or choose another family"
        )
    if not given.get("series"):
        given["series"] = SERIES if given.get("hashed") else 1
    settings = specs.convert(given, ForecastSettings, "forecast", {})
    _expect(settings, 0 <= settings.dense < 1 << 24, "dense", "a number of columns from 0 to 16777215")
    _expect(settings, 0 <= settings.hashed < 1 << 31, "hashed", "the size of a hash space, 0 to 2147483647")
    _expect(settings, settings.classes == 0, "classes", "0, since a forecast is a number")
    clocks = f"-1, or the first of five columns of a time, 0 to {max(settings.dense - 5, 0)}"
    _expect(settings, settings.clock == -1 or 0 <= settings.clock <= settings.dense - 5, "clock", clocks)
    _expect(settings, 1 <= settings.series <= 10_000, "series", "1 to 10000")
    _expect(settings, 64 <= settings.history <= 1 << 16, "history", "64 to 65536 periods")
    _expect(settings, 0 <= settings.period <= 600_000, "period", "0 to 600000 minutes")
    _expect(settings, 0 <= settings.season <= settings.history // 2, "season", f"0 to {settings.history // 2} periods")
    _expect(settings, 0.0 < settings.level < 1.0, "level", "a share between 0 and 1")
    _expect(settings, 0.0 < settings.loss_parameter < 1.0, "loss_parameter", "a share between 0 and 1")
    _expect(settings, 0 <= settings.seed < 1 << 53, "seed", "a whole number from 0, below 2**53")
    return settings


def written(settings: ForecastSettings) -> dict[str, Any]:
    """Return the complete spec of settings; `read` makes the same settings from it."""
    return specs.written(settings, {})


def own_loss(settings: ForecastSettings) -> Loss:
    """Return the loss that forecasts are trained for, by the name of the gate."""
    return Loss("absolute") if settings.loss == "absolute" else Loss("pinball", settings.loss_parameter)


def _expect(settings: ForecastSettings, right: bool, name: str, expected: str) -> None:
    if not right:
        raise ConfigError(f"forecast model: {name}: got {getattr(settings, name)!r}; expected {expected}")
