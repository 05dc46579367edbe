"""What several test files share."""

from __future__ import annotations

import os
from pathlib import Path

# The threads of PyTorch wait in busy loops: where several processes share the cores, a small network takes ten times as
# long. Set before PyTorch is imported; the servers that tests start inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import HealthCheck, settings

pytest.register_assert_rewrite("tests.support")  # before the first import of it

from tests.support import ROOT, SHARED  # noqa: E402

# No test depends on how fast the machine is: the first example may compile a kernel.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

SERVERS = ("tests/app/", "tests/cli/", "tests/client/", "tests/test_examples", "tests/loop/test_kill")

# scripts that make what tests read, and need more than tests do
collect_ignore = ["data/make_homes_0_1_0.py", "data/mergekit_values.py"]


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With `-n 2 --dist loadgroup`, keep a file in one process, and all tests that start servers in the same one.

    Two servers at a time would leave the learners, which have a low priority, no processor.
    """
    if config.pluginmanager.hasplugin("xdist"):
        for item in items:
            file = item.path.relative_to(ROOT).as_posix()
            item.add_marker(pytest.mark.xdist_group("servers" if file.startswith(SERVERS) else file))


def pytest_make_parametrize_id(config: pytest.Config, val: object, argname: str) -> str | None:
    """Name bytes by their length: some hold the time of their making, and xdist wants equal names everywhere."""
    if isinstance(val, bytes | bytearray):
        return f"{argname}-of-{len(val)}-bytes"
    return None


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real streams; a checkout alone does not have it, so tests that want it skip."""
    folder = SHARED
    if not folder.is_dir():
        pytest.skip(f"no {folder}: set EVERLEARN_DATA to the folder with the real streams")
    return folder
