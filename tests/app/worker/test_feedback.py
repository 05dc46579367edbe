"""POST /feedback and POST /learn: rows that are taken, rows that are refused, and ids that name one record."""

from __future__ import annotations

import pytest

from everlearn.records import Example, Label, Preference, Reward
from tests.support.pairs import asking
from tests.support.workers import BINARY, FIELDS, RECORD


def test_feedback_is_taken_once_and_corrections_are_kept(start):
    site = start()
    site.once("/predict", {"features": RECORD, "id": "p"})
    assert site.once("/feedback", {"id": "p", "label": "yes"}).json() == {"accepted": 1, "known": 0}
    assert site.once("/feedback", {"id": "p", "label": "yes"}).json() == {"accepted": 1, "known": 1}
    body = {
        "feedback": [{"id": "p", "label": "no", "weight": 0.5, "source": "desk"}] * 2 + [{"id": "p", "label": "yes"}]
    }
    assert site.once("/feedback", body).json() == {"accepted": 3, "known": 2}
    told = [event.payload for event in site.events()[1:]]
    assert told == [Label("p", "yes"), Label("p", "no", 0.5, "desk")]


def test_an_id_for_two_examples_of_one_request_is_given_to_the_first(start):
    site = start()
    rows = [{"features": RECORD, "label": label, "id": id} for label, id in (("yes", "e"), ("no", "e"), ("no", "f"))]
    reply = site.once("/learn", {"examples": [*rows, rows[0]]}).json()
    assert (reply["accepted"], reply["ids"]) == (3, ["e", "f", "e"])
    assert reply["errors"] == [
        {"index": 1, "detail": "the id 'e' names another example of this request; use another id"}
    ]
    assert [event.payload.id for event in site.events()] == ["e", "f"]


def test_a_regression_learns_from_rewards(start):
    site = start({"schema": {"label": "y", "task": "regression", "fields": FIELDS}})
    site.once("/predict", {"features": RECORD, "id": "p"})
    assert site.once("/feedback", {"id": "p", "reward": 2.5}).status == 200
    assert site.events()[-1].payload == Reward("p", 2.5)


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"id": "nobody", "label": "yes"}, 404, "no prediction with id 'nobody'"),
        ({"id": "p", "label": "maybe"}, 422, "got the label 'maybe', expected one of 'no', 'yes'"),
        ({"id": "p"}, 422, "exactly one of label, reward and chosen; got 0"),
        ({"id": "p", "label": "yes", "chosen": 0}, 422, "got 2 of them"),
        ({"id": "p", "label": None}, 422, "got 0 of them"),
        ({"id": "p", "reward": 1.0}, 422, "send a label"),
        ({"id": "p", "chosen": 0}, 422, "send a label"),
        ({"id": "p", "label": "yes", "weight": -1}, 422, "weight: got -1"),
        ({"id": "p", "label": "yes", "weight": 1e31}, 422, "weight: got 1e+31"),
        ({"id": "p", "labels": "yes"}, 422, "unknown field"),
        ({"label": "yes"}, 422, "missing required field `id`"),
        ({"feedback": []}, 422, "length >= 1"),
        ({"feedback": [{"id": "p", "label": "yes"}], "id": "p"}, 422, "unknown field"),
        ({"id": "p", "label": "yes", "source": "x" * 201}, 422, "length <= 200"),
        (b'{"id": "p", "label": NaN}', 400, "not JSON"),
        (b'{"id": "p", "label": "yes", "weight": 1e999}', 422, "out of range"),
        (b"", 400, "not JSON"),
    ],
)
def test_feedback_that_cannot_be_used_is_refused_in_words(start, body, status, said):
    site = start()
    site.once("/predict", {"features": RECORD, "id": "p"})
    reply = site.once("/feedback", body)
    assert reply.status == status
    assert said in reply.json()["detail"]
    assert len(site.events()) == 1


def test_of_several_judgements_the_good_ones_are_taken(start):
    site = start()
    site.once("/predict", {"features": RECORD, "id": "p"})
    rows = [{"id": "nobody", "label": "no"}, {"id": "p", "label": "yes"}, {"id": 3}, {"id": "p", "label": "maybe"}]
    reply = site.once("/feedback", {"feedback": rows}).json()
    assert (reply["accepted"], [one["index"] for one in reply["errors"]]) == (1, [0, 2, 3])
    assert "'nobody'" in reply["errors"][0]["detail"]
    assert site.events()[-1].payload == Label("p", "yes")
    assert site.once("/feedback", {"feedback": [rows[0], rows[2]]}).status == 404


def test_early_feedback_is_taken_where_it_may_come(start):
    site = start({**BINARY, "feedback": {"early": 60.0}})
    assert site.once("/feedback", {"id": "soon", "label": "yes"}).json() == {"accepted": 1, "known": 0}
    assert site.once("/feedback", {"id": "soon", "label": "maybe"}).status == 422


def test_early_feedback_without_room_is_refused_and_is_not_a_matter_of_rates(start):
    site = start({**BINARY, "feedback": {"early": 60.0, "bytes": 60_000}})
    statuses = [site.once("/feedback", {"id": f"soon {i}", "label": "yes"}).status for i in range(9)]
    assert statuses.count(429) > 3
    assert site.once("/feedback", {"id": "soon", "label": "yes"}, parts=2).status == 429
    assert "limited" not in site.counts


def test_examples_are_taken_once_under_their_key(start):
    site = start()
    one = {"features": RECORD, "label": "yes", "weight": 2.0, "id": "e1", "source": "shop"}
    assert site.once("/learn", one).json() == {"accepted": 1, "ids": ["e1"]}
    assert site.once("/learn", one).json() == {"accepted": 1, "ids": ["e1"]}
    assert site.once("/learn", {**one, "label": "no"}).status == 409
    assert [event.payload for event in site.events()] == [Example("e1", RECORD, "yes", 2.0, "shop")]
    rows = [{**one, "label": "no"}, {"features": {"a": "x"}, "label": "no"}, {"features": RECORD, "label": "no"}]
    reply = site.once("/learn", {"examples": rows}).json()
    assert (reply["accepted"], len(reply["ids"]), [e["index"] for e in reply["errors"]]) == (1, 1, [0, 1])
    assert reply["errors"][1]["detail"] == "field 'a': got 'x', expected a number"


# ---- judgements of pairs --------------------------------------------------------------------------------------------

PAIRS = {"schema": {"label": "chosen", "task": "preference", "fields": {"prompt": "text"}, "vocabulary": 32}}


def test_judgements_of_pairs_are_taken(start):
    site = start(PAIRS)
    site.worker.warm()
    site.log.append([asking("p", 1), asking("single", 2, "chat")])
    first = {"id": "p", "chosen": 0, "source": "people/anna", "seconds": 2.5, "why": "kinder"}
    assert site.once("/feedback", first).json() == {"accepted": 1, "known": 0}
    assert site.once("/feedback", first | {"seconds": 9.0, "why": ""}).json() == {"accepted": 1, "known": 1}
    body = {"feedback": [{"id": "p", "verdict": "tie"}, {"id": "p", "verdict": "skip"}, {"id": "p", "chosen": -1}]}
    assert site.once("/feedback", body).json() == {"accepted": 3, "known": 0}
    assert site.once("/feedback", {"id": "single", "reward": 0.75}).json() == {"accepted": 1, "known": 0}
    assert [event.payload for event in site.events()[2:]] == [
        Preference("p", 0, 1.0, "people/anna", "choice", 2.5, "kinder"),
        Preference("p", -1, verdict="tie"),
        Preference("p", -1, verdict="skip"),
        Preference("p", -1),
        Reward("single", 0.75),
    ]


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("/feedback", {"id": "p", "label": 1}, "send `chosen`"),
        ("/feedback", {"id": "p", "chosen": 2}, "chosen: got 2 for 'p'; expected 0 or 1"),
        ("/feedback", {"id": "p", "chosen": -2}, "chosen: expected `int` >= -1"),
        ("/feedback", {"id": "p", "chosen": 0, "verdict": "tie"}, "beside the verdict 'tie'"),
        ("/feedback", {"id": "p", "chosen": 0, "verdict": "win"}, "verdict: invalid enum value 'win'"),
        ("/feedback", {"id": "p", "chosen": 0, "seconds": -1}, "seconds: expected `float` >= 0.0"),
        ("/feedback", {"id": "p", "reward": 1.0}, "expected `chosen` or a `verdict`"),
        ("/predict", {"features": {"prompt": "p"}}, "this loop learns preferences"),
        ("/learn", {"features": {"prompt": "p"}, "label": 1}, "this loop learns preferences"),
    ],
)
def test_what_is_no_judgement_of_a_pair_is_refused(start, path, body, message):
    site = start(PAIRS)
    site.log.append([asking("p", 1)])
    reply = site.once(path, body)
    assert (reply.status, len(site.events())) == (422, 1)
    assert message in reply.json()["detail"]
