"""Plans: networks that cannot learn as their settings want are refused when they are made."""

from __future__ import annotations

import pytest

from everlearn._torch import nn
from everlearn.errors import ConfigError
from everlearn.families.neural import Neural
from tests.support.neural_nets import BALANCED, examples, learn, one_thread  # noqa: F401  (one_thread)


def test_a_network_that_cannot_learn_a_single_row_is_refused_where_it_is_made() -> None:
    def net(*shape: int) -> nn.Module:
        return nn.Sequential(nn.BatchNorm1d(5), nn.Linear(5, 3))

    dials = {key: value for key, value in BALANCED.items() if key != "family"}
    with pytest.raises(ConfigError, match="batch: got 1.*more than 1 value"):
        Neural(net(), **dials, batch=1)
    learn(Neural(net(), **dials, batch=2), examples(10, 5, 3))
    learn(Neural(net().eval(), **dials, batch=1), examples(10, 5, 3))
    image = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(4, 3))
    learn(Neural(image, **{**dials, "dense": 4, "shape": [1, 2, 2]}, batch=1), examples(10, 4, 3))
