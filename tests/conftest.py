"""What several test files share."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

pytest.register_assert_rewrite("tests.support")  # before the first import of it

from tests.support import SHARED  # noqa: E402

# No test depends on how fast the machine is: the first example may compile a kernel.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

collect_ignore = ["data"]  # what is in it is read, and made by scripts that need more than the tests do


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real streams; a checkout alone does not have it, so tests that want it skip."""
    folder = SHARED
    if not folder.is_dir():
        pytest.skip(f"no {folder}: set EVERLEARN_DATA to the folder with the real streams")
    return folder
