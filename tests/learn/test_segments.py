"""Metrics by segment in a loop: rows of files, examples and late labels agree, and state survives a restart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import everlearn as el
from everlearn import stream
from everlearn.errors import ConfigError
from everlearn.loop.loop import Loop
from everlearn.spec import LogSpec, MetricsSpec, Schema
from tests.support.loops import bytes_of, record, spec, table

SPLIT = MetricsSpec(segment="c")


def counted(loop: Loop) -> dict[str, tuple[int, float]]:
    found = loop.report()["segments"]
    return {name: (each["examples"], round(each["observed"], 9)) for name, each in found.items()}


def expected(rows: dict[str, Any], upto: int) -> dict[str, tuple[int, float]]:
    names, labels = np.array(rows["c"][:upto]), rows["label"][:upto]
    return {str(name): (int((names == name).sum()), round(labels[names == name].mean(), 9)) for name in set(names)}


@pytest.mark.parametrize("way", ["file", "appended", "examples", "late"])
def test_every_way_in_counts_the_segments_of_its_rows(tmp_path: Path, way: str) -> None:
    rows, n = table(1_150), 1_150
    settings = spec(metrics=SPLIT, mode="live", log=LogSpec(rows="always" if way == "appended" else "auto"))
    if way in ("examples", "late"):
        n = 230
    with Loop(settings, tmp_path / "home") as loop:
        if way in ("file", "appended"):
            loop.run(stream.read(rows, schema=settings.schema))
        for row in range(n if way == "examples" else 0):
            loop.learn(record(rows, row), int(rows["label"][row]), id=str(row))
        for row in range(n + 30 if way == "late" else 0):
            if row < n:
                loop.predict(record(rows, row), id=str(row))
            if row >= 30:
                loop.feedback(str(row - 30), label=int(rows["label"][row - 30]))
        assert counted(loop) == expected(rows, n)
        assert loop.status()["segments"] == loop.report()["segments"]


def test_predictions_that_wait_keep_their_segment_over_a_restart(tmp_path: Path) -> None:
    rows, settings = table(160), spec(metrics=SPLIT)
    homes = {}
    for name in ("whole", "resumed"):
        loop = Loop(settings, tmp_path / name)
        for row in range(200):
            if row == 100 and name == "resumed":
                loop.close()
                loop = Loop(settings, tmp_path / name)
            if row < 160:
                loop.predict(record(rows, row), id=str(row))
            if row >= 40:
                loop.feedback(str(row - 40), label=int(rows["label"][row - 40]))
        kept = {key: held for key, held in bytes_of(loop).items() if "metrics/" in key or "segments/" in key}
        homes[name] = kept, counted(loop)
        loop.close()
    assert "learner/segments/names" in homes["whole"][0]
    assert homes["whole"] == homes["resumed"]
    assert homes["whole"][1] == expected(rows, 160)


def test_another_field_begins_anew_and_none_ends_it(tmp_path: Path) -> None:
    rows = table(120)
    rows["d"] = ["left", "right"] * 60
    fields = {"a": "numeric", "b": "numeric", "c": "categorical", "d": "categorical"}
    schema = Schema(label="label", task="binary", classes=(0, 1), fields=fields, bits=10)

    def given(row: int) -> dict[str, Any]:
        return {name: rows[name][row] for name in fields}

    for field, first, last in (("c", 0, 50), ("d", 50, 110), ("", 110, 120)):
        with Loop(spec(schema=schema, metrics=MetricsSpec(segment=field)), tmp_path / "home") as loop:
            if field == "d":
                assert loop.report()["segments"] == {}
            for row in range(first, last):
                loop.predict(given(row), id=str(row))
            for row in range(max(first - 5, 0), last - 5):  # the first five were predicted under the other field
                loop.feedback(str(row), label=int(rows["label"][row]))
            found = counted(loop)
            assert found.keys() <= ({"left", "right"} if field == "d" else set(rows["c"]))
            assert sum(examples for examples, _ in found.values()) == (0 if not field else last - first - 5)
            assert loop.report()["metrics"]["champion"]["examples"] == last - 5


def test_a_field_without_categories_or_with_people_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"metrics\.segment: got 'a', a numeric field; expected one of c\."):
        Loop(spec(metrics=MetricsSpec(segment="a")), tmp_path / "a")
    with pytest.raises(ConfigError, match=r"metrics\.segment: got 'z', no field of the schema"):
        Loop(spec(metrics=MetricsSpec(segment="z")), tmp_path / "z")
    with pytest.raises(ConfigError, match="which is the loop's subject"):
        Loop(spec(metrics=SPLIT, subject="c"), tmp_path / "c")


def test_prequential_splits_a_stream_as_a_loop_does(tmp_path: Path) -> None:
    rows, settings = table(600), spec(metrics=SPLIT, mode="live")
    data = stream.read(rows, schema=settings.schema)
    report = el.prequential(el.build({"family": "linear"}), data, segment="c", chunk=77)
    found = {name: (each["examples"], round(each["observed"], 9)) for name, each in report.segments.items()}
    assert found == expected(rows, 600)
    with pytest.raises(ConfigError, match="segment: got 'a', a numeric field"):
        el.prequential(el.build({"family": "linear"}), data, segment="a")


def test_the_headline_is_the_setting(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="metric: got 'mae' for a binary task; expected one of auto, accuracy"):
        Loop(spec(metric="mae"), tmp_path / "mae")
    with Loop(spec(metric="roc_auc"), tmp_path / "home") as loop:
        loop.run(stream.read(table(300), schema=loop.spec.schema))
        assert (loop.report()["metric"], loop.status()["metric"]) == ("roc_auc", "roc_auc")
        assert loop.picture().axes[0].get_ylabel() == "log loss"  # a metric without a curve
        assert {"low", "observed"} <= loop.status()["reliability"].keys()
