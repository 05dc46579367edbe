"""Details are records in code and plain dicts in the log; both directions, for every kind."""

from __future__ import annotations

import json
from typing import Any

import pytest

from everlearn.errors import ConfigError
from everlearn.loop.details import (
    CandidateRejected,
    Challenged,
    ChallengeOrder,
    Detail,
    Drifted,
    Erasure,
    Merged,
    MergeOrder,
    MergeRecipe,
    MergeRequest,
    ModelExpelled,
    OrderRejected,
    Promoted,
    PromoteOrder,
    RollBackOrder,
    RolledBack,
    RolledBackWithout,
    SettingsChanged,
    Shadowed,
    ShadowOrder,
    Started,
    UnknownOrder,
    WarmStart,
    Withdrawn,
    WithdrawOrder,
    Without,
    examples,
    order_id,
    progress,
    read,
    replaced,
    with_token,
    write,
)
from everlearn.records import Decision, Example, Label, Prediction
from everlearn.serve.contestant import Progress

LEARNED = Progress(7, 3)
MERGE: dict[str, Any] = {"method": "linear", "weights": [0.5, 0.5], "density": 1.0}

# the words of release 0.1.0, with keys in its order
KINDS: list[tuple[str, str, Detail, dict[str, Any]]] = [
    ("start", "champion", Started(5, LEARNED), {"examples": 5, "learned": [7, 3]}),
    ("start", "champion", Started(0, LEARNED, {"seed": 1}), {"examples": 0, "learned": [7, 3], "spec": {"seed": 1}}),
    ("drift", "", Drifted(5), {"examples": 5}),
    ("promote", "champion", Promoted(5), {"examples": 5}),
    ("promote", "champion", Promoted(5, "o", LEARNED), {"examples": 5, "order": "o", "learned": [7, 3]}),
    ("rollback", "champion", RolledBack(5), {"examples": 5}),
    ("rollback", "champion", RolledBack(5, "o"), {"examples": 5, "order": "o"}),
    (
        "rollback",
        "champion",
        RolledBackWithout(Without("web", last=9), 5, "o", 1, 2, 3, 4, 0),
        {
            "examples": 5,
            "order": "o",
            "without": {"source": "web", "last": 9},
            "first": 1,
            "again": 2,
            "left_out": 3,
            "forgotten": 4,
            "rows_lost": 0,
        },
    ),
    ("challenger", "challenger", Challenged(5, LEARNED, "o"), {"examples": 5, "learned": [7, 3], "order": "o"}),
    ("challenger", "challenger", Challenged(5, LEARNED), {"examples": 5, "learned": [7, 3]}),
    ("challenger", "", Shadowed(5, "o"), {"examples": 5, "order": "o"}),
    (
        "challenger",
        "",
        Merged(MergeRecipe(MERGE, ["a", "b"], ""), 5, "o", {"a": LEARNED}, LEARNED),
        {
            "examples": 5,
            "order": "o",
            "merge": {**MERGE, "parents": ["a", "b"], "ancestor": ""},
            "grown": {"a": [7, 3]},
            "learned": [7, 3],
        },
    ),
    ("withdraw", "", Withdrawn(5, "o"), {"examples": 5, "order": "o"}),
    ("withdraw", "", Withdrawn(5, learned=LEARNED), {"examples": 5, "learned": [7, 3]}),
    ("reject", "", CandidateRejected(5), {"examples": 5}),
    ("reject", "", ModelExpelled(5, "shadow", 4), {"examples": 5, "role": "shadow", "contestant": 4}),
    ("reject", "", OrderRejected(5, ""), {"examples": 5, "order": ""}),
    (
        "erase",
        "",
        Erasure(["user"], "s", "d", {"label": 2}, {"a": "b"}, 1, 3, 7, {"f": 9}),
        {
            "fields": ["user"],
            "salt": "s",
            "digest": "d",
            "events": {"label": 2},
            "versions": {"a": "b"},
            "forgotten": 1,
            "relearned": 3,
            "first": 7,
            "taken": {"f": 9},
        },
    ),
    (
        "config",
        "",
        SettingsChanged({"tick": 5, "gate": {"alpha": 0.1}}, 9),
        {"tick": 5, "gate": {"alpha": 0.1}, "number": 9},
    ),
    ("config", "", SettingsChanged({"tick": 5}, 9, {"tick": 5}), {"tick": 5, "number": 9, "spec": {"tick": 5}}),
    ("config", "", WarmStart(100), {"warm_rows": 100}),
    ("order", "", PromoteOrder("o"), {"order": "o", "ask": "promote"}),
    ("order", "", PromoteOrder("o", "key"), {"order": "o", "ask": "promote", "token": "key"}),
    ("order", "", RollBackOrder("o"), {"order": "o", "ask": "rollback"}),
    ("order", "", RollBackOrder("o", Without(first=3)), {"order": "o", "ask": "rollback", "without": {"first": 3}}),
    (
        "order",
        "",
        ChallengeOrder({"family": "linear"}, "o", False),
        {"order": "o", "ask": "challenge", "model": {"family": "linear"}, "warm": False},
    ),
    ("order", "", ShadowOrder("o"), {"order": "o", "ask": "shadow"}),
    (
        "order",
        "",
        MergeOrder(MergeRequest(["champion", "b"], ["a", "b"], MERGE, "c"), "o"),
        {
            "order": "o",
            "ask": "merge",
            "merge": {"parents": ["champion", "b"], "versions": ["a", "b"], **MERGE, "ancestor": "c"},
        },
    ),
    ("order", "", WithdrawOrder("o"), {"order": "o", "ask": "withdraw"}),
]


def decision(action: Any, alias: str, detail: dict[str, Any]) -> Decision:
    return Decision(action, 1, "why", "loop", alias, "v", detail=detail)


@pytest.mark.parametrize(("action", "alias", "record", "wire"), KINDS)
def test_a_record_is_the_same_dict_in_the_log(action: str, alias: str, record: Detail, wire: dict[str, Any]) -> None:
    assert json.dumps(write(record)) == json.dumps(wire)  # the order of keys, too
    assert read(decision(action, alias, wire)) == record


@pytest.mark.parametrize(("action", "alias", "record", "wire"), [kind for kind in KINDS if kind[0] != "config"])
def test_keys_of_a_newer_release_are_ignored(action: str, alias: str, record: Detail, wire: dict[str, Any]) -> None:
    assert read(decision(action, alias, wire | {"unheard": {"of": 1}})) == record


@pytest.mark.parametrize(
    ("action", "alias", "record"),
    [
        ("start", "champion", Started()),
        ("promote", "champion", Promoted()),
        ("rollback", "champion", RolledBack()),
        ("challenger", "challenger", Challenged()),
        ("challenger", "", Shadowed()),
        ("withdraw", "", Withdrawn()),
        ("reject", "", CandidateRejected()),
        ("erase", "", Erasure()),
        ("config", "", SettingsChanged()),
        ("order", "", UnknownOrder()),
    ],
)
def test_an_old_log_that_lacks_keys_gets_defaults(action: str, alias: str, record: Detail) -> None:
    assert read(decision(action, alias, {})) == record


def test_an_order_of_a_newer_release_is_read_as_unknown() -> None:
    assert read(decision("order", "", {"order": "o", "ask": "sing", "key": "C"})) == UnknownOrder("o", "sing")


@pytest.mark.parametrize(
    ("action", "detail"),
    [
        ("order", {"order": "o", "ask": "challenge"}),
        ("order", {"order": "o", "ask": "rollback", "without": {"sauce": "x"}}),
        ("promote", {"learned": "everything"}),
    ],
)
def test_a_known_key_of_another_type_is_an_error(action: str, detail: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="this decision cannot be read: .*upgrade"):
        read(decision(action, "", detail))


def test_what_every_decision_may_say() -> None:
    done, bare = decision("promote", "", {"examples": 5, "order": "o"}), decision("drift", "", {})
    assert (examples(done), order_id(done)) == (5, "o")
    assert (examples(bare), order_id(bare)) == (0, None)
    merged = decision("challenger", "", {"grown": {"a": [1, 2]}, "learned": [3, 4]})
    assert progress(merged) == {"a": Progress(1, 2), "v": Progress(3, 4)}
    assert progress(bare) == {}
    assert replaced(decision("erase", "", {"versions": {"a": "b"}})) == {"a": "b"}
    assert replaced(decision("config", "", {"versions": {"a": "b"}})) == {}
    assert with_token(decision("order", "", {"order": "o"}), "key").detail == {"order": "o", "token": "key"}


def test_a_selection_of_labels_is_by_source_by_position_or_by_both() -> None:
    web, other = Label("a", 1, source="web/shop"), Example("b", {}, 1, source="webs")
    assert [Without("web").selects(9, one) for one in (web, other)] == [True, False]
    assert [Without(first=3, last=5).selects(at, web) for at in (2, 3, 5, 6)] == [False, True, True, False]
    assert [Without(first=3).selects(at, other) for at in (2, 99)] == [False, True]
    assert not Without("web", first=3).selects(2, web)
    assert not Without().selects(1, Prediction("p", {}, 1, (0.5, 0.5), "v"))
