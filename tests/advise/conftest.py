"""Fixtures of the tests in this folder."""

from __future__ import annotations

import pytest

from everlearn._torch import torch


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)
