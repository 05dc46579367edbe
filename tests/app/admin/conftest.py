"""Fixtures of the tests of the admin process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from everlearn.app.process import Setup
from tests.support.admin import Admin, admin, grown, learning, own, set_up

__all__ = ["own"]


@pytest.fixture(scope="package")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setup]:
    home = tmp_path_factory.mktemp("admin") / "home"
    with set_up(home, grown(home)) as made:
        yield made


@pytest.fixture(scope="package")
def opened(setup: Setup) -> Iterator[Admin]:
    """A running admin process whose learner runs too; tests may look, and must not change the loop."""
    with learning(setup), admin(setup) as running:
        yield running
