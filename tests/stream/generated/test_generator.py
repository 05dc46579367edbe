"""Generated rows: the same however they are read, balanced and noisy as ordered, and written to files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import everlearn as el
from everlearn.errors import InputError
from everlearn.stream.generated.generator import KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_the_rows_do_not_depend_on_how_they_are_read(kind: str) -> None:
    settings = {"hyperplane": {"change": 0.01}, "rbf": {"change": 0.01, "classes": 3}}.get(kind, {})
    many = {"led": {"concepts": (0, 3)}, "waveform": {"concepts": (0, 2), "noise_features": 4}}.get(kind, {})
    stream = el.generate(kind, rows=900, drift="gradual", noise=0.1, seed=5, **settings, **many)
    whole, truth = stream.generator.columns(), stream.generator.truth()
    for after, rows in ((700, 100), (0, 250), (250, 450), (33, 1)):  # back and forth: a walk begins again
        part, true = stream.generator.columns(after, rows), stream.generator.truth(after, rows)
        for name in whole:
            assert (part[name] == whole[name][after : after + rows]).all(), name
        for one, other in zip(true, truth, strict=True):
            assert (one == other[after : after + rows]).all()
    ys = {size: np.concatenate([chunk.examples.y for chunk in stream.chunks(size=size)]) for size in (7, 900)}
    assert (ys[7] == ys[900]).all()
    assert (ys[7] == whole["label"]).all()
    assert (el.generate(kind, rows=900, seed=6).generator.columns()["label"] != whole["label"]).any()


@pytest.mark.parametrize("kind", ["sea", "agrawal", "sine", "mixed", "hyperplane", "rbf"])
def test_noise_and_shares_are_as_ordered(kind: str) -> None:
    generator = el.generate(kind, rows=40_000, noise=0.15, shares=0.2, seed=8).generator
    clean, y = generator.truth().clean, generator.columns()["label"]
    assert clean.mean() == pytest.approx(0.2, abs=0.008)
    assert (clean != y).mean() == pytest.approx(0.15, abs=0.007)
    assert generator.best()["accuracy"] <= 0.85 + 1e-9


def test_shares_that_no_row_can_have_are_refused() -> None:
    generator = el.generate("hyperplane", rows=10, features=1, shares=0.5).generator
    assert generator.columns()["label"].shape == (10,)
    with pytest.raises(el.errors.ConfigError, match="no centre"):
        el.generate("rbf", rows=10, centres=1, shares=0.5).generator.columns()


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_a_file_holds_the_same_rows(tmp_path: Path, ending: str) -> None:
    stream = el.generate("agrawal", rows=3000, drift="sudden", seed=2)
    path = tmp_path / f"rows.{ending}"
    stream.generator.write(path)
    read = el.read(path, schema=stream.schema)
    for one, other in zip(stream.chunks(), read.chunks(), strict=True):
        assert (one.examples.y == other.examples.y).all()
        assert (one.examples.batch.dense == other.examples.batch.dense).all()
        assert (one.examples.batch.indices == other.examples.batch.indices).all()
    with pytest.raises(InputError, match="ends in"):
        stream.generator.write(tmp_path / "rows.xls")


def test_the_best_possible_error_bounds_every_model() -> None:
    stream = el.generate("sea", rows=20_000, noise=0.1)
    report = el.prequential(el.build({"family": "linear"}), stream)
    best = stream.generator.best()
    assert best["accuracy"] == pytest.approx(0.9)
    assert best["log_loss"] == pytest.approx(-(0.9 * np.log(0.9) + 0.1 * np.log(0.1)))
    assert best["accuracy"] - 0.05 < report.metrics["accuracy"] < best["accuracy"] + 0.005
    assert report.metrics["log_loss"] > best["log_loss"]


def test_incremental_drift_moves_the_threshold() -> None:
    stream = el.generate("sea", rows=1000, drift="incremental", concepts=(2, 3), positions=(500,), width=500)
    columns, truth = stream.generator.columns(), stream.generator.truth()
    threshold = np.where(truth.concept == 2, 7.0 + 2.5 * truth.share, 9.5)
    assert (columns["label"] == (columns["x0"] + columns["x1"] > threshold)).all()
    assert 0 < truth.share.max() < 1
