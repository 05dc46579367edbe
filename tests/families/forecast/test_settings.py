"""Settings of the family: the messages for wrong ones."""

from __future__ import annotations

from typing import Any

import pytest

from everlearn.errors import ConfigError
from everlearn.families.forecast.settings import read


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"task": "binary"}, "task: got 'binary'; expected 'regression'"),
        ({"clock": 3}, "clock: got 3; expected -1, or the first of five columns of a time, 0 to 0"),
        ({"season": 2000}, "season: got 2000; expected 0 to 1024 periods"),
        ({"level": 1.0}, "level: got 1.0; expected a share between 0 and 1"),
        ({"method": "arima"}, "expected one of 'auto', 'autoregressive', 'holt_winters', 'seasonal_naive'"),
    ],
)
def test_a_wrong_setting_is_named_with_the_right_ones(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read({"family": "forecast", "task": "regression", "dense": 5, **given})
