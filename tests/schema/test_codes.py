"""Codes: whole numbers between which the label jumps, and those between which it does not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from everlearn.schema import codes, infer

ROWS = 6000


def _worth(shop: Any, each: Any, seed: int = 1) -> Any:
    return each[shop] + np.random.default_rng(seed).normal(size=len(shop))


@pytest.mark.parametrize("share", [0.05, 0.2])
def test_the_jumps_are_the_variance_that_codes_explain(share: float) -> None:
    found = []
    for seed in range(20):
        random = np.random.default_rng(seed)
        shop = random.integers(0, 40, ROWS)
        each = random.normal(size=40) * np.sqrt(share / (1.0 - share))
        found.append(codes.jump(shop.astype(float), _worth(shop, each, seed)[:, None]))
    assert all(found)


@pytest.mark.parametrize(
    "shape",
    [
        lambda x: 0.0 * x,
        lambda x: x / 10,
        lambda x: (x > 17) * 2.0,
        lambda x: np.sin(x / 6),
        lambda x: (x - 20) ** 2 / 99,
    ],
    ids=["nothing", "line", "step", "wave", "bowl"],
)
def test_a_quantity_is_no_code(shape: Any) -> None:
    for seed in range(20):
        x = np.random.default_rng(seed).integers(0, 40, ROWS)
        assert not codes.jump(x.astype(float), _worth(x, shape(np.arange(40)), seed)[:, None])


def test_what_lasts_for_a_time_only_is_no_code() -> None:
    x = np.repeat(np.arange(60), 100)  # a day counter: every number has rows in one half only
    worth = _worth(x, np.random.default_rng(3).normal(size=60) * 3)
    assert not codes.jump(x.astype(float), worth[:, None])
    random = np.random.default_rng(4)
    shop, late = random.integers(0, 40, ROWS), np.arange(ROWS) >= ROWS // 2
    unlike = np.where(late, random.normal(size=40)[shop], random.normal(size=40)[shop]) + random.normal(size=ROWS)
    assert not codes.jump(shop.astype(float), unlike[:, None])


def test_columns_that_cannot_be_codes_are_not_tried() -> None:
    assert codes.tried(np.tile(np.arange(50.0), 10))
    assert codes.tried(np.append(np.tile(np.arange(50.0), 11), np.nan))
    assert not codes.tried(np.tile(np.arange(50.0), 10) + 0.5)
    assert not codes.tried(np.tile(np.arange(4.0), 100))
    assert not codes.tried(np.arange(500.0))
    assert not codes.tried(np.full(500, np.nan))


@pytest.mark.parametrize("label", ["number", "word", "truth", "written"])
def test_shops_are_integers_whatever_the_label_is(label: str) -> None:
    random = np.random.default_rng(5)
    shop, size = random.choice(90_000, 30, replace=False)[random.integers(0, 30, ROWS)], random.integers(1, 60, ROWS)
    place = np.unique(shop, return_inverse=True)[1]
    worth = _worth(place, random.normal(size=30) * 2)
    labels: dict[str, list[Any]] = {
        "number": worth.tolist(),
        "word": np.where(worth > 0, "yes", "no").tolist(),
        "truth": (worth > 0).tolist(),
        "written": [f"{value:.3f}".replace(".", ",") for value in worth],
    }
    schema = infer({"shop": shop.tolist(), "size": size.tolist(), "y": labels[label]}, "y")
    assert schema.fields == {"shop": "integer", "size": "numeric"}


def test_a_model_learns_shops_that_it_cannot_cut_apart() -> None:
    import everlearn as el

    random = np.random.default_rng(6)
    shop = random.integers(0, 40, ROWS)
    rows = {"shop": shop.tolist(), "y": (_worth(shop, random.normal(size=40) * 3) > 0).tolist()}
    found = el.read(rows, label="y")
    assert found.schema.fields == {"shop": "integer"}
    numeric = el.read(rows, schema=infer({"shop": [0.5, 1.5], "y": [True, False]}, "y"))
    accuracy = [el.prequential(el.build({"family": "linear"}), one).metrics["accuracy"] for one in (found, numeric)]
    assert accuracy[0] > accuracy[1] + 0.2
