"""Fixtures of the tests in this folder."""

from __future__ import annotations

import pytest

from everlearn.evaluate import continual
from tests.support.task_streams import blobs, linear


@pytest.fixture(scope="module")
def outcome() -> continual.ContinualReport:
    stream = continual.split(blobs(1200, space=2.0), blobs(300, seed=1, space=2.0), per_task=1)
    return continual.evaluate(linear(stream), stream, 100, cost=1.5, name="a <model>")
