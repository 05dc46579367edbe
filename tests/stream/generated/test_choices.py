"""Generated choices: the same rows however they are cut, frequencies that follow the truth, and drifting fashion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from everlearn.errors import ConfigError
from everlearn.stream.generated import generate


def made(kind: str = "choices", **spec: Any) -> Any:
    return generate(kind, **{"rows": 6000, "users": 20, "items": 30, **spec}).generator


def test_rows_do_not_depend_on_how_they_are_cut() -> None:
    for kind in ("choices", "ratings"):
        whole = made(kind).columns()
        parts = [made(kind).columns(after, 1000) for after in range(0, 6000, 1000)]
        for name, column in whole.items():
            assert (np.concatenate([part[name] for part in parts]) == column).all()
    assert (made(seed=1).columns()["item"] != made(seed=2).columns()["item"]).any()


def test_choices_are_as_frequent_as_the_truth_says() -> None:
    generator = made(rows=20_000, change=1.0)
    proba, item = generator.truth().proba, generator.columns()["item"]
    expected, found = proba.sum(axis=0), np.bincount(item, minlength=30)
    deviation = np.sqrt((proba * (1.0 - proba)).sum(axis=0))
    assert (np.abs(found - expected) < 4.5 * deviation + 1e-9).all()
    assert proba.sum(axis=1) == pytest.approx(np.ones(20_000))
    rank = 1 + (proba > proba[np.arange(20_000), item][:, None]).sum(axis=1)
    assert generator.best()["recall"] == pytest.approx((rank <= 10).mean(), abs=0.015)
    assert generator.best()["ndcg"] == pytest.approx(np.where(rank <= 10, 1 / np.log2(1 + rank), 0).mean(), abs=0.015)


def test_no_item_is_chosen_before_it_is_out_and_half_come_later() -> None:
    proba = made().truth().proba
    first = (proba > 0).argmax(axis=0)
    assert (first == 0).sum() == 16  # half, and the first of the others
    assert first.max() > 4000
    item = made().columns()["item"]
    assert all((np.flatnonzero(item == k) >= first[k]).all() for k in range(30))


def test_fashion_moves_by_change() -> None:
    still, moving = (made(users=1, change=change).truth().proba[[1500, 3000]] for change in (0.0, 1.5))
    both = (still > 0).all(axis=0)
    shares = [part[:, both] / part[:, both].sum(axis=1, keepdims=True) for part in (still, moving)]
    assert shares[0][0] == pytest.approx(shares[0][1])
    assert np.abs(shares[1][0] - shares[1][1]).max() > 0.05


def test_ratings_are_the_truth_and_noise() -> None:
    generator = made("ratings")
    label, truth = generator.columns()["label"], generator.truth().rating
    assert label.min() >= 1.0
    assert label.max() <= 5.0
    inside = (truth > 2.5) & (truth < 3.5)
    assert (label - truth)[inside].mean() == pytest.approx(0.0, abs=0.05)
    assert (label - truth)[inside].std() == pytest.approx(0.5, abs=0.05)


def test_the_stream_reads_as_others_do() -> None:
    stream = generate("ratings", rows=100, users=5, items=5, seed=3)
    rows = next(stream.chunks()).examples
    assert stream.schema.task == "regression"
    assert list(stream.schema.fields) == ["user", "item"]
    assert np.diff(rows.batch.indptr).tolist() == [2] * 100
    assert "ratings, seed 3" in repr(stream)


def test_a_file_has_the_same_rows(tmp_path: Path) -> None:
    generator = made("ratings")
    generator.write(tmp_path / "ratings.parquet")
    table = pq.read_table(tmp_path / "ratings.parquet")
    assert all((table[name].to_numpy() == column).all() for name, column in generator.columns().items())


@pytest.mark.parametrize("changed", [{"users": 0}, {"items": 1}, {"change": -1.0}, {"rows": 0}])
def test_a_wrong_number_is_refused_by_its_name(changed: dict[str, Any]) -> None:
    name = next(iter(changed))
    with pytest.raises(ConfigError, match=f"^{name}: got"):
        generate("choices", **changed)
