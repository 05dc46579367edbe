"""Forecasts of series: the number at a time ahead, learned from the numbers up to now.

A spec and batches of encoded rows with a time come in; numbers, intervals and named arrays go out. `settings` reads the
spec, `model` holds the arrays, and `kernels` compiles the row loops of `rows`. `periods` counts time in periods and
finds seasons, `series` keeps the last numbers of each series, `experts` forecasts them in seven ways, `regression` is
one of these, and `combining` weighs them and tracks the bounds of intervals. Evaluation lives in
`everlearn.evaluate.forecasting`.
"""

from everlearn.families.forecast.model import Forecast, build

__all__ = ["Forecast", "build"]
