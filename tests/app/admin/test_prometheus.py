"""Metrics parse as Prometheus parses them, equal those of the loop, and follow its conventions for names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_families
from prometheus_client.parser import text_string_to_metric_families

from everlearn.app.admin.prometheus import _actions, _asking, _gate, _policies
from tests.support import ROOT
from tests.support.admin import Admin, admin, grown, set_up, until


@pytest.fixture(scope="module")
def families(opened: Admin) -> dict[str, Any]:
    until(lambda: opened.context.live.status is not None)
    return {one.name: one for one in text_string_to_metric_families(opened.get("/metrics").text)}


def value(families: dict[str, Any], sample: str, **labels: str) -> float:
    found = [
        one.value
        for family in families.values()
        for one in family.samples
        if one.name == sample and labels.items() <= one.labels.items()
    ]
    assert len(found) == 1, (sample, labels, found)
    return float(found[0])


def test_values_are_those_of_the_loop(opened, families):
    status = opened.get("/status").json()
    assert value(families, "everlearn_requests_total", route="predict", status="2xx") == 30
    assert value(families, "everlearn_requests_total", route="learn", status="4xx") == 1
    assert value(families, "everlearn_request_duration_seconds_count", route="predict") == 30
    assert value(families, "everlearn_request_duration_seconds_bucket", route="predict", le="+Inf") == 30
    assert value(families, "everlearn_request_duration_seconds_bucket", route="predict", le="5e-05") == 6
    assert value(families, "everlearn_request_duration_seconds_sum", route="predict") == pytest.approx(29 * 15e-5)
    assert value(families, "everlearn_events_total", kind="label") == 11
    assert value(families, "everlearn_log_end_position") == opened.context.queries.end()
    assert value(families, "everlearn_waiting_predictions") == 20
    assert value(families, "everlearn_prequential", role="champion", metric="accuracy") == pytest.approx(
        status["metrics"]["champion"]["accuracy"]
    )
    assert value(families, "everlearn_decisions_total", action="rollback") == 1
    assert value(families, "everlearn_replay_rows", **{"class": "1"}) == status["replay"]["classes"]["1"]
    assert value(families, "everlearn_drift_state", state=status["drift"]["state"]) == 1
    assert value(families, "everlearn_gate_threshold", role="challenger") > 0
    assert value(families, "everlearn_staleness_seconds") < 5
    assert value(families, "everlearn_champion_versions_behind") == 0


def test_names_follow_the_conventions(families):
    for name, family in families.items():
        assert name.startswith("everlearn_"), name
        assert family.documentation.endswith("."), name
        assert not re.search(r"_(ms|milliseconds|minutes|percent|kb|mb)\b", name)
        if family.type == "counter":
            assert all(one.name.endswith("_total") for one in family.samples), name
        else:
            assert not name.endswith("_total")


def test_no_label_is_an_id(opened, families):
    ids = {one["id"] for one in opened.get("/versions").json()["versions"]} | {f"p{number}" for number in range(30)}
    for family in families.values():
        seen = [(one.name, *sorted(one.labels.items())) for one in family.samples]
        assert len(seen) == len(set(seen)), family.name
        assert not {label for one in family.samples for label in one.labels.values()} & ids


def test_openmetrics_is_used_if_the_client_prefers_it(opened, families):
    answer = opened.get("/metrics", accept="application/openmetrics-text; version=1.0.0")
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert {one.name for one in open_families(answer.text)} == set(families)


def test_two_comparisons_of_one_role_are_two_series(opened):
    comparison = {"role": "candidate", "reference_role": "champion", "log_e_better": 1.0, "log_e_worse": 0.0}
    comparison |= {"threshold": 3.0, "difference": 0.0, "low": -1.0, "high": 1.0, "examples": 7}
    found = next(iter(_gate({"gate": [comparison, comparison]})))
    assert [one.labels["role"] for one in found.samples] == ["candidate", "candidate-2"]


def test_a_scrape_before_the_learner_has_written_its_status(tmp_path):
    home = tmp_path / "home"
    with set_up(home, grown(home, examples=700)) as setup, admin(setup) as made:
        found = {one.name for one in text_string_to_metric_families(made.get("/metrics").text)}
        assert "everlearn_requests" in found
        assert "everlearn_lag_seconds" not in found
        assert "everlearn_status_age_seconds" in found


# ---- the Grafana dashboard ---------------------------------------------------------------------------------------


def expressions(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        for name, inner in part.items():
            if name in ("expr", "query", "definition") and isinstance(inner, str):
                yield inner
            yield from expressions(inner)
    elif isinstance(part, list):
        for inner in part:
            yield from expressions(inner)


def test_grafana_uses_only_metrics_that_exist(families):
    board = msgspec.json.decode((ROOT / "examples/grafana.json").read_bytes())
    samples = {one.name for family in families.values() for one in family.samples} | set(families)
    asked = {name for one in expressions(board) for name in re.findall(r"\beverlearn_\w+", one)}
    assert len(asked) > 20
    assert asked <= samples


def test_the_guide_names_only_metrics_that_exist(families):
    text = (ROOT / "docs/how-to/monitor.md").read_text(encoding="utf-8")
    samples = {one.name for family in families.values() for one in family.samples} | set(families)
    samples |= {one.name for metric in _actions(ACTED) for one in metric.samples}  # of another task
    named = set(re.findall(r"\beverlearn_\w+", text))
    assert len(named) > 25
    assert named <= samples


def test_the_board_can_be_provisioned():
    board = msgspec.json.decode((ROOT / "examples/grafana.json").read_bytes())
    assert board["id"] is None
    assert board["uid"] == "everlearn"
    assert board["schemaVersion"] >= 39
    panels = board["panels"]
    assert len({one["id"] for one in panels}) == len(panels)
    for one in panels:
        place = one["gridPos"]
        assert 0 <= place["x"] < place["x"] + place["w"] <= 24, one["title"]
        if one["type"] != "row":
            assert one["datasource"] == {"type": "prometheus", "uid": "${source}"}
            assert one["targets"]
            assert one["description"]
    cells = [
        (one["gridPos"]["x"] + dx, one["gridPos"]["y"] + dy)
        for one in panels
        for dx in range(one["gridPos"]["w"])
        for dy in range(one["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells)), "panels lie over each other"


ACTED: dict[str, Any] = {
    "served": {"value": 0.5, "low": 0.4, "high": 0.6},
    "policies": {"uniform": {"value": None, "low": 0.0, "high": 1.0}},
    "actions": [{"action": "a", "served": 3}, {"action": "b", "served": 0}],
    "fallbacks": 2,
}


def test_rewards_of_actions_have_a_metric_each():
    samples = {
        (one.name.removeprefix("everlearn_"), *one.labels.values()): one.value
        for metric in _actions(ACTED)
        for one in metric.samples
    }
    assert samples == {
        ("actions_served_total", "a"): 3.0, ("actions_served_total", "b"): 0.0, ("fallbacks_total",): 2.0,
        ("policy_value", "served", "value"): 0.5, ("policy_value", "served", "low"): 0.4,
        ("policy_value", "served", "high"): 0.6, ("policy_value", "uniform", "low"): 0.0,
        ("policy_value", "uniform", "high"): 1.0,
    }  # fmt: skip
    assert list(_actions(None)) == []
    nothing = ACTED | {"served": {}, "policies": {}}  # before the first reward
    assert {one.name for metric in _actions(nothing) for one in metric.samples} == {
        "everlearn_actions_served_total",
        "everlearn_fallbacks_total",
    }


def test_measures_of_policies_have_a_metric_each():
    found = {
        "duels": [
            {
                "candidate": "challenger",
                "count": 3,
                **{name: {"value": 0.5, "low": 0.1, "high": 0.9} for name in ("win", "equal_length", "overrated")},
            }
        ],
        "policy": {"kl": 2.5},
        "brier": {"random": 0.2, "again": None},
        "strange": 0.0,
        "lag": {"judgements": 1, "seconds": 4.0},
        "guards": {"v": {"kl": "too far"}},
    }
    samples = {one.name: one.value for metric in _policies(found) for one in metric.samples}
    assert samples == {
        "everlearn_duel": 0.9,
        "everlearn_duels": 3.0,
        "everlearn_policy": 2.5,
        "everlearn_reward_brier": 0.2,
        "everlearn_strange_ratio": 0.0,
        "everlearn_judgement_lag_seconds": 4.0,
        "everlearn_policy_alarms": 1.0,
    }
    assert list(_policies(None)) == []
    first = {one.name for metric in _policies(found | {"policy": None}) for one in metric.samples}
    assert first == samples.keys() - {"everlearn_policy"}  # before the first round of steps


def test_what_is_asked_has_a_metric_each():
    people = {"kind": "people", "spent": 6.0, "hour": 2.0, "win_per_unit": 0.01}
    judge = {"kind": "judge", "spent": 0.5, "hour": 0.1, "win_per_unit": None}
    found = {
        "state": "stopped", "selector": "random", "configured": "thompson", "information": 0.001, "skipped_prompts": 2,
        "sources": [people, judge], "judge": {"trouble": "no answer"},
        "agreement": [{"source": "judge/kind@12", "share": 0.8, "low": 0.7, "high": 0.9}],
        "annotators": [{"named": "random"}, {"named": ""}],
    }  # fmt: skip
    samples = {
        (one.name.removeprefix("everlearn_"), *one.labels.values()): one.value
        for metric in _asking(found)
        for one in metric.samples
    }
    assert samples == {
        ("spend", "people"): 6.0, ("spend", "judge"): 0.5, ("spend_hour", "people"): 2.0, ("spend_hour", "judge"): 0.1,
        ("win_per_unit", "people"): 0.01, ("agreement_ratio", "judge/kind", "share"): 0.8,
        ("agreement_ratio", "judge/kind", "low"): 0.7, ("agreement_ratio", "judge/kind", "high"): 0.9,
        ("asking",): 0.0, ("selector_active",): 0.0, ("question_information",): 0.001, ("skipped_prompts",): 2,
        ("judge_trouble",): 1.0, ("random_annotators",): 1.0, ("inverted_annotators",): 0.0,
    }  # fmt: skip
    assert list(_asking(None)) == []
