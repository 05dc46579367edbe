"""Alerts of a stream: their rate, the rows found, and the fields that stand out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import everlearn as el
from everlearn.errors import InputError
from everlearn.evaluate.anomalies import UnusualRow, UnusualRows


def table(rows: int = 3000) -> dict[str, Any]:
    random = np.random.default_rng(0)
    heat, load = random.normal(size=rows), random.normal(size=rows)
    heat[[1500, 2500]], load[2000] = 12.0, -12.0
    return {"heat": heat, "load": load}


def test_the_rows_that_stand_out_are_found_with_their_fields() -> None:
    found = el.alerts(el.build({"family": "anomaly"}), el.read(table(), task="anomaly"))
    reasons = {alert.position: next(iter(alert.fields)) for alert in found.highest}
    assert {1501: "heat", 2501: "heat", 2001: "load"}.items() <= reasons.items()
    assert found.rows == 3000
    assert 0.002 < found.count / found.rows < 0.03
    assert f"{found.count} alerts" in found.table()


def test_only_the_highest_alerts_are_kept_in_stream_order() -> None:
    stream = el.read(table(), task="anomaly")
    every = el.alerts(el.build({"family": "anomaly"}), stream, rate=0.05, most=1000)
    few = el.alerts(el.build({"family": "anomaly"}), stream, rate=0.05, most=5)
    assert every.count == few.count == len(every.highest)
    assert [one.position for one in few.highest] == sorted(one.position for one in few.highest)
    assert sorted(one.rank for one in few.highest) == sorted(one.rank for one in every.highest)[-5:]


def test_a_rate_that_is_no_share_is_refused() -> None:
    with pytest.raises(InputError, match="rate: got 5; expected a share of rows between 0 and 1"):
        el.alerts(el.build({"family": "anomaly"}), el.read(table(), task="anomaly"), rate=5)


def test_the_table_says_how_many_alerts_it_leaves_out_and_which_values_are_missing() -> None:
    rows = [UnusualRow(0.99 + i / 1000, 300 - i, {"heat": None, "load": 2.5}, {"heat": 3.0}) for i in range(5)]
    found = UnusualRows(1500, 7, tuple(rows))
    assert found.table().splitlines()[1:] == [
        *(f"  row {300 - i}: rank {0.99 + i / 1000:.4f}; heat is missing" for i in range(4, -1, -1)),
        "  ... and 2 of lower rank",
    ]
    assert found.table(most=1).splitlines()[1:] == [
        "  row 296: rank 0.9940; heat is missing",
        "  ... and 6 of lower rank",
    ]
    whole = UnusualRows(101, 1, (UnusualRow(0.99, 5, {"heat": 2.5}, {"heat": 1.0}),))
    assert whole.table() == "101 rows scored, 1 alert (0.99%)\n  row 5: rank 0.9900; heat = 2.5"
    assert UnusualRows(1, 0, ()).table().splitlines() == [
        "1 row scored, 0 alerts (0.00%)",
        "  no row ranks above 1/2 before 100 rows were scored",
    ]


def test_a_family_is_named_and_scored_like_the_model_it_builds() -> None:
    stream = el.read(table(), task="anomaly")
    expected = el.alerts(el.build({"family": "anomaly"}), stream, rate=0.05)
    assert el.alerts("anomaly", stream, rate=0.05) == expected
    assert expected.count > 3
