"""Unknown and missing names: counted with the nearest field, bounded, and refused where strict."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import everlearn as el
from everlearn.errors import InputError
from everlearn.feedback.names import MOST, FieldNames, lines, report
from everlearn.spec import Schema, Spec

SCHEMA = Schema(label="y", task="binary", classes=(0, 1), fields={"amount": "numeric", "town": "categorical"})


def names(**more: Any) -> FieldNames:
    return FieldNames(Spec(schema=SCHEMA, subject="who", **more))


def test_names_are_counted_with_the_nearest_field() -> None:
    found = names(ignore=("note",))
    found.check({"amuont": 1, "town": "a"})
    found.check({"amount": 1, "town": None, "id": 3, "who": "me", "y": 1, "note": "x"})
    found.add_rows(["amount", "twon"], 40)
    counted = report(found.counts, SCHEMA.fields)
    assert counted == {
        "unknown": {"amuont": {"rows": 1, "nearest": "amount"}, "twon": {"rows": 40, "nearest": "town"}},
        "missing": {"amount": 1, "town": 40},
    }
    assert lines(counted)[0] == "unknown name 'amuont' in 1 rows: did you mean 'amount'?"


def test_the_number_of_names_is_bounded() -> None:
    found = names()
    for i in range(10 * MOST):
        found.check({"amount": 1, "town": "a", f"extra {i}": 1})
    found.check({"amount": 1, "town": "a", "x" * 500: 1})
    counted = report(found.counts, SCHEMA.fields)["unknown"]
    assert len(counted) == MOST + 1
    assert sum(one["rows"] for one in counted.values()) == 10 * MOST + 1


def test_names_that_were_counted_before_count_towards_the_bound() -> None:
    counts: dict[str, int] = {}
    for process in range(5):

        def add(name: str, rows: int) -> None:
            counts[name] = counts.get(name, 0) + rows

        found = FieldNames(Spec(schema=SCHEMA), add, tuple(counts))
        for i in range(MOST // 2):
            found.check({"amount": 1, "town": "a", f"extra {process} {i}": 1})
    assert len(counts) == MOST + 1
    assert counts["unknown:"] == 3 * (MOST // 2)


def test_strict_refuses_unknown_and_missing_names(tmp_path: Path) -> None:
    good = {"amount": 1.0, "town": "a"}
    with el.open({"schema": SCHEMA, "model": {"family": "linear"}}, home=tmp_path / "h") as loop:
        loop.predict({"amuont": 1.0, "town": "a"})
        loop.run(el.read({**{name: [1.0] * 9 for name in ("amount", "twon")}, "y": [0, 1] * 4 + [0]}, schema=SCHEMA))
        assert set(loop.status()["fields"]["unknown"]) == {"amuont", "twon"}
        assert loop.report()["fields"]["missing"] == {"amount": 1, "town": 9}
    with el.open({"schema": SCHEMA, "model": {"family": "linear"}, "strict": True}, home=tmp_path / "h") as loop:
        loop.predict({**good, "id": 7, "y": 1})
        loop.predict({"amount": None, "town": "a"})
        with pytest.raises(InputError, match="'amuont'.*the nearest is 'amount'"):
            loop.predict({"amuont": 1.0, **good})
        with pytest.raises(InputError, match="got no field 'town'"):
            loop.predict({"amount": 1.0})
        with pytest.raises(InputError, match="got the name 'extra'"):
            loop.run(el.read({"amount": [1.0], "town": ["a"], "extra": [1], "y": [1]}, schema=SCHEMA))
        assert not loop.status()["fields"]["unknown"]
