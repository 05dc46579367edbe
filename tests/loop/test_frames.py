"""Data frames in and out of a loop: the same answers as row by row, in the library that they came from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import narwhals as nw
import numpy as np
import pandas as pd
import polars
import pyarrow as pa
import pytest

from everlearn.errors import InputError, NoRoom, UnknownId
from everlearn.loop.loop import Loop
from everlearn.records import Label
from everlearn.spec import FeedbackSpec
from tests.support.loops import record, spec, table
from tests.support.orders import arrays_of

ROWS = 40
LIBRARIES = {
    "polars": polars.DataFrame,
    "pandas": pd.DataFrame,
    "pyarrow": lambda columns: pa.table({name: list(column) for name, column in columns.items()}),
    "dict": lambda columns: {name: list(column) for name, column in columns.items()},
}


def columns_of(frame: Any) -> dict[str, list[Any]]:
    if isinstance(frame, dict):
        return frame
    return nw.from_native(frame, eager_only=True).to_dict(as_series=False)


def features(columns: dict[str, Any]) -> dict[str, Any]:
    return {name: column[:ROWS] for name, column in columns.items() if name in ("a", "b", "c")}


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_frame_is_answered_judged_and_learned_as_its_rows_are(library: str, tmp_path: Path) -> None:
    columns, make = table(ROWS), LIBRARIES[library]
    with Loop(spec(mode="live"), tmp_path / "whole") as whole, Loop(spec(mode="live"), tmp_path / "single") as single:
        asked = make(features(columns) | {"number": list(range(ROWS))})
        given = whole.predict_many(asked, id="number")
        assert type(given) is type(asked)
        expected = [single.predict(record(columns, row), id=str(row)) for row in range(ROWS)]
        found = columns_of(given)
        assert found["id"] == [one.id for one in expected]
        assert list(zip(found["proba_0"], found["proba_1"], strict=True)) == [one.proba for one in expected]
        assert found["value"] == [one.value for one in expected]
        labels = make({"number": list(range(ROWS)), "truth": list(columns["label"][:ROWS])})
        assert columns_of(whole.feedback_many(labels, id="number", label="truth"))["known"] == [False] * ROWS
        assert columns_of(whole.feedback_many(labels, id="number", label="truth"))["known"] == [True] * ROWS
        learned = make(features(columns) | {"label": list(columns["label"][:ROWS])})
        ids = columns_of(whole.learn_many(learned, source="csv"))["id"]
        for row in range(ROWS):
            single.feedback(str(row), label=int(columns["label"][row]))
        for row in range(ROWS):
            single.learn(record(columns, row), int(columns["label"][row]), source="csv")
        assert ids == [f"example-{row + 1}" for row in range(ROWS)]
        assert arrays_of(whole.fold.roster.champion.model) == arrays_of(single.fold.roster.champion.model)


def test_a_frame_of_pandas_keeps_its_index(tmp_path: Path) -> None:
    frame = pd.DataFrame(features(table(ROWS)), index=[f"row {row}" for row in range(ROWS)])
    with Loop(spec(), tmp_path / "home") as loop:
        given = loop.predict_many(frame)
        assert list(given.index) == list(frame.index)
        assert frame.join(given)["value"].notna().all()


def test_a_series_is_a_record(tmp_path: Path) -> None:
    frame = pd.DataFrame(features(table(ROWS)))
    with Loop(spec(mode="live"), tmp_path / "home") as loop:
        whole = loop.predict_many(frame)
        assert loop.predict(frame.iloc[3]).proba == (whole["proba_0"][3], whole["proba_1"][3])
        loop.learn(frame.iloc[3], 1)
        assert loop.fold.monitor.scored == 1


def test_a_row_that_cannot_be_used_is_named_and_nothing_is_taken(tmp_path: Path) -> None:
    columns = table(ROWS)
    wrong = pd.DataFrame(features(columns) | {"label": list(columns["label"][:ROWS])})
    wrong["a"] = wrong["a"].astype(object)
    wrong.loc[7, "a"] = "much"
    with Loop(spec(mode="live"), tmp_path / "home") as loop:
        loop.ready()
        end = loop.log.end()
        for call in (loop.predict_many, loop.learn_many):
            with pytest.raises(InputError, match=r"row 7: .*'a'.*much"):
                call(wrong)
        assert loop.log.end() == end
        with pytest.raises(InputError, match="the frame has no column 'ids'; it has a, b, c, label"):
            loop.predict_many(wrong, id="ids")
        with pytest.raises(UnknownId, match="row 0: .*'x'"):
            loop.feedback_many({"id": ["x"], "label": [1]})
        given = loop.predict_many(features(columns))
        end = loop.log.end()
        with pytest.raises(InputError, match="row 1: .*label"):
            loop.feedback_many({"id": given["id"][:2], "label": [1, "maybe"]})
        with pytest.raises(InputError, match="the columns have different lengths"):
            loop.predict_many({"a": [1.0], "b": [1.0, 2.0]})
        assert loop.log.end() == end
        assert loop.log.count("label") == 0


def test_ids_that_were_answered_before_get_their_first_answer(tmp_path: Path) -> None:
    columns = features(table(ROWS))
    with Loop(spec(mode="live"), tmp_path / "home") as loop:
        first = loop.predict_many(columns | {"k": list(range(ROWS))}, id="k")
        for row in range(ROWS):
            loop.feedback(str(row), label=1)
        count = loop.log.count("prediction")
        assert loop.predict_many(columns | {"k": list(range(ROWS))}, id="k") == first
        assert loop.log.count("prediction") == count
        assert isinstance(loop.log.last("label").payload, Label)
        assert np.isfinite(loop.predict_many(columns)["proba_1"]).all()


def test_early_labels_of_a_frame_have_the_room_of_single_ones(tmp_path: Path) -> None:
    settings = spec(mode="live", feedback=FeedbackSpec(early=60.0, bytes=800_000))
    with Loop(settings, tmp_path / "home") as loop:
        loop.ready()
        end = loop.log.end()
        many = {"id": [f"p{row}" for row in range(200)], "label": [1] * 200}
        with pytest.raises(NoRoom, match="came before its prediction"):
            loop.feedback_many(many)
        assert loop.log.end() == end
        few = {name: column[:10] for name, column in many.items()}
        assert loop.feedback_many(few)["known"] == [False] * 10
        assert (len(loop.fold.early), loop.fold.early.dropped) == (10, 0)
        while True:
            try:
                loop.feedback(f"p{len(loop.fold.early)}", 1)
            except NoRoom:
                break
        assert (20 < len(loop.fold.early) < 40, loop.fold.early.dropped) == (True, 0)
