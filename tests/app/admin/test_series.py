"""The time series of the dashboard are bounded."""

from __future__ import annotations

from everlearn.app.admin.series import CLASSES, KEPT, Series


def test_series_never_grow_beyond_ten_minutes():
    series = Series()
    gate = {"candidate": "a", "difference": 0.1, "low": 0.0, "high": 0.2, "log_e_better": 1.0, "log_e_worse": -1.0}
    for second in range(KEPT + 100):
        series.add(float(second), {"requests": 1.0}, {f"class {second % 40}": 1.0}, gate)
    shown = series.shown()
    assert len(shown["replay"]) == CLASSES
    for line in (shown["time"], shown["p99"], *shown["replay"].values(), shown["gate"]["low"]):
        assert len(line) == KEPT
    assert shown["time"][-1] == KEPT + 99


def test_another_candidate_begins_another_line():
    series = Series()
    gate = {"candidate": "a", "difference": 0.1, "low": 0.0, "high": 0.2, "log_e_better": 1.0, "log_e_worse": -1.0}
    series.add(1.0, {}, {}, gate)
    series.add(2.0, {}, {}, gate | {"candidate": "b"})
    series.add(3.0, {}, {}, None)
    shown = series.shown()["gate"]
    assert shown["candidate"] == ""
    assert shown["difference"] == [None, None, None]
