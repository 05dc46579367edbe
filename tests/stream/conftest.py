"""Fixtures of the tests in this folder."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    return [
        {"n": i / 4, "town": f"town {i % 5}", "note": f'number {i}, says "who"?', "y": "yes" if i % 3 else "no"}
        for i in range(500)
    ]
