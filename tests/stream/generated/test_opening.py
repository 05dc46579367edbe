"""Names and numbers that do not fit are refused, with the right choices; a stream is what a loop takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import everlearn as el
from everlearn.errors import ConfigError


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("agraval", {}, "did you mean 'agrawal'"),
        ("sea", {"concepts": (4,)}, "expected numbers from 0 to 3"),
        ("agrawal", {"drift": "incremental"}, "expected one of sea, hyperplane, rbf"),
        ("waveform", {"concepts": (1,)}, "noise_features"),
        ("sea", {"noise": 1.0}, "noise"),
        ("sea", {"shares": (0.5, 0.6)}, "add up to 1"),
        ("sea", {"change": 0.1}, "hyperplane"),
        ("rbf", {"drifting": 51}, "0 to 50"),
        ("sea", {"rows": 0}, "rows: got 0"),
    ],
)
def test_what_does_not_fit_is_refused(kind: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        el.generate(kind, **settings)


def test_a_loop_takes_a_generated_stream(tmp_path: Path) -> None:
    stream = el.generate("sea", rows=1500, drift="sudden")
    spec = el.spec.Spec(schema=stream.schema, model={"family": "linear"})
    with el.open(spec, home=tmp_path / "home") as loop:
        result = loop.run(stream)
    assert result["examples"] == 1500
    assert result["metrics"]["champion"]["accuracy"] > 0.85


def test_streams_have_names_and_fingerprints_that_tell_them_apart() -> None:
    one, other = el.generate("sea", rows=10), el.generate("sea", rows=10, seed=1)
    assert one.fingerprint != other.fingerprint
    assert one.rows == 10
    assert el.generate("sine", rows=10, noise_features=2).generator.names == ("x0", "x1", "x2", "x3")
    assert list(el.generate("agrawal", rows=10).schema.fields)[:2] == ["salary", "commission"]
