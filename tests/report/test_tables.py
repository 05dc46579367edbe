"""Tables of the results of a run."""

from __future__ import annotations

import io
import re
from typing import Any

from rich.console import Console

from everlearn import report

RESULT: dict[str, Any] = {
    "events": 45_312,
    "events_per_second": 215_123.4,
    "metrics": {
        "champion": {"examples": 45_312, "accuracy": 0.875, "log_loss": 0.31},
        "frozen": {"examples": 45_312, "accuracy": 0.75, "log_loss": 0.29, "kappa_t": -0.5},
        "challenger": {"examples": 0},
    },
    "drifts": 7,
    "versions": 1,
    "promotions": 0,
    "rollbacks": 1,
    "rejected": 3,
}


def shown(renderable: Any, styled: bool = False) -> str:
    console = Console(file=io.StringIO(), width=120, force_terminal=styled, color_system="standard" if styled else None)
    console.print(renderable)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_summary_shows_metrics_by_model_and_counts() -> None:
    lines = shown(report.summary(RESULT)).splitlines()
    assert lines[0].split() == ["metric", "champion", "frozen"]  # a challenger that never was has no column
    assert lines[1].split() == ["examples", "45,312", "45,312"]
    assert lines[2].split() == ["accuracy", "0.8750", "0.7500"]
    assert lines[4].split() == ["kappa-T", "–", "-0.5000"]
    assert lines[-1] == (
        "45,312 events, 215,123/s · 7 drifts · 1 version · 0 promotions · 1 rollback · 3 rows rejected"
    )


def test_summary_marks_the_best_whichever_way_the_metric_goes() -> None:
    lines = shown(report.summary(RESULT), styled=True).splitlines()
    assert re.search(r"\x1b\[1;32m *0\.8750", lines[2])
    assert re.search(r"\x1b\[1;32m *0\.2900", lines[3])
    assert sum(line.count("\x1b[1;32m") for line in lines) == 2  # one value alone is not the best of anything


def test_summary_takes_lists_for_counts_and_does_without_what_is_missing() -> None:
    line = shown(report.counts({"events": 2, "drifts": [{"at": 1}], "rejected": ["row"]})).strip()
    assert line == "2 events · 1 drift · 1 row rejected"


def test_a_value_with_ends_is_written_with_half_their_distance() -> None:
    measured = {"examples": 45_312, "roc_auc": 0.8, "roc_auc_low": 0.7985, "roc_auc_high": 0.8015, "brier_low": 0.1}
    assert report.written(measured) == {"examples": "45,312", "roc_auc": "0.8000 ± 0.0015", "brier_low": "0.1000"}
    shown = report.table({"champion": measured, "frozen": {"examples": 45_312, "roc_auc": 0.7}})
    assert list(shown.columns[0].cells) == ["examples", "ROC AUC", "brier low"]


def test_a_value_that_is_unknown_is_a_dash_and_the_interval_stays() -> None:
    unknown = {"value": None, "low": 0.0, "high": 1.0, "rows": 9}
    known = {"value": 0.42, "low": 0.4, "high": 0.45, "rows": 900}
    actions = [{"action": f"a{i}", "share": i / 66} for i in range(12)]
    found = {
        "served": known,
        "policies": {"uniform": unknown, "best constant": unknown | {"action": "a7"}},
        "actions": actions,
        "fallbacks": 3,
    }
    lines = shown(report.summary(RESULT | {"bandit": found})).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("policy"))
    assert [line.split() for line in lines[start : start + 4]] == [
        ["policy", "reward", "low", "high"],
        ["served", "0.4200", "0.4000", "0.4500"],
        ["uniform", "–", "0.0000", "1.0000"],
        ["best", "constant", "(a7)", "–", "0.0000", "1.0000"],
    ]
    assert lines[start + 4].startswith("served: a11 17%, a10 15%")
    assert "and 2 more · 3 answers with the fallback" in "".join(lines[start + 4 : start + 6])
